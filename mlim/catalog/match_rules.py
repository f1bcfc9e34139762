"""What a catalog says about matches: the `matching` section of catalog.yaml (docs/matching.md explains it)."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mlim.config import Config


class BlockColumn(Config):
    """A column of a blocking rule; a plain string is its name and asks for equal values."""

    column: str
    band: float | None = Field(
        default=None, gt=0, le=10, description="positive numbers whose ratio is at most 1 + band, in place of equality"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given


class Never(Config):
    """Two items that agree in all of `same` and differ in all of `differ` never match; empty values forbid nothing."""

    same: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.same and not self.differ:
            raise ValueError("matching.never: a rule needs columns in `same` or `differ`")
        return self


class MatchRules(Config):
    """Which items are compared because of their columns, and which never match whatever a model says."""

    blocks: tuple[tuple[BlockColumn, ...], ...] = Field(
        default=(), description="rules; two items that agree in every column of a rule are candidates"
    )
    never: tuple[Never, ...] = Field(default=(), description="pairs that never match")
    families: Literal["any", "within", "across"] | None = Field(
        default=None,
        description="within: items of two families never match; across: items of one family never match; null: within "
        "for a model that was trained on mismatches inside families alone, else any",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for number, block in enumerate(self.blocks, start=1):
            if not block:
                yield f"matching.blocks: rule {number} names no column"
            if block and all(column.band is not None for column in block):
                yield f"matching.blocks: rule {number} needs a column without a band"
            if sum(column.band is not None for column in block) > 1:
                yield f"matching.blocks: rule {number} has more than one band; leave one"

    def with_families(self, trained_across_families: bool) -> Self:
        """These rules with `families` decided, for a model that was or was not trained on mismatches across them."""
        if self.families is not None:
            return self
        return self.model_copy(update={"families": "any" if trained_across_families else "within"})

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rules read, in order and once each."""
        blocked = (column.column for block in self.blocks for column in block)
        never = (name for rule in self.never for name in (*rule.same, *rule.differ))
        return tuple(dict.fromkeys((*blocked, *never)))
