"""Matching for any system that makes a vector of an item: both items are encoded by themselves and compared."""

from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mlim.config import Config
from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.models.config import TEXT_SPECIALS, SpecialIds
from mlim.models.heads import AttributeHeads, CompareHead
from mlim.models.initialise import drawn
from mlim.models.network import Part, RecomputableBlock
from mlim.models.pair_network import PAIR, PairNetwork, PairPacking, ReadPair, equally_long
from mlim.models.storage import plan_model, save_model
from mlim.models.system import EncodesItems, Shown, System
from mlim.models.transformer import Packing
from mlim.models.weights import NamedTensors, Planned, on_meta
from mlim.recipe.base import Modality, Probability, ReadOut

KIND = "separate-matcher"
SYSTEM = "system."  # begins the names of the system's weights
SystemBuilder = Callable[[Mapping[str, Any]], System]


class SeparateMatcherConfig(Config):
    """What the system saved of itself, and what fine-tuning adds."""

    system: dict[str, Any]
    head_dropout: Probability


class SeparateMatcher(PairNetwork):
    """One logit from the vectors of two items; it does not depend on their order.

    `classes` are those of attributes that are also predicted from the items' vectors in training.
    """

    def __init__(self, system: System, head_dropout: float, classes: Sequence[int] = ()) -> None:
        super().__init__()
        if not isinstance(system, EncodesItems):
            raise InputError(f"system {system.kind} makes no vector of an item, so it cannot be fine-tuned to match")
        self.system, self.head_dropout = system, head_dropout
        width, parts = system.item_part_width, system.item_parts
        self.head = CompareHead(width, shared=0, parts=parts, dropout=head_dropout)
        self.attributes = AttributeHeads(width * parts, classes) if classes else None
        for module in system.task_modules():  # of pre-training
            module.requires_grad_(False)

    @classmethod
    def planned(
        cls, start: Planned[System], head_dropout: float, seed: int, classes: Sequence[int] = ()
    ) -> Planned[Self]:
        """A matcher to be built on a system; its heads are random from `seed`."""
        matcher = on_meta(lambda: cls(start.model, head_dropout, classes))

        def weights() -> NamedTensors:
            generator = torch.Generator().manual_seed(seed)
            own = drawn(matcher, matcher._items.item_part_width, generator)
            yield from ((name, value) for name, value in own if not name.startswith(SYSTEM))
            yield from ((f"{SYSTEM}{name}", value) for name, value in start.weights())

        return Planned(matcher, weights)

    @property
    def _items(self) -> EncodesItems:
        return cast(EncodesItems, self.system)

    @property
    def read_out(self) -> ReadOut:
        """Each item is read by itself."""
        return "separate"

    @property
    def item_width(self) -> int:
        """Numbers in an item's vector."""
        return self._items.item_part_width * self._items.item_parts

    @property
    def grid(self) -> int:
        """Patches per side of a picture."""
        return isqrt(self.system.patches)

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Those of the system, and the heads."""
        parts = self.system.parts()
        added = [self.head, *([] if self.attributes is None else [self.attributes])]
        return {**parts, "heads": [*parts.get("heads", ()), *added]}

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """Those of the system."""
        return self.system.levels()

    def tokens(self, packing: PairPacking, modality: Modality) -> int:
        """Vectors that the system's transformers read of a batch, without padding."""
        return self._items.item_tokens(cast(Packing, packing.items), modality)

    def operations(self, packing: PairPacking, modality: Modality) -> float:
        """Operations of a forward pass of the system over all items."""
        return self._items.item_operations(cast(Packing, packing.items), modality)

    def pack_pairs(self, first: Tensor, second: Tensor, modality: Modality) -> PairPacking:
        """The packing of the texts of all first items, then of all second ones."""
        return PairPacking(None, self.system.pack_items(_with_specials(torch.cat(equally_long(first, second)))))

    def read_pair(
        self, first: PairSide, second: PairSide, modality: Modality, packing: PairPacking | None = None
    ) -> ReadPair:
        """Logits, and the vectors of all first items, then of all second ones."""
        tokens, attention = (torch.cat(equally_long(a, b)) for a, b in zip(first[:2], second[:2], strict=True))
        both = PairSide(tokens, attention, torch.cat([first.pixels, second.pixels]))
        items = self.item_vectors(both, modality, packing and packing.items)
        return ReadPair(self.compare(*items.chunk(PAIR)), items)

    def item_vectors(self, side: PairSide, modality: Modality, packing: Packing | None = None) -> Tensor:
        """One vector (B, width) for each item."""
        ids = _item_ids(side, self.system.inputs.special)
        shown = Shown(ids, _with_specials(side.attention), side.pixels, packing=packing)
        return self._items.encode_items(shown, modality)

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (B,) from the `item_vectors` (B, width) of both sides."""
        return cast(Tensor, self.head(first, second))

    def attribute_logits(self, items: Tensor) -> list[Tensor]:
        """Logits of every attribute (N, classes) from the items' vectors; none once they are forgotten."""
        return [] if self.attributes is None else self.attributes(items)

    def forget_attributes(self) -> None:
        """Drop what only training needs."""
        self.attributes = None

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        system = {"kind": self.system.kind, **self.system.inputs.model_dump(mode="json")}
        save_model(folder, KIND, SeparateMatcherConfig(system=system, head_dropout=self.head_dropout), self)

    @classmethod
    def from_pretrained(cls, folder: Path, build: SystemBuilder) -> Self:
        """Read a saved matcher, in evaluation mode; `build` makes an empty system of what it saved of itself.

        `InputError` when `folder` holds none.
        """
        planned = plan_model(
            folder, KIND, SeparateMatcherConfig, lambda config: cls(build(config.system), config.head_dropout)
        )
        return planned.build().eval()


def _item_ids(side: PairSide, special: SpecialIds) -> Tensor:
    """[CLS] tokens [SEP] (B, T + 2) of raw tokens (B, T), padding after that."""
    ids = torch.nn.functional.pad(side.tokens, (1, 1))
    ids[:, 0] = special.cls
    ends = side.attention.sum(dim=1, keepdim=True) + 1
    return ids.scatter(1, ends, special.sep)


def _with_specials(attention: Tensor) -> Tensor:
    """Where the real tokens of [CLS] tokens [SEP] are, (B, T + 2) bool."""
    lengths = attention.sum(dim=1, keepdim=True) + TEXT_SPECIALS
    return torch.arange(attention.shape[1] + TEXT_SPECIALS, device=attention.device) < lengths
