"""`mlim import-run`: trainings that were copied from a machine that did not track them, recorded in MLflow.

The run of each is opened as `stage_run` opens it for a training under way, and the metric logger that names the
figures of a training names them here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import write_json
from mlim.offline import RUN_ID
from mlim.recipe import TrackingConfig, load_recipe
from mlim.recipe.tasks import loss_names
from mlim.steps.carried import Training, find_trainings, read_history
from mlim.steps.tags import tag_training
from mlim.steps.trained import HISTORY_FILE, SAMPLES, SUMMARY_FILE
from mlim.tasks.protocols import Metric
from mlim.tracking import TAG, deliver_left, initialise, is_recorded, stage_run, tracking_uri, without_password
from mlim.training.meter import Averages
from mlim.training.metric_logger import ALL_MODES, ROW, TRAINED, VALIDATED, MetricLogger
from mlim.training.protocols import HistoryRow, NullLogger, TrainState, Validation
from mlim.workspace import Workspace
from mlim.writer import locked

IMPORTED = f"{TAG}imported_from"  # the hardware
EXPERIMENT = f"{TAG}imported_experiment"  # what the folder calls it; where the run is recorded is not its choice
TAG_CHARACTERS = 500
SKIPPED = "skipped_steps"
SECTION = "tracking."


def chosen_tracking(assignments: Sequence[str]) -> TrackingConfig:
    """The store and the experiment that runs go to: a recipe's default, changed by `tracking.KEY=VALUE`.

    `InputError` for other keys (the rest of the recipe is the folder's) and where nothing would be tracked.
    """
    others = [each for each in assignments if not each.startswith(SECTION)]
    if others:
        raise InputError(*(f"--set {each}: only {SECTION}uri and its like can be chosen here" for each in others))
    tracking = load_recipe("demo", assignments).tracking
    if tracking.offline:
        raise InputError("--set tracking.uri=none: there would be nowhere to record; give a store, or leave it out")
    return tracking


def import_run(folder: Path, tracking: TrackingConfig, terminal: Terminal) -> dict[str, Any]:
    """Record in MLflow every training in `folder`, a work folder or one training's, that the store does not hold yet.

    What a training was, its work folder's recipe says; where it is recorded, `tracking` alone. Writes the run's id into
    each summary.json, and completes runs whose store was away. Gives {store, imported: {folder: run id}, known:
    [folder], completed: [run id], left: [why]}. `InputError` when there is no training that can be recorded; single
    ones that cannot are named and left.
    """
    found, left = find_trainings(folder, tracking)
    if not found and (completed := deliver_left(tracking, Workspace(folder))):  # of stages that train nothing
        return _summary(tracking, {}, [], completed, left, terminal)
    if not found:
        raise InputError(*(left or [f"{folder}: holds no trainings; give a work folder (with pretrain/ or finetune/)"]))
    for problem in left:
        terminal.warn(problem)
    workspace = _work_folder(folder, found)
    with locked(workspace, found[0].recipe.record, "mlim import-run"):
        completed = deliver_left(found[0].recipe.tracking, workspace)
        imported, known = _record_missing(found, terminal)
    return _summary(found[0].recipe.tracking, imported, known, completed, left, terminal)


def _summary(
    tracking: TrackingConfig,
    imported: Mapping[str, str],
    known: Sequence[str],
    completed: Sequence[str],
    left: Sequence[str],
    terminal: Terminal,
) -> dict[str, Any]:
    """What was done, JSON-able; completed runs are said."""
    for run_id in completed:
        terminal.say(f"run {run_id} has everything that waited for its store")
    store = without_password(tracking_uri(tracking))
    return {"store": store, "imported": imported, "known": known, "completed": completed, "left": left}


def _work_folder(folder: Path, found: Sequence[Training]) -> Workspace:
    """The work folder that is written to: `folder`, or the one that the training `folder` lies in."""
    return found[0].workspace if found[0].folder.resolve() == folder.resolve() else Workspace(folder)


def _record_missing(found: Sequence[Training], terminal: Terminal) -> tuple[dict[str, str], list[str]]:
    """The run of each training that was recorded now, and the folders of those that the store held already."""
    imported: dict[str, str] = {}
    known: list[str] = []
    for training in found:
        initialise(training.recipe.tracking)  # before anything is asked: a new store has no tables
        run_id = training.typed.run_id
        if run_id is not None and is_recorded(training.recipe.tracking, run_id):
            known.append(str(training.folder))
        else:
            imported[str(training.folder)] = run_id = _record(training)
            terminal.say(f"{training.folder}: run {run_id}")
    return imported, known


def _record(training: Training) -> str:
    """Open a run for a training, log everything to it, close it, and note its id in the summary."""
    recipe, workspace, stage = training.recipe, training.workspace, training.stage
    with (
        _copied(training) as files,
        stage_run(recipe.record, workspace, stage, training.title, training.lineage, training.past) as run,
    ):
        for step, values in logged(read_history((files / HISTORY_FILE).read_bytes()), training.summary):
            run.log(values, step)
        tag_training(run, recipe, training.entry)
        run.tag(IMPORTED, training.typed.hardware)
        run.tag(EXPERIMENT, training.experiment[:TAG_CHARACTERS])
        run.artifact(files)
    write_json(training.folder / SUMMARY_FILE, {**training.summary, RUN_ID: run.id})
    return str(run.id)


@contextmanager
def _copied(training: Training) -> Iterator[Path]:
    """A folder with the files of a training that its run keeps: what was checked is what is sent."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / HISTORY_FILE).write_bytes(training.history())
        for name, data in training.samples():
            path = folder / SAMPLES / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder


def logged(history: Sequence[HistoryRow], summary: Mapping[str, Any]) -> list[tuple[int, Averages]]:
    """What a training logged to its run, step by step, as far as history and summary know it.

    The number of steps that were skipped is not among them, before the last reading; nor, in those of earlier versions,
    the mean over several modes, but for the last validation.
    """
    state = TrainState(skipped=summary[SKIPPED])
    metrics, losses = MetricLogger(state, NullLogger()), loss_names()
    for (step, kind), group in groupby(history, key=itemgetter("step", "kind")):
        state.step, rows = step, list(group)
        means = {row["mode"]: {name: row[name] for name in row if name in losses} for row in rows}
        by_mode = {mode: values for mode, values in means.items() if mode != ALL_MODES}
        figures = {name: value for name, value in rows[0].items() if name not in losses and name not in ROW}
        overall = means.get(ALL_MODES, next(iter(by_mode.values())) if len(by_mode) == 1 else {})
        if kind == TRAINED.rstrip("/"):
            metrics.trained(by_mode, overall, figures)
        else:
            metric, value = next(iter(figures.items()), ("", None))
            metrics.validated(Validation(by_mode, overall, value, Metric(metric)))
    return _completed(state.logged, summary)


def _completed(entries: Sequence[tuple[int, Averages]], summary: Mapping[str, Any]) -> list[tuple[int, Averages]]:
    """The last validation with its means over all modes; no skipped steps where their number is not known."""
    final = {f"{VALIDATED}{name}": value for name, value in summary["final"].items() if value is not None}
    last = max((step for step, _ in entries), default=0)
    completed: list[tuple[int, Averages]] = []
    for step, values in entries:
        known = {name: value for name, value in values.items() if name != SKIPPED or step == last or not value}
        ends = step == last and any(name.startswith(VALIDATED) for name in values)
        completed.append((step, {**known, **final} if ends else known))
    return completed
