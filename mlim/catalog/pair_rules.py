"""How pairs are labelled: the `pairs` section of catalog.yaml (docs/pairs.md explains it with examples)."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mlim.config import Config

FAMILY, TEXT, IMAGE, RANDOM = "family", "text", "image", "random"
TOLERANCE = 1e-9  # of shares that must add up to 1
MOST_NEIGHBOURS = 100  # of one item
MOST_COMPARED = 100_000  # items of one split that are all compared with each other


class Negatives(Config):
    """Where mismatches come from. The shares add up to 1; `family` takes what the others leave unless it is given."""

    family: float | None = Field(
        default=None, ge=0, le=1, description="share from the rule itself: one family, but differing in what decides"
    )
    text: float = Field(default=0, ge=0, le=1, description="share of nearest neighbours in text, of other families")
    image: float = Field(default=0, ge=0, le=1, description="share of nearest neighbours in image_hash, likewise")
    random: float = Field(default=0, ge=0, le=1, description="share of easy ones: items of other families at random")
    same: tuple[str, ...] = Field(default=(), description="mismatches of other families agree in these columns")
    neighbours: int = Field(
        default=5, ge=1, le=MOST_NEIGHBOURS, description="how many nearest neighbours of an item may be drawn"
    )
    compare: int = Field(
        default=10_000, ge=2, le=MOST_COMPARED, description="neighbours are sought among so many items of each split"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = sum(self.shares.values())
        if abs(total - 1) > TOLERANCE or self.shares[FAMILY] < 0:
            raise ValueError(f"the shares of family, text, image and random must add up to 1, not {total:g}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The share of each kind of mismatch."""
        others = {TEXT: self.text, IMAGE: self.image, RANDOM: self.random}
        family = max(0.0, 1 - sum(others.values())) if self.family is None else self.family
        return {FAMILY: family, **others}

    @property
    def cross_families(self) -> bool:
        """Whether any mismatch is made of items of two families."""
        return any(share > 0 for kind, share in self.shares.items() if kind != FAMILY)


class PairRules(Config):
    """How pairs are labelled: by the type of variation inside a family, or by a table of the user's own.

    `pairs: none` says that the items are split and make no pairs.
    """

    none: bool = Field(default=False, description="no pairs: the items are split and that is all")
    decided_by: tuple[str, ...] = Field(default=(), description="match when all of these columns are equal")
    same: tuple[str, ...] = Field(default=(), description="only items equal in these columns are compared")
    differ: tuple[str, ...] = Field(
        default=(), description="only items that differ in each of these columns are compared, across families too"
    )
    may_vary: tuple[str, ...] | None = Field(
        default=None,
        description="when given, only items equal in all other columns of columns.text and hidden are compared",
    )
    hidden: tuple[str, ...] = Field(default=(), description="columns that are kept but that the model must not read")
    max_family_size: int = Field(default=8, ge=2, description="larger families would swamp the pairs; left out")
    max_pairs_per_family: PositiveInt | None = Field(default=None, description="at most so many pairs of one family")
    mismatches_per_match: PositiveFloat | None = Field(
        default=None, description="null: all that the families give; without those, one"
    )
    balanced: bool = Field(
        default=False,
        description="in each family as many mismatches by the rule as mismatches_per_match asks for, so that the kind "
        "of a product does not tell its label; families without both labels make no pairs",
    )
    negatives: Negatives = Negatives()
    directions: Literal["one", "both"] = Field(default="one", description="both: each pair is also written turned")
    labelled: Path | None = Field(default=None, description="the user's own pairs instead of the rule")

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, given: Any) -> Any:
        return {"none": True} if given == "none" else given

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rules read (the facts of an item), in order and once each."""
        return tuple(dict.fromkeys((*self.decided_by, *self.same, *self.differ, *self.hidden, *self.negatives.same)))

    def must_agree(self, text_columns: Sequence[str]) -> tuple[str, ...]:
        """The columns beside `same` in which two compared items agree: none unless `may_vary` is given.

        Two empty values agree there; in `decided_by` and `same` an item with an empty value is not compared.
        """
        if self.may_vary is None:
            return ()
        free = {*self.decided_by, *self.same, *self.differ, *self.may_vary}
        return tuple(column for column in dict.fromkeys((*text_columns, *self.hidden)) if column not in free)

    def problems(self, text_columns: Collection[str], family: str | None) -> Iterator[str]:
        """What contradicts itself or the columns of the catalog, a sentence each."""
        for column in self.decided_by:
            if column in text_columns:
                yield (
                    f"`{column}` decides which pairs match (pairs.decided_by), so the model must not read it: "
                    "take it out of columns.text"
                )
        for column in self.hidden:
            if column in text_columns:
                yield f"`{column}` is hidden (pairs.hidden), so the model must not read it: take it out of columns.text"
        if self.none and (self.decided_by or self.labelled is not None):
            yield "pairs.none says that there are no pairs, so leave out pairs.decided_by and pairs.labelled"
        if self.decided_by and family is None:
            yield "pairs.decided_by compares items of one family: name the column in columns.family"
        yield from self._contradictions()
        yield from self._unknown(text_columns)

    def _contradictions(self) -> Iterator[str]:
        varying = {"differ": self.differ, "may_vary": self.may_vary or ()}
        named = {"decided_by": self.decided_by, "same": self.same, **varying}
        keys = list(named)
        for number, key in enumerate(keys):
            for other in keys[number + 1 :]:
                for column in named[key]:
                    if column in named[other]:
                        yield f"`{column}` is in pairs.{key} and in pairs.{other}: leave it in one of them"

    def _unknown(self, text_columns: Collection[str]) -> Iterator[str]:
        for column in self.may_vary or ():
            if column not in text_columns and column not in (*self.hidden, *self.decided_by, *self.same, *self.differ):
                yield (
                    f"`{column}` may vary (pairs.may_vary), but nothing asks it to agree: it is neither in "
                    "columns.text nor in pairs.hidden"
                )
