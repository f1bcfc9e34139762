"""How far a catalog is from the one that a model was trained on: columns, texts and pictures of another kind."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from mlim.catalog.values import DEFAULT, Comparison
from mlim.config import Config, parse
from mlim.files import read_json
from mlim.quality.profile import CATEGORY, Profile, compare
from mlim.recipe.data import DriftConfig

INDEX, PROFILE = "index.parquet", "profile.json"
SAMPLED: Final = 1000  # items whose text columns are looked at
PICTURES: Final = ("brightness", "contrast", "aspect")
MEASURES: Final[Mapping[str, str]] = {  # in words
    CATEGORY: "shares of the categories",
    "text": "lengths of the texts",
    "brightness": "brightnesses of the pictures",
    "contrast": "contrasts of the pictures",
    "aspect": "aspect ratios of the pictures",
}


class CatalogProfile(Config):
    """What is kept of a catalog: its text columns, in alphabetical order, and the profile of its accepted items."""

    columns: tuple[str, ...]
    profile: Profile


class Drift(Config):
    """One measure that moved beyond its limit, or the columns that did."""

    measure: str
    sentence: str


def read_profile(valid: Path) -> CatalogProfile | None:
    """The profile of the items in the folder of `mlim validate`; None where that left none."""
    if not (valid / PROFILE).is_file() or not (valid / INDEX).is_file():
        return None
    first = next(pq.ParquetFile(valid / INDEX).iter_batches(SAMPLED, columns=["attributes"]), None)
    known = [] if first is None else [json.loads(each) for each in first["attributes"].to_pylist()]
    columns = sorted({name for attributes in known for name in attributes})
    profile = parse(Profile, read_json(valid / PROFILE), str(valid / PROFILE))
    return CatalogProfile(columns=tuple(columns), profile=profile)


def drift_of(
    known: CatalogProfile, present: CatalogProfile, limits: DriftConfig, category: Comparison = DEFAULT
) -> Iterator[Drift]:
    """What about a catalog is not as the model knows it, beyond chance and beyond the limits; a sentence for each."""
    lacking = [name for name in known.columns if name not in present.columns]
    if lacking:
        yield Drift(
            measure="columns",
            sentence=f"the model was trained with the text columns {', '.join(known.columns)}, and this catalog has no "
            f"{', '.join(lacking)}; name the same columns in catalog.yaml (columns.text), or train on this catalog",
        )
    if not present.profile.items:
        return
    for moved in compare(known.profile, present.profile, category):
        limit = _limit(moved.measure, limits)
        if moved.excess > limit:
            yield Drift(
                measure=moved.measure,
                sentence=f"the {MEASURES[moved.measure]} of this catalog are not those that the model was trained on: "
                f"they differ by {moved.excess:.2f} bits beyond chance (limit {limit:g}; 0 is equal, 1 has nothing in "
                "common), so that scores and threshold may not hold; label some pairs (`mlim review`) and evaluate",
            )


def _limit(measure: str, limits: DriftConfig) -> float:
    if measure == CATEGORY:
        return limits.max_category_divergence
    return limits.max_image_divergence if measure in PICTURES else limits.max_text_divergence
