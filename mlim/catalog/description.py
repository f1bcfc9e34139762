"""catalog.yaml: where a catalog lies, which column means what, and which variations make a match."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlim.catalog.pair_rules import PairRules
from mlim.config import Config, parse, read_yaml
from mlim.errors import InputError

ENVIRONMENT_VARIABLE = re.compile(r"\$\{(\w+)\}")
PLACES = ("table", "images", "abo.folder", "huggingface.dataset", "pairs.labelled")  # may be relative to the file
NAMES_OR_PLACES = ("huggingface.dataset",)


class TextColumn(Config):
    """A column the model reads; with a label the text says `label: value`. A plain string means no label."""

    column: str
    label: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given


class Columns(Config):
    """What the columns of the table mean."""

    id: str = Field(description="names an item; unique, read as text (leading zeros stay)")
    image: str = Field(description="the picture: a path in the images folder or archive, a URL, or its bytes (Parquet)")
    family: str | None = Field(default=None, description="items with the same value are variations of one product")
    category: str | None = Field(default=None, description="the shop's own grouping; drift and samples look at it")
    text: tuple[TextColumn, ...] = Field(min_length=1, description="what the model reads, in this order")


class SyntheticSource(Config):
    """How many items `source: synthetic` draws."""

    items: PositiveInt
    seed: NonNegativeInt = 0
    image_size: PositiveInt = Field(default=96, description="side of the drawn pictures, pixels")


class Download(Config):
    """How pictures are fetched where the image column holds http(s) addresses."""

    allow_private: bool = Field(default=False, description="also fetch from private, loopback and link-local addresses")
    timeout_seconds: PositiveFloat = Field(default=20.0, description="for a connection, and for the whole picture")
    retries: NonNegativeInt = Field(default=3, description="after a lost connection, 429 or 5xx")
    backoff_seconds: NonNegativeFloat = Field(default=0.5, description="before the first retry; doubles each time")
    per_host: PositiveInt = Field(default=8, description="downloads from one host at a time")
    redirects: NonNegativeInt = Field(default=5, description="how many to follow; each is checked like the first")


class AboSource(Config):
    """Amazon Berkeley Objects in its published layout."""

    folder: Path = Field(description="holds listings/ and images/")
    languages: tuple[str, ...] = Field(
        default=("en_US", "en_*", "*"), min_length=1, description="which texts to take, the best first; * is any"
    )
    pictures: Literal["main", "all"] = Field(default="main", description="one item per listing, or one per picture")
    size: Literal["small", "original"] = "small"
    max_picture_uses: PositiveInt = Field(
        default=500, description="a picture on more listings than this is boilerplate, not a photo of the product"
    )
    family_by: tuple[str, ...] = Field(
        default=("brand", "model_name", "product_type"),
        min_length=1,
        description="listings equal in these are one family",
    )


class HuggingFaceSource(Config):
    """A data set of Hugging Face: a folder saved by `datasets`, or a name on the hub."""

    dataset: str = Field(description="a local folder or the name on the hub")
    config: str | None = None
    split: str = "train"
    revision: str | None = Field(default=None, description="commit or tag on the hub; without it the newest")


class Ceilings(Config):
    """PR-AUC of readers that make no mistake, over all pairs of a catalog whose maker knows what can be read."""

    text: float = Field(ge=0, le=1, description="who sees the texts only")
    image: float = Field(ge=0, le=1, description="who sees the pictures only")
    both: float = Field(ge=0, le=1)


class CatalogDescription(Config):
    """The whole catalog.yaml. A synthetic catalog is drawn first, then read as a table is."""

    source: Literal["table", "synthetic", "abo", "huggingface"] = "table"
    table: Path | None = Field(
        default=None,
        description="one file or a pattern (`items/*.csv.gz`): .csv, .tsv, .jsonl, .ndjson, .parquet, + .gz",
    )
    encoding: str = Field(default="utf-8", description="of text tables; a byte-order mark is fine")
    images: Path | None = Field(
        default=None, description="the folder of the pictures, or one or more .tar/.zip archives (`photos/*.tar`)"
    )
    download: Download = Download()
    abo: AboSource | None = None
    huggingface: HuggingFaceSource | None = None
    synthetic: SyntheticSource | None = None
    columns: Columns
    pairs: PairRules = PairRules()
    ceilings: Ceilings | None = Field(default=None, description="of the embedded catalog, which is drawn")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        pairs = self.pairs.problems(self.text_columns, self.columns.family)
        problems = [*self._source_problems(), *self._text_problems(), *pairs]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _source_problems(self) -> list[str]:
        missing = getattr(self, self.source) is None
        return [f"missing key `{self.source}` (source is {self.source})"] if missing else []

    def _text_problems(self) -> list[str]:
        counts = Counter(text.column for text in self.columns.text)
        return [f"columns.text names `{column}` twice" for column, count in counts.items() if count > 1]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns the model reads, in order."""
        return tuple(text.column for text in self.columns.text)

    @property
    def fact_columns(self) -> tuple[str, ...]:
        """The columns that the pair rules read, in order and once each."""
        return self.pairs.columns

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column of the table that is read, once each."""
        grouping = [name for name in (self.columns.family, self.columns.category) if name is not None]
        names = (self.columns.id, self.columns.image, *grouping, *self.text_columns, *self.fact_columns)
        return tuple(dict.fromkeys(names))


def load_description(path: Path) -> CatalogDescription:
    """The catalog.yaml at `path`; its places may be relative to it and use ${VARIABLES}.

    `InputError` lists every problem at once.
    """
    values, problems = _with_places(_with_known_columns(read_yaml(path)), path)
    try:
        description = parse(CatalogDescription, values, str(path))
    except InputError as error:
        raise InputError(*problems, *error.problems) from None
    if problems:
        raise InputError(*problems)
    return description


def check_pair_rules(description: CatalogDescription, where: str) -> None:
    """`InputError` led by `where` unless the description tells which items make pairs."""
    if description.pairs.labelled is None and not description.pairs.decided_by:
        raise InputError(
            f"{where}: nothing tells which items make pairs; add columns.family (the column that groups the "
            "variations of a product) and pairs.decided_by (the columns that decide a match), or pairs.labelled (a "
            "table with item_a, item_b, label)"
        )


def _with_known_columns(values: dict[str, Any]) -> dict[str, Any]:
    """The values; a source whose columns are known brings them and its pairs, so they may be left out."""
    known = _known_columns(values.get("source"))
    return {**{key: known[key] for key in ("columns", "pairs") if key in known}, **values}


def _known_columns(source: Any) -> dict[str, Any]:
    """What a source tells of itself; the modules are loaded only here: a table needs none of them."""
    if source == "synthetic":
        from mlim.catalog.synthetic import generate

        return generate.describe()
    if source == "abo":
        from mlim.catalog.sources import abo

        return abo.describe()
    return {}


def _with_places(values: dict[str, Any], file: Path) -> tuple[dict[str, Any], list[str]]:
    """The values with every place made a path from here, and a problem for each environment variable that is unset."""
    placed, problems = dict(values), []
    for key in PLACES:
        section, _, name = key.rpartition(".")
        node = placed.get(section) if section else placed
        if not isinstance(node, dict) or not isinstance(node.get(name), str):
            continue
        unset = [found for found in ENVIRONMENT_VARIABLE.findall(node[name]) if not os.environ.get(found)]
        problems += [
            f"{file}: `{key}` needs the environment variable {found}, which is not set; export {found}=FOLDER"
            for found in unset
        ]
        changed = {**node, name: _place(node[name], key, file.parent)}
        placed = {**placed, section: changed} if section else changed
    return placed, problems


def _place(text: str, key: str, folder: Path) -> str:
    """A place as a path from here: relative ones stand beside the YAML file. A hub's name stays a name."""
    path = folder / Path(ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], ""), text)).expanduser()
    return text if key in NAMES_OR_PLACES and not path.exists() else str(path)
