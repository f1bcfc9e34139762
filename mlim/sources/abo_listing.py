"""One listing of Amazon Berkeley Objects -> cells of text.

Real records differ from the published description, so nothing is taken for granted: a field may be missing, a bare
value, one object or a list of them, with or without a language.
"""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from mlim.catalog.texts import clean_text
from mlim.sources.text import LIST_SEPARATOR, as_text

Listing = Mapping[str, Any]
Entry = Mapping[str, Any]
Languages = tuple[str, ...]  # patterns of language tags, the best first

SIZE_SEPARATOR = " x "
SIDES = ("length", "width", "height")
TAGS_KEPT = 4096  # language tags whose rank is remembered; the data set has a few dozen

PLAIN_FIELDS = ("item_id", "domain_name", "country", "marketplace")
LANGUAGE_FIELDS = (
    "product_type",
    "brand",
    "item_name",
    "bullet_point",
    "color",
    "material",
    "pattern",
    "style",
    "fabric_type",
    "finish_type",
    "item_shape",
    "model_name",
    "model_number",
    "model_year",
    "item_keywords",
)
SHAPED_FIELDS = ("color_standard", "color_language", "product_description", "node", "item_dimensions", "item_weight")


def listing_cell(listing: Listing, column: str, languages: Languages) -> str:
    """The text of one of the columns above; "" where the listing does not have it."""
    if column in PLAIN_FIELDS:
        return _text(listing.get(column))
    if column in LANGUAGE_FIELDS:
        return _joined(entry.get("value") for entry in chosen_entries(listing.get(column), languages))
    return _SHAPED[column](listing, languages)


def listing_key(listing: Listing) -> str:
    """`item_id@domain_name`: one item is sold under several domains; "" without an item_id."""
    item, domain = _text(listing.get("item_id")), _text(listing.get("domain_name"))
    return f"{item}@{domain}" if item and domain else item


def picture_ids(listing: Listing) -> list[str]:
    """The ids of a listing's pictures, the main one first, each once."""
    main, others = listing.get("main_image_id"), listing.get("other_image_id")
    ids = (main, *(others if isinstance(others, list) else (others,)))
    return list(dict.fromkeys(name for name in map(_text, ids) if name))


def chosen_entries(field: Any, languages: Languages) -> list[Entry]:
    """The entries of a field in the best language it has: that of the first pattern which one of its tags matches.

    Where a pattern matches several tags, the first in the listing counts. Entries without a language (numbers) fit
    every reader, so they are the last resort; other languages are no resort at all.
    """
    chosen, best, best_tag = list[Entry](), len(languages) + 1, ""
    for entry in _entries(field):
        tag = _text(entry.get("language_tag"))
        rank = _rank(tag, languages)
        if rank < best:
            chosen, best, best_tag = [entry], rank, tag
        elif chosen and tag == best_tag:
            chosen.append(entry)
    return chosen


def _entries(field: Any) -> list[Entry]:
    """A field in any of its shapes as a list of objects with a `value`."""
    values = field if isinstance(field, list) else [field]
    return [value if isinstance(value, dict) else {"value": value} for value in values if value is not None]


def _text(value: Any) -> str:
    """`as_text`, quick for what nearly every value is."""
    return value if type(value) is str and value.isascii() else as_text(value)


@lru_cache(maxsize=TAGS_KEPT)
def _rank(tag: str, patterns: Languages) -> int:
    """Place of the first pattern that a language tag matches; behind them for no tag, still further if unwanted."""
    for rank, pattern in enumerate(patterns):
        if fnmatchcase(tag, pattern):
            return rank
    return len(patterns) + bool(tag)


def _joined(values: Iterable[Any]) -> str:
    """The different values in order, on one line."""
    texts = [" ".join(_text(value).split()) for value in values]
    return LIST_SEPARATOR.join(dict.fromkeys(text for text in texts if text))


def _color_standard(listing: Listing, languages: Languages) -> str:
    standard = (entry.get("standardized_values") for entry in chosen_entries(listing.get("color"), languages))
    return _joined(value for values in standard for value in (values if isinstance(values, list) else [values]))


def _color_language(listing: Listing, languages: Languages) -> str:
    """`en` of `en_US`: colours in two languages cannot be compared."""
    chosen = chosen_entries(listing.get("color"), languages)
    return _text(chosen[0].get("language_tag")).partition("_")[0] if chosen else ""


def _product_description(listing: Listing, languages: Languages) -> str:
    chosen = chosen_entries(listing.get("product_description"), languages)
    return _joined(clean_text(_text(entry.get("value"))) for entry in chosen)


def _node(listing: Listing, languages: Languages) -> str:
    """Name of the last node of the shop's tree that the listing stands under."""
    nodes = _entries(listing.get("node"))
    return _joined([nodes[-1].get("node_name", nodes[-1].get("value"))]) if nodes else ""


def _item_dimensions(listing: Listing, languages: Languages) -> str:
    """`12 x 12 x 1.5 inches`: length, width, height, as far as they are known."""
    sides = listing.get("item_dimensions")
    found = [_measure(sides.get(side)) for side in SIDES] if isinstance(sides, dict) else []
    known = [(number, unit) for number, unit in found if number]
    if len({unit for _, unit in known}) == 1:
        return f"{SIZE_SEPARATOR.join(number for number, _ in known)} {known[0][1]}".strip()
    return SIZE_SEPARATOR.join(f"{number} {unit}".strip() for number, unit in known)


def _item_weight(listing: Listing, languages: Languages) -> str:
    weights = _entries(listing.get("item_weight"))
    return " ".join(_measure(weights[0])).strip() if weights else ""


def _measure(measured: Any) -> tuple[str, str]:
    """Number and unit, normalised where the listing says so; empty texts for none."""
    if not isinstance(measured, dict):
        return "", ""
    normalized = measured.get("normalized_value")
    best = normalized if isinstance(normalized, dict) else measured
    return _text(best.get("value")), _text(best.get("unit"))


_SHAPED: Mapping[str, Callable[[Listing, Languages], str]] = {
    "color_standard": _color_standard,
    "color_language": _color_language,
    "product_description": _product_description,
    "node": _node,
    "item_dimensions": _item_dimensions,
    "item_weight": _item_weight,
}
