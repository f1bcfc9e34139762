"""catalog.yaml: where a catalog lies, which column means what, and which variations make a match."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mlim.config import Config, parse, read_yaml
from mlim.errors import InputError

ENVIRONMENT_VARIABLE = re.compile(r"\$\{(\w+)\}")
PATH_KEYS = ("table", "images")


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
    image: str = Field(description="the picture's path inside the images folder")
    family: str | None = Field(default=None, description="items with the same value are variations of one product")
    text: tuple[TextColumn, ...] = Field(min_length=1, description="what the model reads, in this order")


class PairRules(Config):
    """How pairs are labelled: by the type of variation inside a family, or by a table of the user's own."""

    decided_by: tuple[str, ...] = Field(default=(), description="match when all of these columns are equal")
    same: tuple[str, ...] = Field(default=(), description="only items equal in these columns are compared")
    max_family_size: int = Field(default=8, ge=2, description="larger families would swamp the pairs; left out")
    labelled: Path | None = Field(default=None, description="the user's own pairs instead of the rule")


class SyntheticSource(Config):
    """How many items `source: synthetic` draws."""

    items: PositiveInt
    seed: NonNegativeInt = 0
    image_size: PositiveInt = Field(default=96, description="side of the drawn pictures, pixels")


class CatalogDescription(Config):
    """The whole catalog.yaml. A synthetic catalog is drawn first, then read as a table is."""

    source: Literal["table", "synthetic"] = "table"
    table: Path | None = Field(default=None, description=".csv, .tsv, .jsonl, .ndjson or .parquet")
    images: Path | None = Field(default=None, description="the folder that holds every picture")
    synthetic: SyntheticSource | None = None
    columns: Columns
    pairs: PairRules = PairRules()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._source_problems(), *self._text_problems(), *self._pair_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _source_problems(self) -> list[str]:
        needed = ("table", "images") if self.source == "table" else ("synthetic",)
        return [f"missing key `{key}` (source is {self.source})" for key in needed if getattr(self, key) is None]

    def _text_problems(self) -> list[str]:
        counts = Counter(text.column for text in self.columns.text)
        return [f"columns.text names `{column}` twice" for column, count in counts.items() if count > 1]

    def _pair_problems(self) -> list[str]:
        readable = {text.column for text in self.columns.text}
        problems = [
            f"`{column}` decides which pairs match (pairs.decided_by), so the model must not read it: "
            "take it out of columns.text"
            for column in self.pairs.decided_by
            if column in readable
        ]
        if self.pairs.decided_by and self.columns.family is None:
            problems.append("pairs.decided_by compares items of one family: name the column in columns.family")
        return problems

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns the model reads, in order."""
        return tuple(text.column for text in self.columns.text)

    @property
    def fact_columns(self) -> tuple[str, ...]:
        """The columns that only the pair rules read, in order and once each."""
        return tuple(dict.fromkeys((*self.pairs.decided_by, *self.pairs.same)))

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column of the table that is read, once each."""
        family = () if self.columns.family is None else (self.columns.family,)
        names = (self.columns.id, self.columns.image, *family, *self.text_columns, *self.fact_columns)
        return tuple(dict.fromkeys(names))


def load_description(path: Path) -> CatalogDescription:
    """The catalog.yaml at `path`; its paths may be relative to it, `table` and `images` may use ${VARIABLES}.

    `InputError` lists every problem at once.
    """
    values, problems = _expand(_with_drawn_columns(read_yaml(path)), str(path))
    try:
        description = parse(CatalogDescription, values, str(path))
    except InputError as error:
        raise InputError(*problems, *error.problems) from None
    if problems:
        raise InputError(*problems)
    return _relative_to(path.parent, description)


def check_pair_rules(description: CatalogDescription, where: str) -> None:
    """`InputError` led by `where` unless the description tells which items make pairs."""
    if description.pairs.labelled is None and not description.pairs.decided_by:
        raise InputError(
            f"{where}: nothing tells which items make pairs; add columns.family (the column that groups the "
            "variations of a product) and pairs.decided_by (the columns that decide a match), or pairs.labelled (a "
            "table with item_a, item_b, label)"
        )


def _with_drawn_columns(values: dict[str, Any]) -> dict[str, Any]:
    """The values; a synthetic source knows its own columns and pairs, so they may be left out."""
    if values.get("source") != "synthetic":
        return values
    from mlim.catalog.synthetic.generate import describe  # only here: a table needs none of the drawing code

    drawn = describe()
    return {"columns": drawn["columns"], "pairs": drawn["pairs"], **values}


def _expand(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The values with environment variables filled in, and a problem for each that is unset."""
    expanded, problems = dict(values), []
    for key in PATH_KEYS:
        if not isinstance(values.get(key), str):
            continue
        expanded[key] = ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], ""), values[key])
        problems += [
            f"{where}: `{key}` needs the environment variable {name}, which is not set; export {name}=FOLDER"
            for name in ENVIRONMENT_VARIABLE.findall(values[key])
            if not os.environ.get(name)
        ]
    return expanded, problems


def _relative_to(folder: Path, description: CatalogDescription) -> CatalogDescription:
    """The description with every path resolved against the folder of its YAML file (absolute paths stay)."""

    def place(path: Path | None) -> Path | None:
        return None if path is None else folder / path.expanduser()

    pairs = description.pairs.model_copy(update={"labelled": place(description.pairs.labelled)})
    paths = {key: place(getattr(description, key)) for key in PATH_KEYS}
    return description.model_copy(update={**paths, "pairs": pairs})
