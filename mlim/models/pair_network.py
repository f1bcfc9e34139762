"""What fine-tuning, evaluation and serving know of a network that compares two items."""

from abc import abstractmethod
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.models.network import Network
from mlim.models.transformer import Packing
from mlim.recipe.base import Modality, ReadOut

PAIR = 2  # items
NO_STATES = "this model encodes items each by itself and joins no states of them; use its item_vectors and compare"


class ReadPair(NamedTuple):
    """A batch of pairs as a network reads them.

    `logits` (B,) that the items match; `items` (2 * B, width): one vector for each item, all first items, then all
    second ones, from which their attributes are predicted.
    """

    logits: Tensor
    items: Tensor


class PairPacking(NamedTuple):
    """Where the real tokens of a batch of pairs lie: in sequences of both items, in sequences of one item.

    None: the network reads no such sequences. Those of one item are all first items', then all second ones'.
    """

    pairs: Packing | None
    items: Packing | None

    @property
    def tokens(self) -> int:
        """Vectors that are read of the batch, without padding."""
        longest = self.items if self.pairs is None else self.pairs
        return 0 if longest is None else len(longest.indices)


class ItemStates(NamedTuple):
    """Items as a network that reads both of a pair in one sequence has them before it does, each by itself.

    text (B, T, H) and patches (B, C, H): their vectors, of which a modality that is left out has none; attention (B, T)
    bool: False at the text's padding, also where texts are left out.
    """

    text: Tensor
    patches: Tensor
    attention: Tensor


class ScoresPairs(Protocol):
    """What a matching model knows of what computes its logits: a network of torch, or graphs exported from one."""

    @property
    def read_out(self) -> ReadOut:
        """What the logit of a pair is read from."""

    @property
    def item_width(self) -> int:
        """Numbers in an item's vector."""

    @property
    def grid(self) -> int:
        """Patches per side of a picture."""

    def __call__(self, first: PairSide, second: PairSide, modality: Modality, /) -> Tensor:
        """Logits (B,) that the items match."""

    def item_vectors(self, side: PairSide, modality: Modality, /) -> Tensor:
        """Vectors (B, width) of items that are read each by itself, where `read_out` is `separate`."""

    def compare(self, first: Tensor, second: Tensor, /) -> Tensor:
        """Logits (B,) of pairs from the `item_vectors` (B, width) of both sides, likewise."""

    def item_states(self, side: PairSide, modality: Modality, /) -> ItemStates:
        """What is an item's own, of a batch of items, where `read_out` is another one."""

    def join(self, first: ItemStates, second: ItemStates, modality: Modality, /) -> Tensor:
        """Logits (B,) of pairs from the states of both sides, likewise."""

    def to(self, device: torch.device, /) -> Self:
        """Itself, on a device."""

    def eval(self) -> Self:
        """Itself, in evaluation mode."""

    def save_pretrained(self, folder: Path | None) -> None:
        """Write what reads it again into `folder`."""


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

    def item_states(self, side: PairSide, modality: Modality) -> ItemStates:
        """Items before the first block that reads both of a pair; `InputError` where `read_out` is `separate`."""
        raise InputError(NO_STATES)

    def join(self, first: ItemStates, second: ItemStates, modality: Modality) -> Tensor:
        """Logits (B,) of pairs from the `item_states` of both sides; `InputError` where `read_out` is `separate`."""
        raise InputError(NO_STATES)

    @abstractmethod
    def read_pair(
        self, first: PairSide, second: PairSide, modality: Modality, packing: PairPacking | None = None
    ) -> ReadPair:
        """Logits and item vectors; `packing` is what `pack_pairs` gave for this batch, for networks on a GPU."""

    @abstractmethod
    def pack_pairs(self, first: Tensor, second: Tensor, modality: Modality) -> PairPacking:
        """Where the real tokens lie, from the attentions (B, T) of both sides while they lie on the CPU."""

    @abstractmethod
    def attribute_logits(self, items: Tensor) -> list[Tensor]:
        """Logits of every attribute (N, classes) from `ReadPair.items`; none once they are forgotten."""

    @abstractmethod
    def forget_attributes(self) -> None:
        """Drop what only training needs."""

    @abstractmethod
    def tokens(self, packing: PairPacking, modality: Modality) -> int:
        """Vectors that its transformers read of a batch, without padding."""

    @abstractmethod
    def operations(self, packing: PairPacking, modality: Modality) -> float:
        """Operations of a forward pass over a batch, without its heads."""

    def forward(
        self, first: PairSide, second: PairSide, modality: Modality, packing: PairPacking | None = None
    ) -> Tensor:
        """Logits (B,) that the items match; the vectors of a modality that is left out are not in the sequence."""
        return self.read_pair(first, second, modality, packing).logits


def equally_long(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two (B, T) with zeros (padding) at the end of the shorter one."""
    width = max(first.shape[1], second.shape[1])
    return pad(first, (0, width - first.shape[1])), pad(second, (0, width - second.shape[1]))
