"""`mlim import-run`: trainings that were carried home from a machine that did not track them, recorded in MLflow.

The run of each is opened as `stage_run` opens it for a training under way, and the journal that names the figures of
a training names them here.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.recipe import Recipe, Stage, load_recipe
from mlim.steps.trained import HISTORY_FILE, SUMMARY_FILE, keep_watched
from mlim.tracking import TAG, Past, initialise, is_recorded, shown, stage_run, tracking_uri
from mlim.training.contracts import HistoryRow, TrainState, Unheard, Validation
from mlim.training.journal import FIGURES, LOSSES, TRAINED, VALIDATED, Journal
from mlim.training.meter import Averages
from mlim.untracked import ENDED, LINEAGE, RUN_ID, training_folders
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace, cell

IMPORTED = f"{TAG}imported_from"  # the hardware
SKIPPED = "skipped_steps"
NAME = {"pretrain": "name", "finetune": "row"}  # how summaries call what was trained
NEEDED = ("seed", "settings", "seconds", "hardware", "final", SKIPPED)
NOT_TOLD = Lineage(UNKNOWN, False, UNKNOWN, UNKNOWN)  # of a training that was tracked, but in another store
MILLISECONDS = 1000


@dataclass(frozen=True)
class _Training:
    """A training that has ended, in the work folder that it was carried home in."""

    recipe: Recipe
    workspace: Workspace
    stage: Stage
    folder: Path
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.summary[NAME[self.stage]])

    @property
    def seed(self) -> int:
        return int(self.summary["seed"])

    @property
    def hardware(self) -> str:
        """What it ran on."""
        return str(self.summary["hardware"])

    @property
    def lineage(self) -> Lineage:
        """The code and data of the machine and time of training."""
        told = self.summary.get(LINEAGE)
        return Lineage(**told) if told else NOT_TOLD

    @property
    def past(self) -> Past:
        told = self.summary.get(ENDED)
        end = datetime.fromisoformat(told).timestamp() if told else (self.folder / SUMMARY_FILE).stat().st_mtime
        return Past(int((end - self.summary["seconds"]) * MILLISECONDS), int(end * MILLISECONDS))


def import_run(folder: Path, terminal: Terminal) -> dict[str, Any]:
    """Record in MLflow every training in `folder`, a work folder or one training's, that the store does not hold yet.

    The recipe is the work folder's own; where it says that nothing is tracked, the store is the default one. Writes
    the run's id into each summary.json. Gives {store, imported: {folder: run id}, known: [folder], left: [why]}.
    `InputError` when there is no training that can be recorded; single ones that cannot are named and left.
    """
    found, left = _find(folder)
    if not found:
        raise InputError(*(left or [f"{folder}: holds no trainings; give a work folder (with pretrain/ or finetune/)"]))
    for problem in left:
        terminal.warn(problem)
    imported: dict[str, str] = {}
    known: list[str] = []
    for training in found:
        initialise(training.recipe)  # before anything is asked: a new store has no tables
        run_id = training.summary.get(RUN_ID)
        if run_id is not None and is_recorded(training.recipe, run_id):
            known.append(str(training.folder))
        else:
            imported[str(training.folder)] = run_id = _record(training)
            terminal.say(f"{training.folder}: run {run_id}")
    store = shown(tracking_uri(found[0].recipe))
    return {"store": store, "imported": imported, "known": known, "left": left}


def _find(folder: Path) -> tuple[list[_Training], list[str]]:
    """The trainings that can be recorded, pre-trainings first, and a sentence for each that cannot."""
    found: list[_Training] = []
    left: list[str] = []
    for workspace, candidates in _candidates(folder):
        recipe = _recipe(workspace)
        for stage, place in candidates:
            try:
                found.append(_read(recipe, workspace, stage, place))
            except InputError as problem:
                left.append(str(problem))
    return found, left


def _candidates(folder: Path) -> Iterator[tuple[Workspace, list[tuple[Stage, Path]]]]:
    """What may be trainings, by work folder: `folder`'s own and its variants', or `folder` alone."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give a work folder or that of one training")
    own, place = Workspace(folder), folder.resolve()
    above = Workspace(place.parent.parent)
    single = [(stage, folder) for stage, results in training_folders(above).items() if place.parent == results]
    if single and not any(results.is_dir() for results in training_folders(own).values()):
        yield above, single
        return
    for workspace in (own, *(Workspace(path) for path in sorted(own.variants.glob("*/")))):
        if candidates := list(_of(workspace)):
            yield workspace, candidates


def _of(workspace: Workspace) -> Iterator[tuple[Stage, Path]]:
    """The folders of all trainings, of those too that have only checkpoints."""
    for stage, results in training_folders(workspace).items():
        begun = workspace.checkpoints(stage, "", 0).parent
        names = {path.name for place in (results, begun) for path in place.glob("*/") if not path.name.startswith(".")}
        yield from ((stage, results / name) for name in sorted(names))


def _recipe(workspace: Workspace) -> Recipe:
    """The recipe of a work folder, with a store."""
    if not workspace.recipe.is_file():
        raise InputError(f"{workspace.recipe} is missing; carry it home with the trainings: it says what they are")
    recipe = load_recipe(str(workspace.recipe))
    if not recipe.tracking.untracked:
        return recipe
    return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"uri": None})})


def _read(recipe: Recipe, workspace: Workspace, stage: Stage, folder: Path) -> _Training:
    """One training; `InputError` when it has not ended, was not carried home whole, or is not what the recipe says."""
    missing = [name for name in (SUMMARY_FILE, HISTORY_FILE) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: has no {' and no '.join(missing)}, so it is left; let the training end (the same command "
            "continues it) and carry home its whole folder"
        )
    training = _Training(recipe, workspace, stage, folder, _summary(stage, folder))
    if not _is_of(recipe, training):
        raise InputError(
            f"{folder}: was trained with other settings than {workspace.recipe} has, so it is left; put the recipe "
            "there that it was trained with"
        )
    if not all(os.access(place, os.W_OK) for place in (folder, workspace.root)):
        raise InputError(f"{folder}: cannot be written, but keeps the run's id; copy {workspace.root} and import that")
    return training


def _summary(stage: Stage, folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY_FILE
    try:
        summary = dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), so it is left; carry it home again") from None
    missing = [key for key in (NAME[stage], *NEEDED) if key not in summary]
    if missing:
        raise InputError(f"{path}: does not say {', '.join(missing)}, so it is left; train it again with this version")
    return summary


def _is_of(recipe: Recipe, training: _Training) -> bool:
    """Whether a training is one of the recipe's, with its settings."""
    known = recipe.pretrainings if training.stage == "pretrain" else recipe.rows
    return training.name in known and training.summary["settings"] == recipe.training_key(training.stage, training.name)


def _record(training: _Training) -> str:
    """Open a run for a training, tell it everything, close it, and note its id in the summary."""
    name = cell(training.name, training.seed)
    with stage_run(training.recipe, training.workspace, training.stage, name, training.lineage, training.past) as run:
        for step, values in logged(read_history(training.folder / HISTORY_FILE), training.summary):
            run.log(values, step)
        run.tag(IMPORTED, training.hardware)
        run.artifact(training.folder / HISTORY_FILE)
        keep_watched(run, training.workspace.watched(training.stage, training.name, training.seed))
    write_json(training.folder / SUMMARY_FILE, {**training.summary, RUN_ID: run.id})
    return str(run.id)


def read_history(path: Path) -> list[HistoryRow]:
    """history.csv as the journal wrote it; what is empty is left out."""
    with path.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    return [
        {
            "step": int(row["step"]),
            "kind": row["kind"],
            "mode": row["mode"],
            **{name: float(row[name]) for name in (*LOSSES, *FIGURES) if row.get(name)},
        }
        for row in rows
    ]


def logged(history: Sequence[HistoryRow], summary: Mapping[str, Any]) -> list[tuple[int, Averages]]:
    """What a training told its run, step by step, as far as history and summary know it.

    They hold means by mode. The mean over several modes is not among them (how many targets each had is not kept), but
    for the last validation; nor is the number of steps that were skipped, before the last reading.
    """
    state = TrainState(skipped=summary[SKIPPED])
    journal = Journal(state, Unheard())
    for (step, kind), group in groupby(history, key=itemgetter("step", "kind")):
        state.step, rows = step, list(group)
        by_mode = {row["mode"]: {name: row[name] for name in LOSSES if name in row} for row in rows}
        figures = {name: rows[0][name] for name in FIGURES if name in rows[0]}
        overall = next(iter(by_mode.values())) if len(by_mode) == 1 else {}
        if kind == TRAINED.rstrip("/"):
            journal.trained(by_mode, overall, figures)
        else:
            journal.validated(Validation(by_mode, overall, figures.get("pr_auc")))
    return _completed(state.logged, summary)


def _completed(entries: Sequence[tuple[int, Averages]], summary: Mapping[str, Any]) -> list[tuple[int, Averages]]:
    """The last validation with its means over all modes; no skipped steps where their number is not known."""
    final = {f"{VALIDATED}{name}": value for name, value in summary["final"].items() if value is not None}
    last = max((step for step, _ in entries), default=0)
    told: list[tuple[int, Averages]] = []
    for step, values in entries:
        known = {name: value for name, value in values.items() if name != SKIPPED or step == last or not value}
        ends = step == last and any(name.startswith(VALIDATED) for name in values)
        told.append((step, {**known, **final} if ends else known))
    return told
