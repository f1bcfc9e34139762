"""The losses of all trainings of a recipe in two tables, in which `dvc plots` finds one curve for each run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mlim.files import write_csv
from mlim.recipe import Recipe
from mlim.recipe.tasks import loss_titles
from mlim.workspace import Workspace, run_name

HISTORY: Final = "history.csv"
ALL_MODES: Final = "all"  # as mlim.training.metric_logger calls a row of history.csv that is over several modes
PRETRAINING_LOSSES: Final = "pretraining_losses.csv"
FINETUNING_LOSSES: Final = "finetuning_losses.csv"
COLUMNS: Final = ("name", "run", "title", "kind", "step", "loss")


def write_loss_curves(folder: Path, recipe: Recipe, workspace: Workspace) -> None:
    """Write the losses of the variants' pre-trainings and of their fine-tunings, of all seeds, into `folder`.

    A row for each run, title of a loss, kind (train | validation) and step; no rows of a training without history.
    """
    starts = dict.fromkeys(start for each in recipe.variants.values() if (start := each.pretraining))
    pretrained = (
        row
        for name in starts
        for seed in recipe.seeds
        for row in _losses(name, run_name(name, seed), workspace.pretrained(name, seed))
    )
    finetuned = (
        row
        for name in recipe.variants
        for seed in recipe.seeds
        for again in range(recipe.finetunings)
        for row in _losses(name, run_name(name, seed, again), workspace.finetuned(name, seed, again))
    )
    write_csv(folder / PRETRAINING_LOSSES, pretrained, COLUMNS)
    write_csv(folder / FINETUNING_LOSSES, finetuned, COLUMNS)


def _losses(name: str, run: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The measured losses of one training over all modes of its batches."""
    path = folder / HISTORY
    if not path.is_file():
        return
    history = pd.read_csv(path)
    modes = history.groupby(["step", "kind"])["mode"].transform("size")
    whole = history[(modes == 1) | (history["mode"] == ALL_MODES)]
    for loss, title in loss_titles().items():
        if loss in whole:
            measured = whole[whole[loss].notna()]
            for step, kind, value in zip(measured["step"], measured["kind"], measured[loss], strict=True):
                yield {"name": name, "run": run, "title": title, "kind": kind, "step": step, "loss": value}
