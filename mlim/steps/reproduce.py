"""`mlim reproduce MODEL`: a registered version's training again, from its recipe and its data, and what differs."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, sha256_of
from mlim.recipe import Recipe, TrackingConfig, stored_recipe
from mlim.registry import RUN_OF_REGISTRATION, RUN_PREFIX, Registry
from mlim.steps.carried import read_history
from mlim.steps.evaluate import evaluate
from mlim.steps.finetune import finetune
from mlim.steps.ingest import ingest
from mlim.steps.pairs import make_pairs
from mlim.steps.pretrain import pretrain
from mlim.steps.stack import stack
from mlim.steps.trained import HISTORY_FILE
from mlim.steps.validate import validate
from mlim.tracking import fetch_artifact
from mlim.training.metric_logger import ROW, TIMED
from mlim.training.protocols import HistoryRow
from mlim.versions import UNKNOWN, git_state
from mlim.workspace import Workspace
from mlim.writer import only_writer, recording

UNTRACKED: Final = "none"
RECIPE: Final = "recipe.yaml"
FIGURES: Final = "summary.json"
EARLIER_FIGURES: Final = "metrics.json"  # earlier versions of mlim kept all of them in it


def reproduce(
    tracking: TrackingConfig,
    registry: Registry,
    version: str,
    catalog: Path,
    workspace: Workspace,
    terminal: Terminal,
    anyway: bool = False,
) -> dict[str, Any]:
    """Train a version again in a new work folder and compare losses and figures with those of its runs.

    Its code is checked first and its data after ingest: `InputError` with everything that is not what it was trained
    with, unless `anyway`. Nothing is tracked. Gives the largest difference of each training's losses and of the
    figures on validation and test pairs, with `same`, whether all are 0.
    """
    tags = registry.tags(version)
    with TemporaryDirectory() as temporary:
        before = _Before(tracking, tags, Path(temporary))
        recipe = before.recipe(f"{registry.name} version {version}")
        trainings = _trainings(recipe, workspace)
        before.fetch(trainings)
        if workspace.pipeline.exists():  # a reproduction tracks nothing, also one that is continued
            raise InputError(
                f"--work {workspace.root}: holds the results of a tracked pipeline, which would be replaced; name "
                "another folder"
            )
        problems = list(_other_code(tags))
        if problems and not anyway:
            raise InputError(
                *problems, "check out that commit in a clean folder, or compare all the same with --anyway"
            )
        for problem in problems:
            terminal.warn(problem)
        with only_writer(workspace, recipe.record, "mlim reproduce"), recording(workspace, recipe.record):
            _prepare(recipe, catalog, workspace, terminal, tags.get("mlim.items_sha256", UNKNOWN), anyway)
            _train(recipe, workspace, terminal)
        compared = {stage: before.compared(stage, folder) for stage, folder in trainings.items()}
        figures = before.figures(workspace.evaluation / FIGURES)
    differences = [*(each["largest"] for each in compared.values()), *(each["difference"] for each in figures.values())]
    return {
        "model": registry.name,
        "version": version,
        "same": all(each == 0 for each in differences),
        "largest": max(differences, default=0.0),
        "trainings": compared,
        "figures": figures,
        "problems": problems,
    }


class _Before:
    """What the runs of a version kept."""

    def __init__(self, tracking: TrackingConfig, tags: Mapping[str, str], folder: Path) -> None:
        self._tracking, self._tags, self._folder = tracking, tags, folder
        self._kept = dict[str, Path]()

    def recipe(self, model: str) -> Recipe:
        """The recipe as it was registered, tracking nothing; `InputError` where the run is gone."""
        path = self._artifact(RUN_OF_REGISTRATION, RECIPE)
        if path is None:
            raise InputError(f"{model}: the run that registered it is gone, and with it its recipe")
        found = stored_recipe(path)
        return found.model_copy(update={"tracking": found.tracking.model_copy(update={"uri": UNTRACKED})})

    def fetch(self, stages: Iterable[str]) -> None:
        """Get all that is compared; `InputError` where it is gone, before anything is trained for hours."""
        for stage in stages:
            history = self._artifact(f"{RUN_PREFIX}{stage}", HISTORY_FILE)
            if history is None:
                raise InputError(
                    f"the history of the {stage} run is gone from the store: its losses cannot be compared"
                )
            self._kept[stage] = history
        run = f"{RUN_PREFIX}evaluate"
        figures = self._artifact(run, FIGURES) or self._artifact(run, EARLIER_FIGURES)
        if figures is None:
            raise InputError("the figures of the evaluation are gone from the store: they cannot be compared")
        self._kept[FIGURES] = figures

    def compared(self, stage: str, folder: Path) -> dict[str, Any]:
        """Rows and largest difference between the history that a run kept and the one in `folder`."""
        old, new = (read_history(each.read_bytes()) for each in (self._kept[stage], folder / HISTORY_FILE))
        return {"rows": len(new), "largest": largest_difference(old, new)}

    def figures(self, path: Path) -> dict[str, dict[str, float]]:
        """The figures of the evaluation, before and now."""
        old, new = dict(_figures(read_json(self._kept[FIGURES]))), dict(_figures(read_json(path)))
        return {name: {"before": old[name], "now": new[name], "difference": abs(new[name] - old[name])} for name in old}

    def _artifact(self, tag: str, name: str) -> Path | None:
        run = self._tags.get(tag)
        if run is None:
            return None
        place = self._folder / tag
        place.mkdir(exist_ok=True)
        return fetch_artifact(self._tracking, run, name, place)


def _other_code(tags: Mapping[str, str]) -> Iterator[str]:
    """Why the code here is not the code that trained the version."""
    (commit, dirty), made = git_state(Path.cwd()), tags.get("mlim.commit", UNKNOWN)
    if made == UNKNOWN:
        yield "the version does not say which commit trained it"
    elif commit != made:
        yield f"the version was trained by commit {made}, and {commit} is checked out here"
    if tags.get("mlim.dirty") == "true":
        yield "the version was trained with uncommitted changes, which nobody has kept"
    if dirty:
        yield "there are uncommitted changes here"


def _prepare(
    recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, manifest: str, anyway: bool
) -> None:
    """Ingest, validate and pair the catalog; `InputError` when its items are not those of the version."""
    ingest(recipe, catalog, workspace, terminal)
    found = sha256_of(workspace.items / "manifest.json")
    if found != manifest:
        problem = f"{catalog} holds other items (manifest {found}) than the version learned from ({manifest})"
        if not anyway:
            raise InputError(f"{problem}; bring back that data version, or compare all the same with --anyway")
        terminal.warn(problem)
    validate(recipe, catalog, workspace, terminal)
    make_pairs(recipe, catalog, workspace, terminal)


def _train(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> None:
    start, seed = recipe.main_variant.pretraining, recipe.seeds[0]
    if start is not None:
        pretrain(recipe, workspace, terminal, start, seed)
    finetune(recipe, workspace, terminal, recipe.main, seed)
    stack(recipe, workspace, terminal)
    evaluate(recipe, workspace, terminal)


def _trainings(recipe: Recipe, workspace: Workspace) -> dict[str, Path]:
    """Where the trainings of the main model lie, by stage."""
    start, seed = recipe.main_variant.pretraining, recipe.seeds[0]
    before = {} if start is None else {"pretrain": workspace.pretrained(start, seed)}
    return {**before, "finetune": workspace.finetuned(recipe.main, seed)}


def largest_difference(old: list[HistoryRow], new: list[HistoryRow]) -> float:
    """The largest difference of a loss or figure in two histories; infinite when they are of other steps."""
    if [_place(row) for row in old] != [_place(row) for row in new]:
        return math.inf
    pairs = [
        (float(before[name]), float(now.get(name, math.nan)))
        for before, now in zip(old, new, strict=True)
        for name in before
        if name not in (*ROW, *TIMED)
    ]
    gaps = [abs(now - before) for before, now in pairs if not (math.isnan(before) and math.isnan(now))]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def _place(row: HistoryRow) -> tuple[object, ...]:
    return tuple(row[name] for name in ROW)


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "test/pr_auc", float(metrics["registered"]["pr_auc"]["value"])
    for name in ("precision_at_threshold", "recall_at_threshold"):
        yield f"validation/{name}", float(metrics[f"validation_{name}"])
        yield f"test/{name}", float(metrics[name])
    yield "threshold", float(metrics["threshold"])
