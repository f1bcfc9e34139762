"""ITC: which picture of a batch belongs to a text, and which text to a picture? (Radford et al. 2021)

The loss looks at a whole batch, so that cutting it changes the experiment: recipes refuse `accumulate` above 1, and
ranks exchange their vectors with the gradients.
"""

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm
from mlim.models.system import Shown, System
from mlim.models.vectors import Compares, Vectors
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered


class Itc(Task[Vectors]):
    """Targets are the rows (B,) of the items: each belongs to itself."""

    name, reads = "itc", "vectors"

    def __init__(self, system: System) -> None:
        if not isinstance(system, Compares):
            raise not_offered(self.name, system)
        self._system: Compares = system

    @property
    def head(self) -> nn.Module:
        """The projections into the common space, with the temperature."""
        return self._system.projection

    def read(self, shown: Shown) -> Vectors:
        """Unit vectors of texts and pictures."""
        return self._system.vectors(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """Every item."""
        return Targets(torch.arange(len(plan.own)), len(plan.own))

    def loss(self, reading: Vectors, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy in both directions, added up; in training among the items of all ranks."""
        return itc_loss(reading, targets.wanted)

    def operations(self, targets: Targets, items: int) -> float:
        """Negligible: the projections read one vector per item."""
        return 0.0


def itc_loss(vectors: Vectors, rows: Tensor) -> LossTerm:
    """-log softmax over the texts for every picture, and over the pictures for every text, summed; the count is B.

    `rows` (B,) are the items' own rows; candidates are the items of all ranks where gradients are wanted.
    """
    own, texts = gathered(vectors.text)
    _, images = gathered(vectors.image)
    rows = rows + own
    with torch.autocast(vectors.text.device.type, enabled=False):  # a low temperature magnifies what bf16 rounds
        by_image = vectors.image.float() @ texts.float().T / vectors.temperature.float()
        by_text = vectors.text.float() @ images.float().T / vectors.temperature.float()
    total = sum(functional.cross_entropy(logits, rows, reduction="sum") for logits in (by_image, by_text))
    return LossTerm(cast(Tensor, total), torch.full((), float(len(rows)), device=rows.device))


def gathered(vectors: Tensor) -> tuple[int, Tensor]:
    """Where this rank's vectors (B, D) begin among those of all ranks, and all of them (ranks * B, D)."""
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return 0, vectors  # validation: every rank looks at the same items
    return distributed.get_rank() * len(vectors), cast(Tensor, _Gather.apply(vectors))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """All ranks' vectors, one below the other; the gradients of all ranks come back to those that made them."""

    @staticmethod
    def forward(context: Any, vectors: Tensor) -> Tensor:
        parts = [torch.empty_like(vectors) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]
