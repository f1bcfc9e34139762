"""catalog.yaml: where a catalog lies, which column means what, and which variations make a match."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mlim.catalog.annotation_rules import AnnotationRules
from mlim.catalog.defaults import describe_abo, describe_embedded
from mlim.catalog.headers import header_problems
from mlim.catalog.match_rules import MatchRules
from mlim.catalog.pair_rules import PairRules
from mlim.catalog.values import Values
from mlim.config import ENVIRONMENT_VARIABLE, Config, nearest, parse, read_yaml
from mlim.errors import InputError

PLACES = ("table", "images", "abo.folder", "huggingface.dataset", "pairs.labelled")  # may be relative to the file
NAMES_OR_PLACES = ("huggingface.dataset",)


def read_delimiter(given: Any) -> str:
    """One character that may stand between cells; `tab` and `\\t` are names of the tab. `ValueError` for others."""
    character = "\t" if given in ("tab", "\\t") else given
    if not isinstance(character, str) or len(character) != 1 or character in '"\r\n\0':
        raise ValueError(f'must be one character in quotes, such as ";" or "|", or tab; it is {given!r}')
    return character


Delimiter = Annotated[str, BeforeValidator(read_delimiter)]


class TextColumn(Config):
    """A column the model reads; with a label the text says `label: value`. A plain string means the column alone."""

    column: str
    label: str | None = None
    clean: bool = Field(default=True, description="read the words alone, without HTML tags and entities")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given


class ImageColumn(Config):
    """The column of the pictures; a plain string is its name. Of several pictures in a cell the first is taken."""

    column: str
    choose: Literal["first", "all"] = Field(
        default="first", description="of several pictures in one cell; `all`: pre-training sees another one each epoch"
    )
    most: PositiveInt = Field(default=16, description="pictures that `all` takes from one cell; the rest is counted")
    separator: str | None = Field(default=None, min_length=1, description="between them; without one it is found")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given


class Columns(Config):
    """What the columns of the table mean."""

    id: str = Field(description="names an item; unique, read as text (leading zeros stay)")
    image: ImageColumn = Field(
        description="the picture: a path in the images folder or archive, a URL, or its bytes (Parquet)"
    )
    family: str | None = Field(default=None, description="items with the same value are variations of one product")
    category: str | None = Field(default=None, description="the shop's own grouping; drift and samples look at it")
    split: str | None = Field(
        default=None, description="train, validation or test, as its maker split the catalog; without one it is drawn"
    )
    inherit: tuple[str, ...] = Field(
        default=(), description="where blank, the value of the family's first row that has one before it"
    )
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
    user_agent: str = Field(
        default="mlim", pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$", description="what it says it is"
    )
    headers: Mapping[str, str] = Field(default={}, description="sent along; secrets as ${VARIABLE} of the environment")
    header_hosts: tuple[str, ...] = Field(
        default=(), description="who gets these headers; without any, every host that the catalog itself names"
    )

    @model_validator(mode="after")
    def _proper_headers(self) -> Self:
        problems = list(header_problems(self.headers))
        if problems:
            raise ValueError("; ".join(f"headers: {problem}" for problem in problems))
        return self


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
    delimiter: Delimiter | None = Field(
        default=None, description="of .csv and .tsv: one character, or `tab`; without it the first lines tell"
    )
    images: Path | None = Field(
        default=None, description="the folder of the pictures, or one or more .tar/.zip archives (`photos/*.tar`)"
    )
    download: Download = Download()
    abo: AboSource | None = None
    huggingface: HuggingFaceSource | None = None
    synthetic: SyntheticSource | None = None
    columns: Columns
    values: Values = Values()
    pairs: PairRules = PairRules()
    matching: MatchRules = MatchRules()
    annotations: AnnotationRules | None = Field(default=None, description="boxes, captions, questions, statements")
    ceilings: Ceilings | None = Field(default=None, description="of the embedded catalog, which is drawn")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if getattr(self, self.source) is None:
            problems.append(f"missing key `{self.source}` (source is {self.source})")
        counts, known = Counter(self.text_columns), self.needed_columns
        problems += [f"columns.text names `{column}` twice" for column, count in counts.items() if count > 1]
        unknown = [name for name in self.values.columns if name not in known]
        problems += [f"values.columns: no column `{name}` is read{nearest(name, known)}" for name in unknown]
        if self.annotations is not None:
            problems += self.annotations.problems(self.pairs.decided_by)
        problems += [*self._inherit_problems(), *self.pairs.problems(self.text_columns, self.columns.family)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _inherit_problems(self) -> list[str]:
        columns, known = self.columns, self.needed_columns
        if columns.inherit and columns.family is None:
            return ["columns.inherit needs columns.family: rows inherit from the first row of their family"]
        own = [name for name in columns.inherit if name in (columns.id, columns.family)]
        unknown = [name for name in columns.inherit if name not in known]
        return [
            *(f"columns.inherit names `{name}`, which each row must say itself" for name in own),
            *(f"columns.inherit: no column `{name}` is read{nearest(name, known)}" for name in unknown),
        ]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns the model reads, in order."""
        return tuple(text.column for text in self.columns.text)

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """The columns that the model does not read but pairs, matches or annotations do, in order and once each."""
        annotated = () if self.annotations is None else self.annotations.columns
        others = (name for name in (*self.matching.columns, *annotated) if name not in self.text_columns)
        split = () if self.columns.split is None else (self.columns.split,)
        return tuple(dict.fromkeys((*self.pairs.columns, *others, *split)))

    @property
    def compared_columns(self) -> tuple[str, ...]:
        """The columns whose values are compared with each other, once each (`values` says how)."""
        grouping = [name for name in (self.columns.family, self.columns.category) if name is not None]
        names = (self.columns.id, *grouping, *self.metadata_columns, *self.pairs.must_agree(self.text_columns))
        return tuple(dict.fromkeys(names))

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column of the table that is read, once each."""
        grouping = [name for name in (self.columns.family, self.columns.category) if name is not None]
        names = (self.columns.id, self.columns.image.column, *grouping, *self.text_columns, *self.metadata_columns)
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
    """`InputError` led by `where` unless the description tells which items make pairs, or that none do."""
    if description.pairs.none:
        return
    if description.pairs.labelled is None and not description.pairs.decided_by:
        raise InputError(
            f"{where}: nothing tells which items make pairs; add columns.family (the column that groups the "
            "variations of a product) and pairs.decided_by (the columns that decide a match), or pairs.labelled (a "
            "table with item_a, item_b, label), or say `pairs: none`"
        )


def _with_known_columns(values: dict[str, Any]) -> dict[str, Any]:
    """The values; a source whose columns are known brings them and its pairs, so they may be left out."""
    known: dict[str, Any]
    match values.get("source"):
        case "synthetic":
            known = describe_embedded()
        case "abo":
            known = describe_abo()
        case _:
            known = {}
    return {**{key: known[key] for key in ("columns", "pairs") if key in known}, **values}


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
    annotations = placed.get("annotations")
    if isinstance(annotations, dict) and "files" in annotations:
        found = _placed_files(annotations["files"], file.parent)
        placed = {**placed, "annotations": {**annotations, "files": found}}
    return placed, problems


def _placed_files(node: Any, folder: Path) -> Any:
    """All texts below `annotations.files` as paths from here."""
    match node:
        case str():
            return _place(node, "annotations.files", folder)
        case list():
            return [_placed_files(inner, folder) for inner in node]
        case dict():
            return {name: _placed_files(inner, folder) for name, inner in node.items()}
        case _:
            return node


def _place(text: str, key: str, folder: Path) -> str:
    """A place as a path from here: relative ones stand beside the YAML file. A hub's name stays a name."""
    path = folder / Path(ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], ""), text)).expanduser()
    return text if key in NAMES_OR_PLACES and not path.exists() else str(path)
