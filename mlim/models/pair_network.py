"""What fine-tuning, evaluation and serving know of a network that compares two items."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from mlim.data.batches import PairSide
from mlim.models.network import Network
from mlim.models.transformer import Packing
from mlim.recipe.base import Modality, ReadOut

PAIR = 2  # items


class ReadPair(NamedTuple):
    """A batch of pairs as a network reads them.

    `logits` (B,) that the items match; `items` (2 * B, width): one vector for each item, all first items, then all
    second ones, from which their attributes are predicted.
    """

    logits: Tensor
    items: Tensor


class PairNetwork(Network):
    """One logit for a pair of items, shown with both modalities or with one."""

    @property
    @abstractmethod
    def read_out(self) -> ReadOut:
        """What the logit of a pair is read from."""

    @property
    @abstractmethod
    def item_width(self) -> int:
        """Numbers in an item's vector (`ReadPair.items`)."""

    @property
    @abstractmethod
    def grid(self) -> int:
        """Patches per side of a picture."""

    @abstractmethod
    def item_vectors(self, side: PairSide, modality: Modality, packing: Packing | None = None) -> Tensor:
        """Vectors (B, width) of items that are read each by itself, where `read_out` is `separate`."""

    @abstractmethod
    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (B,) of pairs from the `item_vectors` (B, width) of both sides.

        `InputError` unless `read_out` is `separate`: elsewhere an item has no vector of its own.
        """

    @abstractmethod
    def read_pair(
        self, first: PairSide, second: PairSide, modality: Modality, packing: Packing | None = None
    ) -> ReadPair:
        """Logits and item vectors; `packing` is what `pack_pairs` gave for this batch, for networks on a GPU."""

    @abstractmethod
    def pack_pairs(self, first: Tensor, second: Tensor, modality: Modality) -> Packing:
        """Where the real tokens lie, from the attentions (B, T) of both sides while they lie on the CPU."""

    @abstractmethod
    def attribute_logits(self, items: Tensor) -> list[Tensor]:
        """Logits of every attribute (N, classes) from `ReadPair.items`; none once they are forgotten."""

    @abstractmethod
    def forget_attributes(self) -> None:
        """Drop what only training needs."""

    @abstractmethod
    def tokens(self, packing: Packing, modality: Modality) -> int:
        """Vectors that its transformers read of a batch, without padding."""

    @abstractmethod
    def operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, without its heads."""

    def forward(self, first: PairSide, second: PairSide, modality: Modality, packing: Packing | None = None) -> Tensor:
        """Logits (B,) that the items match; the vectors of a modality that is left out are not in the sequence."""
        return self.read_pair(first, second, modality, packing).logits


def equally_long(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two (B, T) with zeros (padding) at the end of the shorter one."""
    width = max(first.shape[1], second.shape[1])
    return pad(first, (0, width - first.shape[1])), pad(second, (0, width - second.shape[1]))
