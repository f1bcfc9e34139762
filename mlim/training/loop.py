"""The training loop: one small, explicit loop for pre-training and fine-tuning, on one device or many.

Everything random in step n is a pure function of (seed, n): the batches, the masks and, by seeding torch's generator at
every step, dropout. So a training that was stopped, or killed, continues to the same weights as one that never was.
Losses are sums, divided by the targets of the whole step: micro-batches and ranks change the speed, not the result, but
for dropout, which every micro-batch and every rank draws for itself.
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
from mlim.models.weights import Weights, named_tensors
from mlim.recipe.pretrain import PretrainConfig
from mlim.recipe.training import OptimConfig
from mlim.recipe.tuning import TuningConfig
from mlim.tasks.protocols import Objective, ObjectiveOutput, P
from mlim.training.balance import Balance, Factors, gradient_norms
from mlim.training.checkpoint import (
    BackgroundSaver,
    Checkpoints,
    Saved,
    Snapshot,
    Tensors,
    copy_tensors,
    like,
    load_optimizer_tensors,
    optimizer_like,
    optimizer_tensors,
    require_same,
)
from mlim.training.device import DeviceContext
from mlim.training.forward import Forward
from mlim.training.interrupt import Interrupted, StopRequest, stop_on_signals
from mlim.training.memory import explain_out_of_memory
from mlim.training.meter import BadStep, FiniteCheck, LossMeter
from mlim.training.metric_logger import VALIDATED, MetricLogger, ThroughputMeter
from mlim.training.optim import (
    MovingAverage,
    build_optimizer,
    clip_gradients,
    learning_rate,
    low_peak,
    set_learning_rate,
    step_unless,
)
from mlim.training.prefetcher import Prefetcher
from mlim.training.protocols import Best, MetricSink, NullLogger, TrainResult, TrainState, Validation
from mlim.training.trace import StepTrace, check_trace

LOG_EVERY = 10  # optimiser steps between readings of the losses: each one waits for the device
SECONDS_PER_MINUTE = 60.0
NOT_FINITE_FILE = "not-finite.json"
NO_STEP = -1  # in the place of a checkpoint's step: there is none

Batch = TypeVar("Batch")


class Trainer(Generic[Batch, P]):
    """Trains `objective.model` on `context` for `config.steps` optimiser steps of `config.accumulate` micro-batches.

    The model may be on the meta device; it starts from `weights`.
    """

    def __init__(
        self,
        objective: Objective[Batch, P],
        weights: Weights,
        loader: BatchLoader[Any, Batch],
        config: PretrainConfig | TuningConfig,
        seed: int,
        validate: Callable[[int], Validation],
        checkpoints: Checkpoints,
        sink: MetricSink,
        context: DeviceContext,
        trace: Path | None = None,
    ) -> None:
        check_trace(context.compute.trace, config.steps)
        self._objective, self._loader, self._config, self._seed = objective, loader, config, seed
        self._batches = Prefetcher(loader, self._take_batches, config.steps)
        self._validate, self._checkpoints, self._context, self._ranks = validate, checkpoints, context, context.ranks
        self._model = objective.model
        self._forward = Forward(objective, weights, context)
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(self._model, config.optim)
        self._average = MovingAverage(self._model, config.ema_decay)
        self._saver = BackgroundSaver(checkpoints, self._ranks.group() if self._forward.shards else None)
        self._state = TrainState()
        self._metrics = MetricLogger(self._state, sink if self._ranks.is_main else NullLogger())
        self._meter, self._throughput = LossMeter(), ThroughputMeter()
        self._balance = Balance(config.balance, objective.weights)
        self._trace = StepTrace(context.compute.trace if trace else None, trace or Path())
        self._finite = FiniteCheck(config.max_skipped_steps, self._keep_bad_steps)
        self._norm = torch.zeros(())
        self._note = ""  # the last losses, for the progress bar
        self._saved_at, self._saved_step = time.monotonic(), NO_STEP
        self._save_is_due = self._save_is_postponed = self._stop_is_asked = False

    def run(self, terminal: Terminal, title: str) -> TrainResult:
        """Train to the end, from the newest checkpoint if there is one.

        Raises `Interrupted` after SIGINT or SIGTERM (a checkpoint is written first, unless the newest step was not
        finite) and `MlimError` when too many losses are not finite, a checkpoint cannot be written or the device's
        memory does not suffice.
        """
        self._restore(terminal)
        self._warn_of_low_rate(terminal)
        self._model.train()
        config = self._config
        try:
            with (
                explain_out_of_memory(config.batch_size),
                stop_on_signals() as stop,
                terminal.progress(title, config.steps) as bar,
            ):
                bar.advance(self._state.step)
                self._throughput.restart()
                while self._state.step < config.steps:
                    self._trace.before(self._state.step)
                    self._step(stop)
                    self._trace.after(self._state.step)
                    self._after_step(stop, bar)
            self._saver.wait()
        finally:
            self._saver.close()
            self._batches.close()
            self._trace.close()
        return self._result()

    def _step(self, stop: StopRequest) -> None:
        step = self._state.step
        with self._throughput.waiting():
            micro = self._batches.take(step)
        counts = self._agree(micro, stop)
        due = self._balance.due(step, counts)
        if due:
            self._measure(due, micro, counts)
        loss = self._backward(micro, counts, self._balance.factors, self._meter)
        self._update(step, loss, [item for prepared in micro for item in prepared.ids])

    def _backward(
        self, micro: Sequence[P], counts: Mapping[str, float], factors: Factors, meter: LossMeter
    ) -> torch.Tensor:
        """Add the gradient of the step, each loss times its factor, to the parameters; gives the loss (of this rank).

        The same dropout whenever it is called for a step.
        """
        torch.manual_seed(seed_of("dropout", self._seed, self._state.step, self._ranks.rank))
        loss = torch.zeros((), device=self._context.device)
        for number, prepared in enumerate(micro, start=1):
            with self._forward.no_sync(number < len(micro)), self._context.autocast():
                output = self._forward(to_device(prepared, self._context.device))
            part = _weighted_mean(output, counts, factors)
            with self._forward.no_sync(number < len(micro)):
                # DDP takes the mean over ranks, the step wants their sum
                (part * self._ranks.size).backward()  # type: ignore[no-untyped-call]
            meter.add(output, prepared.counts)
            loss = loss + part.detach()
        return loss

    def _measure(self, losses: Sequence[str], micro: Sequence[P], counts: Mapping[str, float]) -> None:
        """Measure how each of these losses pulls on the blocks, which all of them go through."""
        shared = self._model.shared_parameters()
        ignored = LossMeter()

        def backward(loss: str) -> None:
            self._optimizer.zero_grad(set_to_none=True)
            self._backward(micro, counts, {name: float(name == loss) for name in counts}, ignored)

        self._balance.take(self._state.step, gradient_norms(losses, backward, shared, self._ranks))
        self._optimizer.zero_grad(set_to_none=True)

    def _take_batches(self, step: int) -> list[P]:
        """This rank's part of every micro-batch of a step; runs beside the step before it."""
        config, ranks = self._config, self._ranks
        first = ranks.rank * ranks.per_rank(config.batch_size)
        starts = range(first, config.accumulate * config.batch_size, config.batch_size)
        return [self._objective.prepare(next(self._loader), step, start) for start in starts]

    def _agree(self, micro: Sequence[P], stop: StopRequest) -> dict[str, float]:
        """The targets of the step over all micro-batches and ranks; also whether one of them is to stop or to save."""
        names = list(micro[0].counts)
        waited = time.monotonic() - self._saved_at
        due = self._ranks.is_main and waited >= self._config.checkpoint.every_minutes * SECONDS_PER_MINUTE
        counts = [sum(prepared.counts[name] for prepared in micro) for name in names]
        costs = [sum(prepared.tokens for prepared in micro), sum(map(self._objective.operations, micro))]
        *totals, stops, saves, tokens, operations = self._ranks.sum([*counts, stop.signal is not None, due, *costs])
        self._stop_is_asked, self._save_is_due = stops > 0, saves > 0 or self._save_is_postponed
        self._throughput.count(tokens, operations)
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
        self._finite.add(step, bad, items)

    def _after_step(self, stop: StopRequest, bar: ProgressBar) -> None:
        state, config = self._state, self._config
        state.step += 1
        done = state.step == config.steps
        if done or state.step % LOG_EVERY == 0:
            self._note = self._log_training()
        bar.advance(1, self._note)
        with self._throughput.paused():
            if done or state.step % config.validate_every == 0:
                self._log_validation()
            if done or self._stop_is_asked or self._save_is_due or state.step % config.checkpoint.every_steps == 0:
                self._save(done)
        if self._stop_is_asked:
            self._saver.wait()
            asked = stop.signal.name if stop.signal else "another process"
            raise Interrupted(f"stopped by {asked} after step {state.step} of {config.steps}; {self._what_is_saved()}")

    def _what_is_saved(self) -> str:
        """From where the same command continues after a stop."""
        saved = self._saved_step
        if saved == self._state.step:
            return "a checkpoint is written, the same command continues from it"
        why = "the newest step was not finite and is not saved"
        if saved == NO_STEP:
            return f"{why}; there is no checkpoint yet, the same command begins anew"
        return f"{why}; the same command continues from the checkpoint of step {saved}"

    def _warn_of_low_rate(self, terminal: Terminal) -> None:
        """Say once where the warm-up is longer than the training."""
        config = self._config
        peak = low_peak(config.steps, config.optim)
        if peak is not None and self._ranks.is_main and self._state.step < config.steps:
            terminal.warn(
                f"optim.warmup_steps {config.optim.warmup_steps} is more than the {config.steps} steps of this "
                f"training: the learning rate rises to {peak:g} only, not to {config.optim.learning_rate:g}; set fewer "
                "warmup_steps, or more steps"
            )

    def _log_training(self) -> str:
        """Read the losses since the last reading into the history and the sink; gives a note for the progress bar."""
        self._check_finite()
        samples = self._config.batch_size * self._config.accumulate
        figures = {
            **self._throughput.read(self._state, samples, self._context),
            "learning_rate": learning_rate(self._state.step - 1, self._config.steps, self._config.optim),
            "grad_norm": self._norm.item(),
            **self._balance.figures(),
        }
        meter = self._meter.gathered(self._ranks)
        self._meter.reset()
        self._metrics.trained(meter.by_mode(), meter.overall(), figures)
        losses = " ".join(f"{name} {value:.4f}" for name, value in meter.overall().items() if name != "total")
        return f"{losses}  {figures['samples_per_second']:.0f}/s"

    def _check_finite(self) -> None:
        self._state.skipped = self._finite.check(self._state.skipped)

    def _keep_bad_steps(self, steps: Sequence[BadStep]) -> Path:
        """Every rank writes down its own items."""
        name = NOT_FINITE_FILE if self._ranks.is_main else f"rank-{self._ranks.rank}-{NOT_FINITE_FILE}"
        return self._checkpoints.note(name, [{"step": step, "items": list(items)} for step, items in steps])

    def _log_validation(self) -> None:
        self._check_finite()
        self._model.eval()
        self._average.exchange()
        with torch.no_grad(), self._context.autocast(), self._forward.unsharded():
            found = self._validate(self._state.step)
        self._metrics.validated(found)
        best = self._state.best
        if found.value is not None and (best is None or found.metric.is_reached(found.value, best.value)):
            # a tie goes to the later one
            weights = {name: value.to("cpu", copy=True) for name, value in named_tensors(self._model).items()}
            self._state.best = Best(self._state.step, found.value, weights)
        self._average.exchange()
        self._model.train()

    def _save(self, done: bool) -> None:
        """Every rank comes here in the same step; rank 0 writes, of a sharded model every rank its part."""
        self._check_finite()
        meter = self._meter.gathered(self._ranks)
        # what made the newest step go wrong may be in the weights: wait for a good one
        self._save_is_postponed = self._finite.newest_is_bad and not done
        if self._save_is_postponed:
            return
        if self._ranks.is_main or self._forward.shards:
            self._saver.save(Snapshot(self._state.step, self._tensors(), self._values(meter)))
        self._saved_at, self._saved_step = time.monotonic(), self._state.step

    def _tensors(self) -> Mapping[str, Tensors]:
        best = self._state.best
        groups = {
            "model": named_tensors(self._model),
            "optimizer": optimizer_tensors(self._optimizer),
            "average": self._average.tensors,
            "best": {} if best is None else best.weights,
        }
        return {name: tensors for name, tensors in groups.items() if tensors}

    def _values(self, meter: LossMeter) -> Mapping[str, Any]:
        state = self._state
        return {
            "ranks": self._ranks.size,
            "seconds": state.seconds + self._throughput.seconds,
            "skipped": state.skipped,
            "history": list(state.history),
            "logged": list(state.logged),
            "best": None if state.best is None else {"step": state.best.step, "value": state.best.value},
            "loader": self._batches.state_dict(),
            "meter": meter.state_dict(),
            "balance": self._balance.state_dict(),
        }

    def _restore(self, terminal: Terminal) -> None:
        saved = self._newest()
        if saved is None:
            return
        values, state = saved.state, self._state
        best = self._read(saved)
        state.step, state.seconds, state.skipped = saved.step, values["seconds"], values["skipped"]
        state.best = None if values["best"] is None else Best(**values["best"], weights=best)
        self._metrics.load(values["history"], values["logged"])
        self._batches.load_state_dict(values["loader"])
        self._meter.load_state_dict(values["meter"], self._ranks)
        self._balance.load_state_dict(values["balance"])
        self._throughput.continue_at(saved.step)
        self._saved_step = saved.step
        terminal.say(f"continuing from the checkpoint of step {saved.step} of {self._config.steps}")

    def _newest(self) -> Saved | None:
        """The checkpoint to continue from: rank 0 looks and verifies, the others take the same."""
        saved = self._checkpoints.newest() if self._ranks.is_main else None
        step = self._ranks.broadcast(NO_STEP if saved is None else saved.step)
        return saved if self._ranks.is_main or step == NO_STEP else self._checkpoints.at(step)

    def _read(self, saved: Saved) -> Tensors:
        """Fill weights, moments and average in place; gives the best weights, empty when there are none yet."""
        stored = saved.stored()
        own = named_tensors(self._model)
        groups: dict[str, Tensors] = {
            "model": own,
            "optimizer": optimizer_like(self._optimizer, stored.get("optimizer", {})),
            "average": self._average.tensors,
            "best": like(own) if "best" in stored else {},
        }
        for name, tensors in groups.items():
            require_same(tensors, stored.get(name, {}))
        saved.read(groups)
        load_optimizer_tensors(self._optimizer, groups["optimizer"])
        return groups["best"]

    def _result(self) -> TrainResult:
        state, best = self._state, self._state.best
        if best is not None:
            copy_tensors(named_tensors(self._model), best.weights)
        else:
            self._average.exchange()
        samples = state.step * self._config.batch_size * self._config.accumulate
        best_step, best_value = (state.step, None) if best is None else (best.step, best.value)
        last = {
            name.removeprefix(VALIDATED): value
            for name, value in state.logged[-1][1].items()
            if name.startswith(VALIDATED)
        }
        usable = self._forward.unsharded
        return TrainResult(
            state.step, samples, state.seconds, state.skipped, state.history, last, best_step, best_value, usable
        )


def one_step(objective: Objective[Batch, P], batch: Batch, config: OptimConfig, context: DeviceContext) -> None:
    """One optimiser step on one batch, all that takes memory included; what it does to the weights is no training."""
    model = objective.model.to(context.device).train()
    optimizer = build_optimizer(model, config)
    prepared = objective.prepare(batch, 0, 0)
    with context.autocast():
        output = objective.losses(to_device(prepared, context.device))
    _weighted_mean(output, prepared.counts, {}).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _weighted_mean(output: ObjectiveOutput, counts: Mapping[str, float], factors: Factors) -> torch.Tensor:
    """This micro-batch's share of the step's loss: sums divided by the targets of the whole step, weighted.

    A loss that `factors` does not name has the factor 1; with 0 it still reaches its parameters, which DDP waits for.
    """
    parts = [factors.get(name, 1.0) * weight * term.total / (counts[name] or 1) for name, term, weight in output.terms]
    return torch.stack(parts).sum()
