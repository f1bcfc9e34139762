"""The trainings of a grid: those that have no result yet, one after another or several at a time."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.evaluation.evidence import Variant
from mlim.files import read_json
from mlim.processes import die_with_parent
from mlim.recipe import Stage
from mlim.steps.finetune import finetune
from mlim.steps.plan import trainings
from mlim.steps.pretrain import pretrain
from mlim.steps.trained import SUMMARY_FILE
from mlim.training.interrupt import Interrupted
from mlim.workspace import cell

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Training:
    """One cell of a grid: what is trained, with which recipe, in which work folder."""

    place: Variant
    stage: Stage
    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.stage} {cell(self.name, self.seed)} of {self.place.recipe.name}"

    @property
    def folder(self) -> Path:
        """Where its result lies."""
        workspace = self.place.workspace
        return (workspace.pretrained if self.stage == "pretrain" else workspace.finetuned)(self.name, self.seed)

    @property
    def is_done(self) -> bool:
        """Whether its result is there, whatever made it."""
        return (self.folder / SUMMARY_FILE).is_file()

    @property
    def is_stale(self) -> bool:
        """Whether the result that is there was trained with other settings than the recipe's."""
        wanted = self.place.recipe.training_key(self.stage, self.name)
        return self.is_done and read_json(self.folder / SUMMARY_FILE).get("settings") != wanted


def train_missing(places: Sequence[Variant], terminal: Terminal, jobs: int | None = None) -> None:
    """Train every cell of the recipes that has no result yet: a killed sweep goes on where it was.

    With `jobs` above 1 so many trainings run side by side, one device each (or its share of the cores); None: what the
    recipe says, and no fewer than there are CUDA devices. `InputError` when a result was trained with other settings
    than the recipe's.
    """
    wanted = _once(training for place in places for training in _trainings(place))
    stale = [f"{training.folder} was trained with other settings" for training in wanted if training.is_stale]
    if stale:
        raise InputError(*stale, "remove these folders to train them again, or choose another --work")
    missing = [training for training in wanted if not training.is_done]
    side_by_side = jobs or max(places[0].recipe.compute.side_by_side, torch.cuda.device_count())
    for stage in ("pretrain", "finetune"):  # a fine-tuning starts from a pre-training
        wave = [training for training in missing if training.stage == stage]
        if side_by_side == 1 or len(wave) < 2:
            for training in wave:
                _train(training, terminal)
        else:
            _train_together(wave, terminal, side_by_side)


def _trainings(place: Variant) -> Iterator[Training]:
    for stage in trainings(place.recipe):
        command: Stage = "pretrain" if stage.command == "pretrain" else "finetune"
        yield Training(place, command, str(stage.name), stage.seed or 0)


def _once(found: Iterable[Training]) -> list[Training]:
    """Each result once, trained by the first that asks for it: variants may share the pre-training of the recipe."""
    by_folder: dict[Path, Training] = {}
    for training in found:
        by_folder.setdefault(training.folder.resolve(), training)
    return list(by_folder.values())


def _train(training: Training, terminal: Terminal) -> None:
    step = pretrain if training.stage == "pretrain" else finetune
    step(training.place.recipe, training.place.workspace, terminal, training.name, training.seed)


def _train_together(wave: Sequence[Training], terminal: Terminal, jobs: int) -> None:
    """All trainings, `jobs` at a time; after a failure those under way end first, and no other starts."""
    context = multiprocessing.get_context("spawn")
    devices: Queue[str] = context.Queue()
    for _, device in zip(range(jobs), cycle(_cuda_devices() or [""]), strict=False):
        devices.put(device)
    threads = max(1, torch.get_num_threads() // jobs)
    with (
        terminal.progress(f"{wave[0].stage}, {jobs} at a time", len(wave)) as bar,
        ProcessPoolExecutor(jobs, context, _settle, (devices, threads)) as pool,
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


def _settle(devices: "Queue[str]", threads: int) -> None:
    """Give a new process its own device, before CUDA starts in it, and its share of the cores."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: a training stops by itself, the pool is ended
    device = devices.get()
    if device:
        os.environ[VISIBLE_DEVICES] = device
    torch.set_num_threads(threads)
