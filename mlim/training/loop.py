"""The training loop: one small, explicit loop for pre-training and fine-tuning, on one device or many.

Everything random in step n is a pure function of (seed, n): the batches, the masks and, by seeding torch's generator at
every step, dropout. So a training that was stopped, or killed, continues to the same weights as one that never was.
Losses are sums, divided by the targets of the whole step: micro-batches and ranks change the speed, not the result.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from mlim.console import ProgressBar, Terminal
from mlim.data.loader import BatchLoader
from mlim.data.seeds import seed_of
from mlim.data.transfer import to_device
from mlim.objectives import ObjectiveOutput
from mlim.recipe import FinetuneConfig, OptimConfig, PretrainConfig
from mlim.training.ahead import StepsAhead
from mlim.training.checkpoint import (
    BackgroundSaver,
    Checkpoints,
    Snapshot,
    Tensors,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    whole,
)
from mlim.training.contracts import Best, MetricSink, Objective, P, TrainResult, TrainState, Unheard, Validation
from mlim.training.device import Place
from mlim.training.forward import Forward
from mlim.training.interrupt import Interrupted, StopRequest, stop_on_signals
from mlim.training.journal import VALIDATED, Journal, Rates
from mlim.training.memory import explain_out_of_memory
from mlim.training.meter import BadStep, FiniteWatch, Meter
from mlim.training.optim import (
    MovingAverage,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
    step_unless,
)
from mlim.training.trace import StepTrace

LOG_EVERY = 10  # optimiser steps between readings of the losses: each one waits for the device
SECONDS_PER_MINUTE = 60.0
NOT_FINITE_FILE = "not-finite.json"

Batch = TypeVar("Batch")


class Trainer(Generic[Batch, P]):
    """Trains `objective.model` at `place` for `config.steps` optimiser steps of `config.accumulate` micro-batches."""

    def __init__(
        self,
        objective: Objective[Batch, P],
        loader: BatchLoader[Any, Batch],
        config: PretrainConfig | FinetuneConfig,
        seed: int,
        validate: Callable[[int], Validation],
        checkpoints: Checkpoints,
        sink: MetricSink,
        place: Place,
        trace: Path | None = None,
    ) -> None:
        self._objective, self._loader, self._config, self._seed = objective, loader, config, seed
        self._batches = StepsAhead(loader, self._take_batches, config.steps)
        self._validate, self._checkpoints, self._place, self._ranks = validate, checkpoints, place, place.ranks
        self._model = objective.model.to(place.device)
        self._forward = Forward(objective, place)
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(self._model, config.optim)
        self._average = MovingAverage(self._model, config.ema_decay if isinstance(config, FinetuneConfig) else 0.0)
        self._saver = BackgroundSaver(checkpoints)
        self._state = TrainState()
        self._journal = Journal(self._state, sink if self._ranks.leads else Unheard())
        self._meter, self._rates = Meter(), Rates()
        self._trace = StepTrace(place.compute.trace if trace else None, trace or Path())
        self._watch = FiniteWatch(config.max_skipped_steps, self._keep_bad_steps)
        self._norm = torch.zeros(())
        self._note = ""  # the last losses, for the progress bar
        self._saved_at = time.monotonic()
        self._save_is_due = self._save_is_postponed = self._stop_is_asked = False

    def run(self, terminal: Terminal, title: str) -> TrainResult:
        """Train to the end, from the newest checkpoint if there is one.

        Raises `Interrupted` after SIGINT or SIGTERM (a checkpoint is written first) and `MlimError` when too many
        losses are not finite, a checkpoint cannot be written or the device's memory does not suffice.
        """
        self._restore(terminal)
        self._model.train()
        config = self._config
        try:
            with (
                explain_out_of_memory(config.batch_size),
                stop_on_signals() as stop,
                terminal.progress(title, config.steps) as bar,
            ):
                bar.advance(self._state.step)
                self._rates.restart()
                while self._state.step < config.steps:
                    self._trace.before(self._state.step)
                    self._step(stop)
                    self._trace.after(self._state.step)
                    self._after_step(stop, bar)
            self._saver.wait()
        finally:
            self._saver.close()
            self._batches.close()
        return self._result()

    def _step(self, stop: StopRequest) -> None:
        step = self._state.step
        torch.manual_seed(seed_of("dropout", self._seed, step, self._ranks.rank))
        with self._rates.waiting():
            micro = self._batches.take(step)
        counts = self._agree(micro, stop)
        loss = torch.zeros((), device=self._place.device)
        for number, prepared in enumerate(micro, start=1):
            with self._forward.alone(number < len(micro)), self._place.autocast():
                output = self._forward(to_device(prepared, self._place.device))
            part = _weighted_mean(output, counts)
            with self._forward.alone(number < len(micro)):
                # DDP takes the mean over ranks, the step wants their sum
                (part * self._ranks.size).backward()  # type: ignore[no-untyped-call]
            self._meter.add(output, prepared.counts)
            loss = loss + part.detach()
        self._update(step, loss, [item for prepared in micro for item in prepared.ids])

    def _take_batches(self, step: int) -> list[P]:
        """This rank's part of every micro-batch of a step; runs beside the step before it."""
        config, ranks = self._config, self._ranks
        first = ranks.rank * ranks.share(config.batch_size)
        starts = range(first, config.accumulate * config.batch_size, config.batch_size)
        return [self._objective.prepare(next(self._loader), step, start) for start in starts]

    def _agree(self, micro: Sequence[P], stop: StopRequest) -> dict[str, float]:
        """The targets of the step over all micro-batches and ranks; also whether one of them is to stop or to save."""
        names = list(micro[0].counts)
        waited = time.monotonic() - self._saved_at
        due = self._ranks.leads and waited >= self._config.checkpoint.every_minutes * SECONDS_PER_MINUTE
        counts = [sum(prepared.counts[name] for prepared in micro) for name in names]
        costs = [sum(prepared.tokens for prepared in micro), sum(map(self._objective.operations, micro))]
        *totals, stops, saves, tokens, operations = self._ranks.sum([*counts, stop.signal is not None, due, *costs])
        self._stop_is_asked, self._save_is_due = stops > 0, saves > 0 or self._save_is_postponed
        self._rates.count(tokens, operations)
        return dict(zip(names, totals, strict=True))

    def _update(self, step: int, loss: torch.Tensor, items: Sequence[str]) -> None:
        """Clip and move the weights, unless the loss or a gradient is not finite."""
        config = self._config.optim
        self._norm = clip_gradients(self._parameters, config.clip_norm)
        bad = self._ranks.any((~(torch.isfinite(loss) & torch.isfinite(self._norm))).float())
        set_learning_rate(self._optimizer, learning_rate(step, self._config.steps, config))
        step_unless(bad, self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        self._average.update(step + 1)
        self._watch.add(step, bad, items)

    def _after_step(self, stop: StopRequest, bar: ProgressBar) -> None:
        state, config = self._state, self._config
        state.step += 1
        done = state.step == config.steps
        if done or state.step % LOG_EVERY == 0:
            self._note = self._log_training()
        bar.advance(1, self._note)
        with self._rates.paused():
            if done or state.step % config.validate_every == 0:
                self._log_validation()
            if done or self._stop_is_asked or self._save_is_due or state.step % config.checkpoint.every_steps == 0:
                self._save(done)
        if self._stop_is_asked:
            self._saver.wait()
            asked = stop.signal.name if stop.signal else "another process"
            raise Interrupted(
                f"stopped by {asked} after step {state.step} of {config.steps}; a checkpoint is written, "
                "the same command continues from it"
            )

    def _log_training(self) -> str:
        """Read the losses since the last reading into the history and the sink; gives a note for the progress bar."""
        self._check_finite()
        samples = self._config.batch_size * self._config.accumulate
        figures = {
            **self._rates.read(self._state, samples, self._place),
            "learning_rate": learning_rate(self._state.step - 1, self._config.steps, self._config.optim),
            "grad_norm": self._norm.item(),
        }
        meter = self._meter.gathered(self._ranks)
        self._meter.reset()
        self._journal.trained(meter.by_mode(), meter.overall(), figures)
        shown = " ".join(f"{name} {value:.4f}" for name, value in meter.overall().items() if name != "total")
        return f"{shown}  {figures['samples_per_second']:.0f}/s"

    def _check_finite(self) -> None:
        self._state.skipped = self._watch.check(self._state.skipped)

    def _keep_bad_steps(self, steps: Sequence[BadStep]) -> Path:
        """Every rank writes down its own items."""
        name = NOT_FINITE_FILE if self._ranks.leads else f"rank-{self._ranks.rank}-{NOT_FINITE_FILE}"
        return self._checkpoints.note(name, [{"step": step, "items": list(items)} for step, items in steps])

    def _log_validation(self) -> None:
        self._check_finite()
        self._model.eval()
        self._average.exchange()
        with torch.no_grad(), self._place.autocast(), self._forward.whole():
            found = self._validate(self._state.step)
        self._journal.validated(found)
        best = self._state.best
        if found.value is not None and (best is None or found.value >= best.value):  # a tie goes to the later one
            weights = {name: value.cpu().clone() for name, value in whole(model_tensors(self._model)).items()}
            self._state.best = Best(self._state.step, found.value, weights)
        self._average.exchange()
        self._model.train()

    def _save(self, done: bool) -> None:
        """Every rank comes here in the same step; rank 0 writes."""
        self._check_finite()
        meter = self._meter.gathered(self._ranks)
        # what made the newest step go wrong may be in the weights: wait for a good one
        self._save_is_postponed = self._watch.newest_is_bad and not done
        if self._save_is_postponed:
            return
        tensors = self._tensors()
        if self._ranks.leads:
            self._saver.save(Snapshot(self._state.step, tensors, self._values(meter)))
        self._saved_at = time.monotonic()

    def _tensors(self) -> Mapping[str, Tensors]:
        best = self._state.best
        groups = {
            "model": whole(model_tensors(self._model)),
            "optimizer": whole(optimizer_tensors(self._optimizer)),
            "average": whole(self._average.tensors),
            "best": {} if best is None else best.weights,
        }
        return {name: tensors for name, tensors in groups.items() if tensors}

    def _values(self, meter: Meter) -> Mapping[str, Any]:
        state = self._state
        return {
            "seconds": state.seconds + self._rates.seconds,
            "skipped": state.skipped,
            "history": list(state.history),
            "logged": list(state.logged),
            "best": None if state.best is None else {"step": state.best.step, "value": state.best.value},
            "loader": self._batches.state_dict(),
            "meter": meter.state_dict(),
        }

    def _restore(self, terminal: Terminal) -> None:
        with self._ranks.one_first():  # the first one removes what is damaged
            snapshot = self._checkpoints.newest()
        if snapshot is None:
            return
        values, tensors, state = snapshot.state, snapshot.tensors, self._state
        load_model_tensors(self._model, tensors["model"])
        load_optimizer_tensors(self._optimizer, tensors["optimizer"])
        self._average.load(tensors.get("average", {}))
        state.step, state.seconds, state.skipped = snapshot.step, values["seconds"], values["skipped"]
        state.best = None if values["best"] is None else Best(**values["best"], weights=tensors["best"])
        self._journal.load(values["history"], values["logged"])
        self._batches.load_state_dict(values["loader"])
        self._meter.load_state_dict(values["meter"], self._ranks)
        self._rates.continue_at(snapshot.step)
        terminal.say(f"continuing from the checkpoint of step {snapshot.step} of {self._config.steps}")

    def _result(self) -> TrainResult:
        state, best = self._state, self._state.best
        if best is not None:
            load_model_tensors(self._model, best.weights)
        else:
            self._average.exchange()
        weights = whole(model_tensors(self._model))  # every rank: they may be sharded
        samples = state.step * self._config.batch_size * self._config.accumulate
        best_step, best_value = (state.step, None) if best is None else (best.step, best.value)
        last = {
            name.removeprefix(VALIDATED): value
            for name, value in state.logged[-1][1].items()
            if name.startswith(VALIDATED)
        }
        return TrainResult(
            state.step, samples, state.seconds, state.skipped, state.history, last, best_step, best_value, weights
        )


def one_step(objective: Objective[Batch, P], batch: Batch, config: OptimConfig, place: Place) -> None:
    """One optimiser step on one batch, all that takes memory included; what it does to the weights is no training."""
    model = objective.model.to(place.device).train()
    optimizer = build_optimizer(model, config)
    prepared = objective.prepare(batch, 0, 0)
    with place.autocast():
        output = objective.losses(to_device(prepared, place.device))
    _weighted_mean(output, prepared.counts).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _weighted_mean(output: ObjectiveOutput, counts: Mapping[str, float]) -> torch.Tensor:
    """This micro-batch's share of the step's loss: sums divided by the targets of the whole step, weighted."""
    parts = [weight * term.total / max(counts[name], 1) for name, term, weight in output.terms]
    return torch.stack(parts).sum()
