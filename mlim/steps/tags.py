"""What runs on the pages of MLflow can be told apart by: the system that was trained, its task, what it has seen."""

from typing import Final

from mlim.recipe import Pretraining, Recipe, Variant
from mlim.tracking import TAG, StageRun

SYSTEM_TAG: Final = f"{TAG}system"
TASK_TAG: Final = f"{TAG}task"
ALSO_SAW_TAG: Final = f"{TAG}also_saw"
NOTHING: Final = "nothing"  # a tag without a value is not shown


def tag_training(run: StageRun, recipe: Recipe, entry: Pretraining | Variant) -> None:
    """Tag the run of a pre-training or a variant."""
    tasks = [entry.task] if isinstance(entry, Variant) else [task.task for task in entry.all_tasks]
    run.tag(SYSTEM_TAG, recipe.system_name(entry))
    run.tag(TASK_TAG, ", ".join(tasks))
    run.tag(ALSO_SAW_TAG, ", ".join(recipe.also_saw(entry)) or NOTHING)
