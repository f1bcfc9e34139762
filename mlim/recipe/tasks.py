"""What a network is trained on: closed sets of tasks, discriminated by the field `task`.

A class says what a task asks of a system and how its loss is called for people; what it computes lies in mlim/tasks. A
new task is a class in a file of its own here, its name in the union, and a file there.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Final, Literal, assert_never, get_args

from pydantic import Field

from mlim.config import Config
from mlim.recipe.answer import AnswerTask
from mlim.recipe.asked import AnswerConfig, StatementConfig
from mlim.recipe.base import is_none
from mlim.recipe.caption import CaptionTask
from mlim.recipe.captioning import CaptioningConfig
from mlim.recipe.detect import DetectTask
from mlim.recipe.detecting import DetectingConfig
from mlim.recipe.itc import ItcTask
from mlim.recipe.regions import RegionAttributeTask, RegionFeatureTask, RegionLabelTask
from mlim.recipe.retrieval import RetrievalConfig
from mlim.recipe.task import TaskConfig
from mlim.recipe.tuning import OtherTuningConfig

OtherTask = Literal["retrieval", "caption", "answer", "statement", "detect"]
"""What a variant may be fine-tuned to besides matching; each has a section in `tasks` and a table of its own."""

FinetuneTask = Literal["match"] | OtherTask


class MlmTask(TaskConfig):
    """Masked language modelling."""

    task: Literal["mlm"] = "mlm"
    title = "MLM: text loss per masked token"
    needs = "tokens"


class ReconTask(TaskConfig):
    """Reconstruction of the picture."""

    task: Literal["recon"] = "recon"
    normalise_patches: bool = Field(
        default=False,
        exclude_if=operator.not_,
        description="divide the error of each patch by the variance of its pixels (MAE)",
    )
    share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        exclude_if=lambda share: share == 1.0,
        description="probability with which a picture is reconstructed in a training step; validation reconstructs all",
    )
    title = "RECON: squared error per pixel"
    needs = "pictures"


class ItmTask(TaskConfig):
    """Image-text matching: does the picture belong to the text?"""

    task: Literal["itm"] = "itm"
    title = "ITM: image-text matching loss"
    needs = "agreement"
    hides = False
    exchanges = True


PretrainTask = Annotated[
    MlmTask
    | ReconTask
    | ItmTask
    | ItcTask
    | DetectTask
    | CaptionTask
    | RegionFeatureTask
    | RegionLabelTask
    | RegionAttributeTask
    | AnswerTask,
    Field(discriminator="task"),
]

FINETUNE_TITLES: Final[Mapping[str, str]] = {
    "match": "Matching loss per pair",
    "retrieval": "Retrieval loss per item",
    "answer": "Answer loss per question",
    "answer-text": "Answer: loss per written token",
    "statement": "Statement loss per statement",
}
BESIDE: Final = ("attribute",)  # losses that a task adds to its own, which no figure shows
TOTAL: Final = "total"


class TasksConfig(Config):
    """One section for each fine-tuning task besides matching: equal budgets for all its variants."""

    retrieval: RetrievalConfig | None = Field(default=None, exclude_if=is_none)
    caption: CaptioningConfig | None = Field(default=None, exclude_if=is_none)
    answer: AnswerConfig | None = Field(default=None, exclude_if=is_none)
    statement: StatementConfig | None = Field(default=None, exclude_if=is_none)
    detect: DetectingConfig | None = Field(default=None, exclude_if=is_none)

    @property
    def is_empty(self) -> bool:
        """Whether the recipe has no such section."""
        return all(section is None for _, section in self)

    def section(self, task: OtherTask) -> OtherTuningConfig | None:
        """That of a task; None where the recipe has none."""
        match task:
            case "retrieval":
                return self.retrieval
            case "caption":
                return self.caption
            case "answer":
                return self.answer
            case "statement":
                return self.statement
            case "detect":
                return self.detect
            case _:
                assert_never(task)


def loss_titles() -> dict[str, str]:
    """What the loss of every task is called in figures, by its name in histories; pre-training first."""
    union, _ = get_args(PretrainTask)
    titles = {name: title for kind in get_args(union) for name, title in kind.titles().items()}
    return {**titles, **FINETUNE_TITLES}


def loss_names() -> frozenset[str]:
    """Every loss that a history may hold, their weighted sum among them."""
    return frozenset((*loss_titles(), *BESIDE, TOTAL))
