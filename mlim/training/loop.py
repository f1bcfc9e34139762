"""The training loop: one small, explicit loop for pre-training and fine-tuning.

Everything random in step n is a pure function of (seed, n): the batches, the masks and, by seeding torch's generator at
every step, dropout. So a training that was stopped, or killed, continues to the same weights as one that never was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import nn

from mlim.console import ProgressBar, Terminal
from mlim.data.loader import BatchLoader
from mlim.data.seeds import seed_of
from mlim.objectives import ObjectiveOutput
from mlim.recipe import FinetuneConfig, PretrainConfig
from mlim.training.checkpoint import (
    Checkpoints,
    Snapshot,
    Tensors,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
)
from mlim.training.device import accelerator_on
from mlim.training.interrupt import Interrupted, StopRequest, stop_on_signals
from mlim.training.meter import Averages, FiniteWatch, Meter
from mlim.training.optim import build_optimizer, learning_rate, set_learning_rate

LOG_EVERY = 10  # optimiser steps between readings of the losses: each one waits for the device
SECONDS_PER_MINUTE = 60.0
NO_LIMIT = float("inf")  # the norm is measured even where it is not clipped
TRAINED, VALIDATED = "train/", "validation/"  # metrics are named `train/mlm`, `train/mlm/light`
LOSSES = ("mlm", "recon", "itm", "match", "total")
FIGURES = ("learning_rate", "samples_per_second", "grad_norm", "pr_auc")
HISTORY_COLUMNS = ("step", "kind", "mode", *LOSSES, *FIGURES)

HistoryRow = dict[str, Any]


class Prepared(Protocol):
    """A batch with everything random already drawn; `counts` are the targets of every loss, `ids` its items."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Targets of every loss."""

    @property
    def ids(self) -> list[str]:
        """Items, for messages."""


Batch = TypeVar("Batch")
Batch_contra = TypeVar("Batch_contra", contravariant=True)
P = TypeVar("P", bound=Prepared)


class Objective(Protocol[Batch_contra, P]):
    """What the loop needs of `PretrainObjective` and `MatchObjective`."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def prepare(self, batch: Batch_contra, draw: int, /) -> P:
        """Draw what is random in the `draw`-th micro-batch (on the CPU)."""

    def losses(self, prepared: P, /) -> ObjectiveOutput:
        """The losses of a prepared batch on the model's device."""


class MetricSink(Protocol):
    """Where figures go while training runs; must be cheap."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the figures of one step."""


class Validation(NamedTuple):
    """Averages by mode and over all of them; `value`, when there is one, chooses the best model (higher is better)."""

    by_mode: Mapping[str, Averages]
    overall: Averages
    value: float | None = None


class Best(NamedTuple):
    """The best model so far by validation, weights on the CPU."""

    step: int
    value: float
    weights: Tensors


@dataclass
class TrainState:
    """Where a training is; with the weights and the optimiser's moments, all that a checkpoint holds."""

    step: int = 0
    seconds: float = 0.0
    history: list[HistoryRow] = field(default_factory=list)
    logged: list[tuple[int, Averages]] = field(default_factory=list)  # everything the sink was given
    best: Best | None = None


@dataclass(frozen=True)
class TrainResult:
    """What came out; the objective's model holds the best weights (the last where nothing chooses)."""

    steps: int
    samples: int
    seconds: float
    history: list[HistoryRow]
    validation: Averages  # of the last step: overall by loss (`mlm`), and by mode (`mlm/light`)
    best_step: int
    best_value: float | None

    @property
    def samples_per_second(self) -> float:
        """Throughput of training alone, without validation and checkpoints."""
        return self.samples / self.seconds if self.seconds else 0.0


class Trainer(Generic[Batch, P]):
    """Trains `objective.model` on `device` for `config.steps` optimiser steps of `config.accumulate` micro-batches."""

    def __init__(
        self,
        objective: Objective[Batch, P],
        loader: BatchLoader[Any, Batch],
        config: PretrainConfig | FinetuneConfig,
        seed: int,
        validate: Callable[[], Validation],
        checkpoints: Checkpoints,
        sink: MetricSink,
        device: torch.device,
    ) -> None:
        self._objective, self._loader, self._config, self._seed = objective, loader, config, seed
        self._validate, self._checkpoints, self._sink, self._device = validate, checkpoints, sink, device
        self._accelerator = accelerator_on(device)
        self._model = objective.model.to(device)
        self._parameters = list(self._model.parameters())
        self._optimizer = build_optimizer(self._model, config.optim)
        self._state = TrainState()
        self._meter = Meter()
        self._watch = FiniteWatch(device)
        self._norm = torch.zeros((), device=device)
        self._clock = _Stopwatch()
        self._clock_step = 0  # the step at which it was restarted
        self._saved_at = time.monotonic()
        self._note = ""  # the last losses, for the progress bar

    def run(self, terminal: Terminal, title: str) -> TrainResult:
        """Train to the end, from the newest checkpoint if there is one.

        Raises `Interrupted` after SIGINT or SIGTERM (a checkpoint is written first) and `MlimError` when a loss is not
        finite or a checkpoint cannot be written.
        """
        self._restore(terminal)
        self._model.train()
        try:
            with stop_on_signals() as stop, terminal.progress(title, self._config.steps) as bar:
                bar.advance(self._state.step)
                self._clock.restart()
                while self._state.step < self._config.steps:
                    self._step()
                    self._after_step(stop, bar)
        finally:
            self._loader.close()
        return self._result()

    def _step(self) -> None:
        config, step = self._config, self._state.step
        torch.manual_seed(seed_of("dropout", self._seed, step))
        first = step * config.accumulate
        micro = [self._objective.prepare(next(self._loader), first + place) for place in range(config.accumulate)]
        counts = _add_counts([prepared.counts for prepared in micro])
        loss = torch.zeros((), device=self._device)
        for prepared in micro:
            output = self._objective.losses(send_to_device(prepared, self._device))
            part = _weighted_mean(output, counts)
            self._accelerator.backward(part)
            self._meter.add(output, prepared.counts)
            loss = loss + part.detach()
        self._norm = self._update(step)
        self._watch.add(step, loss, self._norm, [item for prepared in micro for item in prepared.ids])

    def _update(self, step: int) -> torch.Tensor:
        """Clip, move the weights, and give the gradient's norm before clipping."""
        config = self._config.optim
        norm = self._accelerator.clip_grad_norm_(self._parameters, config.clip_norm or NO_LIMIT)
        set_learning_rate(self._optimizer, learning_rate(step, self._config.steps, config))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return torch.as_tensor(norm, device=self._device)

    def _after_step(self, stop: StopRequest, bar: ProgressBar) -> None:
        state, config = self._state, self._config
        state.step += 1
        done = state.step == config.steps
        if done or state.step % LOG_EVERY == 0:
            self._note = self._log_training()
        bar.advance(1, self._note)
        with self._clock.paused():
            if done or state.step % config.validate_every == 0:
                self._log_validation()
            if done or stop.signal is not None or self._save_is_due():
                self._save()
        if stop.signal is not None:
            raise Interrupted(
                f"stopped by {stop.signal.name} after step {state.step} of {config.steps}; a checkpoint is written, "
                "the same command continues from it"
            )

    def _log_training(self) -> str:
        """Read the losses since the last reading into the history and the sink; gives a note for the progress bar."""
        self._watch.check()
        seconds = self._clock.restart()
        self._state.seconds += seconds
        steps, self._clock_step = self._state.step - self._clock_step, self._state.step
        figures = {
            "learning_rate": learning_rate(self._state.step - 1, self._config.steps, self._config.optim),
            "samples_per_second": steps * self._samples_per_step / seconds,
            "grad_norm": self._norm.item(),
        }
        overall, by_mode = self._meter.overall(), self._meter.by_mode()
        self._meter.reset()
        self._record(TRAINED, by_mode, overall, figures)
        shown = " ".join(f"{name} {value:.4f}" for name, value in overall.items() if name != "total")
        return f"{shown}  {figures['samples_per_second']:.0f}/s"

    def _log_validation(self) -> None:
        self._watch.check()
        self._model.eval()
        with torch.no_grad():
            found = self._validate()
        self._model.train()
        figures = {} if found.value is None else {"pr_auc": found.value}  # named as in the tables
        self._record(VALIDATED, found.by_mode, found.overall, figures)
        best = self._state.best
        if found.value is not None and (best is None or found.value >= best.value):  # a tie goes to the later one
            weights = {name: value.cpu().clone() for name, value in model_tensors(self._model).items()}
            self._state.best = Best(self._state.step, found.value, weights)

    def _record(
        self, prefix: str, by_mode: Mapping[str, Averages], overall: Averages, figures: Mapping[str, float]
    ) -> None:
        step = self._state.step
        for mode, means in by_mode.items():
            self._state.history.append({"step": step, "kind": prefix.rstrip("/"), "mode": mode, **means, **figures})
        values = {f"{prefix}{name}": value for name, value in overall.items()}
        for mode, means in by_mode.items():
            values |= {f"{prefix}{name}/{mode}": value for name, value in means.items()}
        values |= figures
        self._state.logged.append((step, values))
        self._sink.log(values, step)

    @property
    def _samples_per_step(self) -> int:
        return self._config.batch_size * self._config.accumulate

    def _save_is_due(self) -> bool:
        when = self._config.checkpoint
        waited = time.monotonic() - self._saved_at
        return self._state.step % when.every_steps == 0 or waited >= when.every_minutes * SECONDS_PER_MINUTE

    def _save(self) -> None:
        self._watch.check()
        state = self._state
        tensors: dict[str, Tensors] = {"model": model_tensors(self._model)}
        tensors["optimizer"] = optimizer_tensors(self._optimizer)
        if state.best is not None:
            tensors["best"] = state.best.weights
        values = {
            "seconds": state.seconds + self._clock.read(),
            "history": state.history,
            "logged": state.logged,
            "best": None if state.best is None else {"step": state.best.step, "value": state.best.value},
            "loader": self._loader.state_dict(),
            "meter": self._meter.state_dict(),
        }
        self._checkpoints.save(Snapshot(state.step, tensors, values))
        self._saved_at = time.monotonic()

    def _restore(self, terminal: Terminal) -> None:
        snapshot = self._checkpoints.newest()
        if snapshot is None:
            return
        values = snapshot.state
        load_model_tensors(self._model, snapshot.tensors["model"])
        load_optimizer_tensors(self._optimizer, snapshot.tensors["optimizer"])
        best = None if values["best"] is None else Best(**values["best"], weights=snapshot.tensors["best"])
        logged = [(step, figures) for step, figures in values["logged"]]
        self._state = TrainState(snapshot.step, values["seconds"], list(values["history"]), logged, best)
        self._clock_step = snapshot.step
        self._loader.load_state_dict(values["loader"])
        self._meter.load_state_dict(values["meter"])
        for step, figures in logged:  # the run that tracks from here on shows the whole curve
            self._sink.log(figures, step)
        terminal.say(f"continuing from the checkpoint of step {snapshot.step} of {self._config.steps}")

    def _result(self) -> TrainResult:
        state = self._state
        if state.best is not None:
            load_model_tensors(self._model, state.best.weights)
        samples = state.step * self._samples_per_step
        best_step, best_value = (state.step, None) if state.best is None else (state.best.step, state.best.value)
        last = {
            name.removeprefix(VALIDATED): value
            for name, value in state.logged[-1][1].items()
            if name.startswith(VALIDATED)
        }
        return TrainResult(state.step, samples, state.seconds, state.history, last, best_step, best_value)


class _Stopwatch:
    """Seconds since the last restart, pauses left out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def read(self) -> float:
        return time.perf_counter() - self._start

    def restart(self) -> float:
        """The seconds so far; counting begins again."""
        seconds = self.read()
        self._start += seconds
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        before = self.read()
        try:
            yield
        finally:
            self._start += self.read() - before


def _add_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(each[name] for each in counts) for name in counts[0]}


def _weighted_mean(output: ObjectiveOutput, counts: Mapping[str, int]) -> torch.Tensor:
    """This micro-batch's share of the step's loss: sums divided by the targets of the whole step, weighted."""
    parts = [weight * term.total / max(counts[name], 1) for name, term, weight in output.terms]
    return torch.stack(parts).sum()
