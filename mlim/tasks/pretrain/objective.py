"""From a batch of items to the losses of pre-training (paper section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mlim.data.batches import ItemBatch
from mlim.masking import MaskMode, MaskPlan
from mlim.models.backbone import picture_masks
from mlim.models.costs import TRAINING
from mlim.models.system import SeesOnce, Shown, System, seen_once
from mlim.models.transformer import Packing
from mlim.tasks.pretrain.passes import Passes, PassPlan
from mlim.tasks.pretrain.task import PICTURE, Targets, Task
from mlim.tasks.protocols import ObjectiveOutput, Weighted


class PreparedItems(NamedTuple):
    """A pre-training batch with its masks, the targets of every task, and where its real tokens lie.

    tokens: what the system's transformers read, without padding.
    """

    plan: PassPlan
    targets: Mapping[str, Targets]
    packing: Packing
    tokens: int

    @property
    def batch(self) -> ItemBatch:
        """The items, with the pictures that they are shown with."""
        return self.plan.batch

    @property
    def masks(self) -> MaskPlan:
        """What is hidden of them."""
        return self.plan.masks

    @property
    def own(self) -> torch.Tensor:
        """Whose picture is its own, (B,) bool."""
        return self.plan.own

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids

    @property
    def counts(self) -> Mapping[str, float]:
        """Targets of every loss."""
        return {loss: count for name, targets in self.targets.items() for loss, count in targets.counts(name).items()}


class PretrainObjective:
    """The losses of `tasks`, each times its weight, over passes that `passes` plans."""

    def __init__(
        self, system: System, tasks: Sequence[Task[Any]], weights: Mapping[str, float], passes: Passes
    ) -> None:
        self.model, self.tasks, self.weights, self.passes = system, tuple(tasks), weights, passes
        used = [module for task in tasks for module in task.modules]
        for module in system.task_modules():  # heads of other tasks get no gradient, which DDP would wait for
            module.requires_grad_(any(module is head for head in used))
        for module in picture_masks(system):  # likewise where every task reads whole pictures
            module.requires_grad_(any(task.reads != PICTURE for task in tasks))

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all."""
        return self.model.uses_everything and all(task.uses_everything for task in self.tasks)

    @property
    def modes(self) -> tuple[MaskMode, ...]:
        """The masking modes that training meets."""
        return self.passes.modes

    def prepare(self, batch: ItemBatch, step: int, first: int = 0, mode: MaskMode | None = None) -> PreparedItems:
        """Masks and exchanges for the samples from `first` on of a step; `mode` replaces the drawn one (validation)."""
        plan = self.passes.plan(batch, step, first, mode)
        packing = self.model.pack_items(plan.batch.text_attention)
        packing = self.model.pack_visible(packing, plan.masks.text, plan.masks.image)
        targets = {task.name: task.targets(plan) for task in self.tasks}
        return PreparedItems(plan, targets, packing, self.model.tokens(packing))

    def losses(self, prepared: PreparedItems) -> ObjectiveOutput:
        """The losses of a prepared batch; `prepared` lies on the model's device."""
        batch, masks = prepared.batch.with_floats(), prepared.masks
        shown = Shown(
            batch.input_ids,
            batch.text_attention,
            batch.pixels,
            masks.text,
            masks.image,
            prepared.packing,
            prepared.plan.cells,
        )
        shown = seen_once(self.model, shown)
        readings: dict[str, Any] = {}
        terms: list[Weighted] = []
        for task in self.tasks:
            if task.reads not in readings:
                readings[task.reads] = task.read(shown)
            losses = task.losses(readings[task.reads], prepared.targets[task.name], batch)
            terms += [Weighted(name, term, self.weights[name]) for name, term in losses.items()]
        return ObjectiveOutput(tuple(terms), masks.mode.value)

    def operations(self, prepared: PreparedItems) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/models/costs.py)."""
        items = len(prepared.ids)
        heads = sum(task.operations(prepared.targets[task.name], items) for task in self.tasks)
        alone = [task for task in self.tasks if task.reads == PICTURE]  # they count their own pass over the picture
        fused = len(alone) < len(self.tasks)
        common = self.model.operations(prepared.packing) if fused else 0.0
        again = max(0, fused + len(alone) - 1)  # the image side runs once (`seen_once`), however often it is counted
        shared = again * items * self.model.seeing_operations if isinstance(self.model, SeesOnce) else 0.0
        return TRAINING * (common + heads - shared)
