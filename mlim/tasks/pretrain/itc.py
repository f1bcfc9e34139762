"""ITC: which picture of a batch belongs to a text, and which text to a picture? (Radford et al. 2021)

The loss looks at a whole batch, so that cutting it changes the experiment: recipes refuse `accumulate` above 1, and
ranks exchange their vectors with the gradients. Where an item is twice in a batch (one that straddles two epochs, or a
catalog smaller than a batch) its other row is no negative.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm
from mlim.models.system import Shown, System
from mlim.models.vectors import Compares, Vectors
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered

NUMBER_BYTES: Final = 8  # of a number that names an item


class Itc(Task[Vectors]):
    """Targets are the `item_numbers` (B,): each item belongs to itself."""

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
        return Targets(item_numbers(plan.batch.ids), len(plan.own))

    def loss(self, reading: Vectors, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy in both directions, added up; in training among the items of all ranks."""
        return itc_loss(reading, targets.wanted)

    def operations(self, targets: Targets, items: int) -> float:
        """Negligible: the projections read one vector per item."""
        return 0.0


def item_numbers(ids: Sequence[str]) -> Tensor:
    """A number (B,) for each id, the same wherever it is: what ranks compare instead of strings."""
    digests = (blake2b(item.encode(), digest_size=NUMBER_BYTES).digest() for item in ids)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.long)


def itc_loss(vectors: Vectors, items: Tensor) -> LossTerm:
    """-log softmax over the texts for every picture, and over the pictures for every text, summed; the count is B.

    Candidates are the items of all ranks where gradients are wanted, without the other rows of the same item: `items`
    (B,) are numbers that name the items.
    """
    own, texts = gathered(vectors.text)
    _, images = gathered(vectors.image)
    rows = torch.arange(own, own + len(items), device=items.device)
    again = (items[:, None] == _of_all_ranks(items)).scatter(1, rows[:, None], False)
    with torch.autocast(vectors.text.device.type, enabled=False):  # a low temperature magnifies what bf16 rounds
        by_image = vectors.image.float() @ texts.float().T / vectors.temperature.float()
        by_text = vectors.text.float() @ images.float().T / vectors.temperature.float()
    candidates = [logits.masked_fill(again, -torch.inf) for logits in (by_image, by_text)]
    total = sum(functional.cross_entropy(logits, rows, reduction="sum") for logits in candidates)
    return LossTerm(cast(Tensor, total), torch.full((), float(len(rows)), device=rows.device))


def gathered(vectors: Tensor) -> tuple[int, Tensor]:
    """Where this rank's vectors (B, D) begin among those of all ranks, and all of them (ranks * B, D)."""
    if not _gathers():
        return 0, vectors
    return distributed.get_rank() * len(vectors), cast(Tensor, _Gather.apply(vectors))  # type: ignore[no-untyped-call]


def _gathers() -> bool:
    """Not in validation, where every rank looks at the same items."""
    return torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()


def _of_all_ranks(values: Tensor) -> Tensor:
    """What every rank has of `values` (B,), one after the other (ranks * B,)."""
    return _all(values) if _gathers() else values


def _all(values: Tensor) -> Tensor:
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """All ranks' vectors, one below the other; the gradients of all ranks come back to those that made them."""

    @staticmethod
    def forward(context: Any, vectors: Tensor) -> Tensor:
        return _all(vectors)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]
