"""The trainings of an experiment: those that have no result yet, one after another or several at a time."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import cycle
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.files import read_json
from mlim.processes import die_with_parent
from mlim.recipe import Stage
from mlim.steps.at_once import trainings_at_once
from mlim.steps.finetune import finetune
from mlim.steps.missing_regions import require_regions
from mlim.steps.plan import trainings
from mlim.steps.pretrain import pretrain
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.trained import SUMMARY_FILE
from mlim.training.interrupt import Interrupted
from mlim.workspace import Workspace, run_name
from mlim.writer import share_until_exit

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Training:
    """One training of an experiment: what is trained, with which recipe, in which work folder."""

    place: ExperimentRun
    stage: Stage
    name: str
    seed: int
    again: int = 0

    def __str__(self) -> str:
        return f"{self.stage} {run_name(self.name, self.seed, self.again)} of {self.place.recipe.name}"

    @property
    def folder(self) -> Path:
        """Where its result lies."""
        workspace = self.place.workspace
        if self.stage == "pretrain":
            return workspace.pretrained(self.name, self.seed)
        return workspace.finetuned(self.name, self.seed, self.again)

    @property
    def is_done(self) -> bool:
        """Whether its result is there, whatever made it."""
        return (self.folder / SUMMARY_FILE).is_file()

    @property
    def is_stale(self) -> bool:
        """Whether the result that is there was trained with other settings than the recipe's.

        A further fine-tuning also is when the first one was made from other data or another pre-training since.
        """
        if not self.is_done:
            return False
        summary, wanted = read_json(self.folder / SUMMARY_FILE), self.place.recipe.training_key(self.stage, self.name)
        first = replace(self, again=0)
        origin = read_json(first.folder / SUMMARY_FILE).get("made_from") if self.again and first.is_done else None
        return summary.get("settings") != wanted or (origin is not None and summary.get("made_from") != origin)


def train_missing(places: Sequence[ExperimentRun], terminal: Terminal, jobs: int | None = None) -> None:
    """Train every run of the recipes that has no result yet: a killed sweep goes on where it was.

    With `jobs` above 1 so many trainings run side by side, one device each (or its share of the cores); None: what the
    recipe says, and no fewer than there are CUDA devices. `InputError` when a result was trained with other settings
    than the recipe's, or regions are missing that a variant reads.
    """
    wanted = wanted_trainings(places)
    stale = [f"{training.folder} was trained with other settings" for training in wanted if training.is_stale]
    if stale:
        raise InputError(*stale, "remove these folders to train them again, or choose another --work")
    missing = [training for training in wanted if not training.is_done]
    side_by_side = jobs or max(trainings_at_once(places[0].recipe), torch.cuda.device_count())
    for place in places:
        require_regions(place.recipe, place.workspace)
    for stage in ("pretrain", "finetune"):  # a fine-tuning starts from a pre-training
        wave = [training for training in missing if training.stage == stage]
        if side_by_side == 1 or len(wave) < 2:
            for training in wave:
                _train(training, terminal)
        else:
            _train_together(wave, terminal, side_by_side, places[0].workspace)


def wanted_trainings(places: Sequence[ExperimentRun]) -> list[Training]:
    """Every training that the recipes ask for, whether it has a result or not."""
    return _once(training for place in places for training in _trainings(place))


def _trainings(place: ExperimentRun) -> Iterator[Training]:
    for stage in trainings(place.recipe):
        command: Stage = "pretrain" if stage.command == "pretrain" else "finetune"
        for again in range(1 if command == "pretrain" else place.recipe.finetunings):
            yield Training(place, command, str(stage.name), stage.seed or 0, again)


def _once(found: Iterable[Training]) -> list[Training]:
    """Each result once, trained by the first that asks for it: runs of an experiment may share pre-training."""
    by_folder: dict[Path, Training] = {}
    for training in found:
        by_folder.setdefault(training.folder.resolve(), training)
    return list(by_folder.values())


def _train(training: Training, terminal: Terminal) -> None:
    recipe, workspace = training.place
    if training.stage == "pretrain":
        pretrain(recipe, workspace, terminal, training.name, training.seed)
    else:
        finetune(recipe, workspace, terminal, training.name, training.seed, again=training.again)


def _train_together(wave: Sequence[Training], terminal: Terminal, jobs: int, work: Workspace) -> None:
    """All trainings, `jobs` at a time; after a failure those under way end first, and no other starts.

    `work` is the work folder whose lock they share.
    """
    context = multiprocessing.get_context("spawn")
    devices: Queue[str] = context.Queue()
    for _, device in zip(range(jobs), cycle(_cuda_devices() or [""]), strict=False):
        devices.put(device)
    threads = max(1, torch.get_num_threads() // jobs)
    with (
        terminal.progress(f"{wave[0].stage}, {jobs} at a time", len(wave)) as bar,
        ProcessPoolExecutor(jobs, context, _init_worker, (devices, threads, work)) as pool,
    ):
        running = {pool.submit(_train_quietly, training): training for training in wave}
        try:
            for done in as_completed(running):
                done.result()
                bar.advance(1, str(running[done]))
        except BrokenProcessPool:
            raise MlimError(
                "a training process was stopped or killed (out of memory?); results and checkpoints are kept: run the "
                "same command again to go on"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train_quietly(training: Training) -> None:
    """Runs in a process of the pool, which ends with a training that was stopped: the pool would give it the next.

    A training that is stopped before its first step or after its last one says so by SystemExit.
    """
    try:
        _train(training, Terminal(quiet=True))
    except (Interrupted, SystemExit):
        signal.raise_signal(signal.SIGTERM)
        raise


def _cuda_devices() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES calls what this process sees."""
    visible = os.environ.get(VISIBLE_DEVICES)
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _init_worker(devices: "Queue[str]", threads: int, workspace: Workspace) -> None:
    """Give a new process its own device, before CUDA starts in it, its share of the cores and of the folder's lock."""
    die_with_parent()
    share_until_exit(workspace)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: a training stops by itself, the pool is ended
    device = devices.get()
    if device:
        os.environ[VISIBLE_DEVICES] = device
    torch.set_num_threads(threads)
