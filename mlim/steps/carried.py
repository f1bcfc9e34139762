"""Trainings in a folder that came from another machine: found, read and checked, before anything is recorded of them.

The folder is data and decides nothing: it may come from anyone. Its files are read once, as plain files
of bounded size inside the folder, and what they say has to have the right types; links are not followed.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AwareDatetime, ConfigDict, Field, NonNegativeInt

from mlim.config import Config, parse
from mlim.errors import InputError
from mlim.files import check_unlinked, read_plain
from mlim.offline import training_folders
from mlim.recipe import Pretraining, Recipe, Stage, TrackingConfig, Variant, stored_recipe
from mlim.steps.trained import HISTORY_FILE, RECONSTRUCTIONS, SUMMARY_FILE, TRACE_FILE
from mlim.tracking import Past
from mlim.training.metric_logger import ROW, TRAINED, VALIDATED
from mlim.training.protocols import HistoryRow
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace, run_name

NAME = {"pretrain": "name", "finetune": "row"}  # how summaries call what was trained
NEEDED = ("seed", "settings", "seconds", "hardware", "final", "skipped_steps")
UNKNOWN_LINEAGE = Lineage(UNKNOWN, False, UNKNOWN, UNKNOWN)  # of a training that was tracked, but in another store
MILLISECONDS = 1000
MEBIBYTE = 2**20
SMALL, HISTORY_BYTES, PICTURE_BYTES, TRACE_BYTES = MEBIBYTE, 64 * MEBIBYTE, 32 * MEBIBYTE, 256 * MEBIBYTE
SAMPLE: Final = re.compile(r"step-\d{1,12}\.png")
KINDS: Final = {TRAINED.rstrip("/"), VALIDATED.rstrip("/")}
MODE: Final = re.compile(r"[\w-]{1,40}", re.ASCII)
FIGURE: Final = re.compile(r"[a-z][a-z0-9_-]{0,40}", re.ASCII)  # the name of a loss or of another figure
PNG, GZIP = b"\x89PNG\r\n\x1a\n", b"\x1f\x8b"

Short = Annotated[str, Field(max_length=500)]


class _Origin(Config):
    """Code and data as the other machine knew them."""

    model_config = ConfigDict(strict=True)

    commit: Short
    dirty: bool
    data_version: Short
    validation: Short
    items: Short = UNKNOWN
    catalog: Short = UNKNOWN


class _Summary(Config):
    """What a training's summary.json has to say; it holds more, which is kept as it is."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    seed: NonNegativeInt
    again: NonNegativeInt = 0
    settings: Short
    seconds: float = Field(ge=0, le=1e9)
    hardware: Short
    final: dict[Short, float | None]
    skipped_steps: NonNegativeInt
    run_id: Short | None = None
    lineage: _Origin | None = None
    ended: AwareDatetime | None = Field(default=None, strict=False)


@dataclass(frozen=True)
class Training:
    """A training that has ended, in the work folder in which it was copied.

    `recipe` is the work folder's, but for where runs go; `experiment` is the one that it names itself. `summary` is
    all of its summary.json, `typed` what a run is made of.
    """

    recipe: Recipe
    experiment: str
    workspace: Workspace
    stage: Stage
    folder: Path
    name: str
    summary: Mapping[str, Any]
    typed: _Summary

    @property
    def title(self) -> str:
        """The name of its run."""
        return run_name(self.name, self.typed.seed, self.typed.again)

    @property
    def entry(self) -> Pretraining | Variant:
        """What its recipe says of it."""
        return self.recipe.pretrainings[self.name] if self.stage == "pretrain" else self.recipe.variants[self.name]

    @property
    def lineage(self) -> Lineage:
        """The code and data of the machine and time of training."""
        return Lineage(**self.typed.lineage.model_dump()) if self.typed.lineage else UNKNOWN_LINEAGE

    @property
    def past(self) -> Past:
        """When it began and ended."""
        ended = self.typed.ended
        end = ended.timestamp() if ended else (self.folder / SUMMARY_FILE).stat().st_mtime
        return Past(max(0, int((end - self.typed.seconds) * MILLISECONDS)), int(end * MILLISECONDS))

    def history(self) -> bytes:
        """The bytes of history.csv; `InputError` unless all of it can be read."""
        path = self.folder / HISTORY_FILE
        data = read_plain(self.workspace.root, path, HISTORY_BYTES)
        try:
            read_history(data)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(
                f"{path}: is no history of a training ({error}), so it is left; carry it home again"
            ) from None
        return data

    def samples(self) -> Iterator[tuple[str, bytes]]:
        """The files that it left to look at, by name; others that lie there are not taken.

        `InputError` for a link or for something of another kind than its name says.
        """
        root, which = self.workspace.root, (self.stage, self.name, self.typed.seed, self.typed.again)
        folder, earlier = self.workspace.samples(*which), self.workspace.earlier_samples(*which)
        if os.path.lexists(earlier) and not os.path.lexists(folder):
            folder = earlier
        check_unlinked(root, folder / RECONSTRUCTIONS)
        for path in sorted((folder / RECONSTRUCTIONS).glob("step-*.png")):
            if SAMPLE.fullmatch(path.name):
                yield f"{RECONSTRUCTIONS}/{path.name}", _of_kind(path, read_plain(root, path, PICTURE_BYTES), PNG)
        if os.path.lexists(folder / TRACE_FILE):
            trace = folder / TRACE_FILE
            yield TRACE_FILE, _of_kind(trace, read_plain(root, trace, TRACE_BYTES), GZIP)


def find_trainings(folder: Path, tracking: TrackingConfig) -> tuple[list[Training], list[str]]:
    """The trainings that can be recorded, pre-trainings first, and a sentence for each that cannot.

    Their recipe is their work folder's, but for `tracking`, which the person who imports decides.
    """
    found: list[Training] = []
    left: list[str] = []
    for workspace, candidates in _candidates(folder, left):
        recipe = _recipe(workspace)
        for stage, place in candidates:
            try:
                found.append(_read(recipe, tracking, workspace, stage, place))
            except InputError as problem:
                left.append(str(problem))
    return found, left


def _candidates(folder: Path, left: list[str]) -> Iterator[tuple[Workspace, list[tuple[Stage, Path]]]]:
    """What may be trainings, by work folder: `folder`'s own and those of its experiments' runs, or `folder` alone."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give a work folder or that of one training")
    own, place = Workspace(folder), folder.resolve()
    above = Workspace(place.parent.parent)
    single = [(stage, place) for stage, results in training_folders(above).items() if place.parent == results]
    if single and not any(results.is_dir() for results in training_folders(own).values()):
        yield above, single
        return
    for workspace in (own, *(Workspace(path) for path in _folders(folder, own.experiment_runs, left))):
        if candidates := list(_of(folder, workspace, left)):
            yield workspace, candidates


def _folders(root: Path, place: Path, left: list[str]) -> list[Path]:
    """The folders in `place`, sorted; those that a link leads to are named in `left`."""
    found = []
    for path in (place, *sorted(place.glob("*"))):
        try:
            check_unlinked(root, path)
        except InputError as problem:
            left.append(str(problem))
            if path == place:
                return []
        else:
            found += [path] if path.is_dir() and path != place and not path.name.startswith(".") else []
    return found


def _of(root: Path, workspace: Workspace, left: list[str]) -> Iterator[tuple[Stage, Path]]:
    """The folders of all trainings, of those too that have only checkpoints."""
    for stage, results in training_folders(workspace).items():
        begun = workspace.checkpoints(stage, "", 0).parent
        names = {path.name for place in (results, begun) for path in _folders(root, place, left)}
        yield from ((stage, results / name) for name in sorted(names))


def _recipe(workspace: Workspace) -> Recipe:
    """The recipe of a work folder."""
    path = workspace.recipe
    if not path.is_file():
        raise InputError(f"{path} is missing; carry it home with the trainings: it says what they are")
    text = read_plain(workspace.root, path, SMALL)
    try:
        aliases = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError):
        aliases = False  # `stored_recipe` says what is wrong with it
    if aliases:  # a few of them inside each other stand for gigabytes
        raise InputError(f"{path}: holds YAML aliases (`*name`), which mlim does not write; write the values out")
    return stored_recipe(path)


def _read(recipe: Recipe, tracking: TrackingConfig, workspace: Workspace, stage: Stage, folder: Path) -> Training:
    """One training; `InputError` when it has not ended, was copied in part, or is not what the recipe says."""
    check_unlinked(workspace.root, folder)
    missing = [name for name in (SUMMARY_FILE, HISTORY_FILE) if not os.path.lexists(folder / name)]
    if missing:
        raise InputError(
            f"{folder}: has no {' and no '.join(missing)}, so it is left; let the training end (the same command "
            "continues it) and carry home its whole folder"
        )
    summary = _summary(workspace, stage, folder / SUMMARY_FILE)
    typed = _typed(summary, folder / SUMMARY_FILE)
    name = summary[NAME[stage]]
    if not _is_of(recipe, stage, name, typed):
        raise InputError(
            f"{folder}: was trained with other settings than {workspace.recipe} has, so it is left; put the recipe "
            "there that it was trained with"
        )
    _check_place(workspace, folder, run_name(name, typed.seed, typed.again))
    here = recipe.model_copy(update={"tracking": tracking})
    training = Training(here, recipe.tracking.experiment, workspace, stage, folder, name, summary, typed)
    training.history()  # what cannot be read is known before a run is opened
    for _ in training.samples():
        pass
    return training


def _check_place(workspace: Workspace, folder: Path, name: str) -> None:
    if folder.name != name:
        raise InputError(f"{folder}: holds a training that is called {name}, so it is left; rename the folder to that")
    for path in (workspace.pipeline, workspace.pipeline.with_name(f".{workspace.pipeline.name}.lock")):
        check_unlinked(workspace.root, path)
    if not all(os.access(place, os.W_OK) for place in (folder, workspace.root)):
        raise InputError(f"{folder}: cannot be written, but keeps the run's id; copy {workspace.root} and import that")


def _summary(workspace: Workspace, stage: Stage, path: Path) -> dict[str, Any]:
    text = read_plain(workspace.root, path, SMALL)
    try:
        summary = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}), so it is left; carry it home again") from None
    missing = [key for key in (NAME[stage], *NEEDED) if key not in summary]
    if missing:
        raise InputError(f"{path}: does not say {', '.join(missing)}, so it is left; train it again with this version")
    return summary


def _typed(summary: Mapping[str, Any], path: Path) -> _Summary:
    """The parts of a summary that a run is made of, with the right types."""
    try:
        typed = parse(_Summary, summary, str(path))
        if typed.ended and typed.ended.timestamp() < typed.seconds:
            raise InputError(f"{path}: `ended` {typed.ended} is before it can have begun")
    except InputError as error:
        raise InputError(f"{error.problems[0]}; so it is left, carry it home again") from None
    return typed


def _is_of(recipe: Recipe, stage: Stage, name: object, typed: _Summary) -> bool:
    """Whether a training is one of the recipe's, with its settings."""
    known = recipe.pretrainings if stage == "pretrain" else recipe.variants
    return isinstance(name, str) and name in known and typed.settings == recipe.training_key(stage, name)


def read_history(data: bytes) -> list[HistoryRow]:
    """history.csv as the metric logger wrote it; what is empty is left out."""
    return [
        {
            "step": _within(int(row["step"])),
            "kind": _known(row["kind"], row["kind"] in KINDS),
            "mode": _known(row["mode"], bool(MODE.fullmatch(row["mode"]))),
            **{
                _known(name, bool(FIGURE.fullmatch(name))): float(value)
                for name, value in row.items()
                if value and name not in ROW
            },
        }
        for row in csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
    ]


def _within(step: int) -> int:
    if not 0 <= step < 2**53:
        raise ValueError(f"step {step}")
    return step


def _known(value: str, fine: bool) -> str:
    if not fine:
        raise ValueError(f"`{value[:40]}`")
    return value


def _of_kind(path: Path, data: bytes, begin: bytes) -> bytes:
    if not data.startswith(begin):
        raise InputError(f"{path}: is not of the kind that its name says, so its training is left; remove the file")
    return data
