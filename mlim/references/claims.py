"""A claim of a paper: the variants or curves that decide it, and how it is to be read."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mlim.recipe.tasks import FinetuneTask, OtherTask

Reading = Literal["better", "equivalent", "no worse"]
Figure = Literal["figure2a", "figure2b"]
Partner = Literal["own", "empty", "random"]

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Variants:
    """PR-AUC of variant `first` minus that of variant `second`, on the same test pairs."""

    first: str
    second: str
    kind: Literal["variants"] = "variants"

    def __str__(self) -> str:
        return f"{self.first} minus {self.second}"


@dataclass(frozen=True, config=STRICT)
class Curves:
    """One of the probe's figures: the loss beside partner `more` minus that beside `less`, at every probability."""

    figure: Figure
    more: Partner
    less: Partner
    kind: Literal["curves"] = "curves"

    def __str__(self) -> str:
        return f"{self.figure}, {self.more} minus {self.less}"


@dataclass(frozen=True, config=STRICT)
class Harm:
    """How much a random text raises RECON minus how much a random picture raises MLM, as shares of the own loss."""

    kind: Literal["harm"] = "harm"

    def __str__(self) -> str:
        return "harm of a random text to RECON minus harm of a random picture to MLM"


@dataclass(frozen=True, config=STRICT)
class TaskVariants:
    """A figure of a fine-tuning task besides matching: variant `first` minus variant `second`, on the same examples.

    `figure` is its name in the task's table.
    """

    task: OtherTask
    figure: str
    first: str
    second: str
    kind: Literal["task"] = "task"

    def __str__(self) -> str:
        return f"{self.first} minus {self.second}"


Part = Annotated[Variants | Curves | Harm | TaskVariants, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class Claim:
    """One claim: all its `parts` have to be as `reading` says.

    `better`: above 0. `equivalent`: within the margin of 0. `no worse`: above minus the margin. `short` is for plots.
    `in_passing`: the authors mention it or build on it without measuring it; its variants are in no table of the paper.
    """

    key: str
    short: str
    sentence: str
    source: str
    parts: tuple[Part, ...]
    reading: Reading = "better"
    in_passing: bool = False

    @property
    def task(self) -> FinetuneTask:
        """The task that it is about."""
        part = self.parts[0]
        return part.task if isinstance(part, TaskVariants) else "match"
