"""The JSON that the routes take and give: one definition of an item, a pair, a request and an answer.

A row that is no item stays in its place as a `RowError`; only a request that is wrong as a whole is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from mlim.config import Config, problems_of
from mlim.matching.items import IMAGE, INVALID_ITEM, TEXT
from mlim.recipe.base import Modality

MOST_REFERENCES: Final = 32
MOST_LISTED: Final = 1 << 16  # rows that are looked at at all; how many a model takes is asked afterwards
MOST_EXPLAINED: Final = 5  # problems of one row, of which a message holds few
MESSAGE_CHARACTERS: Final = 400
ID_CHARACTERS: Final = 200

FieldValue = Annotated[Any, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]


@dataclass(frozen=True)
class RowError:
    """Why a row has no answer: a stable code and one sentence."""

    code: str
    message: str


class ItemIn(Config):
    """An item: a text or fields, and a picture in one of three ways. What the modality does not read may be missing."""

    id: str | None = Field(default=None, max_length=ID_CHARACTERS, description="comes back in the answer")
    text: str | None = Field(default=None, description="the whole text, read as it is")
    fields: dict[str, FieldValue] | None = Field(
        default=None, description="values that are joined in this order, as ingest joins the text columns"
    )
    image: str | None = Field(default=None, description="the bytes of a file as base64, or a data: address of it")
    path: str | None = Field(default=None, description="a file below the server's folder of images (--images)")
    url: str | None = Field(default=None, description="an address at one of the server's hosts (--allow-url-host)")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.text is not None and self.fields is not None:
            raise ValueError("`text` and `fields` are both given; give one of them")
        taken = sorted({TEXT, IMAGE} & {*(self.fields or {})})
        if taken:
            raise ValueError(f"a field is called `{taken[0]}`, which names a part of an item; give it another name")
        ways = [name for name in ("image", "path", "url") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(f'`{name}`' for name in ways)} are both given; give one picture")
        return self


class PairIn(Config):
    """Two items that are compared."""

    a: ItemIn
    b: ItemIn


def _or_error(model: type[Config]) -> WrapValidator:
    """Leaves a `RowError` in the place of a row that is no `model`."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if not isinstance(value, Mapping):
            return RowError(INVALID_ITEM, f"the row is no JSON object but {type(value).__name__}")
        try:
            return handler(value)
        except ValidationError as error:
            problems = problems_of(model, error.errors(include_url=False)[:MOST_EXPLAINED])
            return RowError(INVALID_ITEM, "; ".join(problems)[:MESSAGE_CHARACTERS])

    return WrapValidator(check)


class ScoreRequest(Config):
    """Pairs to be scored."""

    pairs: Annotated[list[Annotated[PairIn, _or_error(PairIn)]], Field(max_length=MOST_LISTED)]
    modality: Modality | None = Field(default=None, description="what is read; null: what the model was evaluated on")

    @property
    def rows(self) -> list[PairIn | RowError]:
        """The pairs, with an error in the place of each that is none."""
        return list(self.pairs)


class EncodeRequest(Config):
    """Items to be encoded."""

    items: Annotated[list[Annotated[ItemIn, _or_error(ItemIn)]], Field(max_length=MOST_LISTED)]
    modality: Modality | None = Field(default=None, description="what is read; null: what the model was evaluated on")

    @property
    def rows(self) -> list[ItemIn | RowError]:
        """The items, with an error in the place of each that is none."""
        return list(self.items)


class ExplainRequest(Config):
    """A pair to be explained, and pairs of the same catalog that it is compared with, matches and mismatches."""

    pair: PairIn
    references: list[PairIn] = Field(default=[], max_length=MOST_REFERENCES)
    modality: Modality | None = Field(default=None, description="what is read; null: what the model was evaluated on")
    regions: bool = Field(default=True, description="also search the pictures")


class Problem(Config):
    """Why a row has no answer: a stable code for programs, one sentence for a person."""

    code: str
    message: str


class ScoredPair(Config):
    """The answer to one pair: score, probability and match, or an error. `a`, `b`: the ids that were sent."""

    a: str | None = None
    b: str | None = None
    score: float | None = Field(default=None, description="in [0, 1]; higher means more likely a match")
    probability: float | None = Field(default=None, description="calibrated, that the two match")
    match: bool | None = Field(default=None, description="the score reaches the threshold")
    error: Problem | None = None


class ScoreAnswer(Config):
    """One result per pair, in the same order."""

    modality: Modality
    threshold: float
    results: Sequence[ScoredPair]


class EncodedItem(Config):
    """The answer to one item: its vector, or an error. `id`: the one that was sent."""

    id: str | None = None
    vector: Sequence[float] | None = None
    error: Problem | None = None


class EncodeAnswer(Config):
    """One result per item, in the same order; all vectors have `width` numbers."""

    modality: Modality
    width: int
    results: Sequence[EncodedItem]


class ContributionOut(Config):
    """What one part of both items adds to the score."""

    name: str
    kind: Literal["text", "picture"]
    first: str
    second: str
    value: float


class RegionOut(Config):
    """A cell of a picture's grid, and what hiding it takes from the score; `item` is 0 for a and 1 for b."""

    item: int
    row: int
    column: int
    effect: float


class ChangeOut(Config):
    """The smallest change of parts that leads to another decision, and the score then."""

    parts: Sequence[str]
    how: Literal["same", "other"]
    score: float


class ExplainAnswer(Config):
    """Why the pair has its score: `baseline` plus the values of the contributions is the score."""

    modality: Modality
    probability: float
    score: float
    threshold: float
    match: bool
    baseline: float
    text: float | None
    picture: float | None
    contributions: Sequence[ContributionOut]
    exact: bool
    regions: Sequence[RegionOut]
    score_without_regions: float | None
    effects: Sequence[Sequence[Sequence[float]]] | None = Field(description="of hiding each region: item, row, column")
    change: ChangeOut | None
