"""What `mlim finetune` asks of a fine-tuning task: one class for each, in a module of its own beside this one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from mlim.console import Terminal
from mlim.data.collate import GallerySource
from mlim.data.regions import StoredRegions
from mlim.data.tokenize import TextTokenizer
from mlim.models.network import Network
from mlim.models.system import System
from mlim.models.weights import Planned
from mlim.recipe import Recipe, TuningConfig, Variant
from mlim.steps.trained import Collating, TrainingData, pictures_of, prepare_collating
from mlim.tasks.protocols import Objective
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace


@dataclass(frozen=True)
class TuningInputs:
    """What a variant is fine-tuned from, and on; `regions` are stored ones that its system reads."""

    recipe: Recipe
    workspace: Workspace
    variant: Variant
    seed: int
    data: TrainingData
    tokenizer: TextTokenizer
    start: Planned[System]
    regions: StoredRegions | None = None

    @property
    def pictures(self) -> GallerySource:
        """What the system is shown of the items."""
        return pictures_of(self.recipe, self.data, self.regions)

    def collating(self) -> Collating:
        """What a collator of items is made of."""
        return prepare_collating(self.recipe, self.data, self.tokenizer, self.workspace, self.regions)


class Tuning(Protocol):
    """The fine-tuning of one variant for its task."""

    @property
    def config(self) -> TuningConfig:
        """Its section of the recipe, as it is for the variant."""

    @property
    def planned(self) -> Planned[Network]:
        """What is trained, to be built."""

    @property
    def examples(self) -> Sequence[Any]:
        """What it is trained on."""

    @property
    def collate(self) -> Callable[[Sequence[Any]], Any]:
        """From examples to a batch."""

    @property
    def examples_name(self) -> str:
        """How people call several examples: `pairs`."""

    def objective(self) -> Objective[Any, Any]:
        """From a batch to its losses."""

    def validate(self, step: int) -> Validation:
        """Loss and metric on the validation split; the metric chooses the best step."""

    def finish(self) -> None:
        """Drop from the model what only training needs."""

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """What the trained model says of the validation and test splits, for scores.parquet."""

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """What it says of itself in summary.json."""
