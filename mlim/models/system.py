"""What a system is: a network over items, which pre-training starts from and fine-tuning builds on.

A system offers readings of a batch, one protocol each; pre-training tasks ask for those that they need. Which system
offers what, its configuration says (mlim/recipe/systems.py), so that a recipe is refused before anything is built.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from mlim.config import parse
from mlim.models.config import Inputs
from mlim.models.network import Network
from mlim.models.storage import plan_model, save_model
from mlim.models.transformer import Packing
from mlim.models.weights import Planned
from mlim.recipe.base import Modality


class Shown(NamedTuple):
    """What a network sees of a batch of items.

    `input_ids` (B, T) hold [CLS] tokens [SEP] and [PAD], `text_attention` (B, T) bool is False at [PAD]; `pixels`
    (B, 3, S, S) in [0, 1]; `text_mask` (B, T) and `image_mask` (B, C) bool tell what is hidden; `packing` is what the
    system's `pack_items` gave for this batch while it lay on the CPU; `cells` (B, K) long are the places of the
    picture's vectors that are read, None: all; `vectors` (B, C, H) are what the image side of a system that `SeesOnce`
    has made of the pixels already.
    """

    input_ids: Tensor
    text_attention: Tensor
    pixels: Tensor | None
    text_mask: Tensor | None = None
    image_mask: Tensor | None = None
    packing: Packing | None = None
    cells: Tensor | None = None
    vectors: Tensor | None = None

    def words(self, mask: int) -> Tensor:
        """The tokens (B, T), with `mask`, the id of [MASK], in the place of those that are hidden."""
        return self.input_ids if self.text_mask is None else torch.where(self.text_mask, mask, self.input_ids)


class Fused(NamedTuple):
    """Outputs of text and picture that have seen each other.

    `text` (B, T, H) with [CLS] first, `patches` (B, C, H) or None without pictures; `features` (B, C, F) are those of
    regions before any is hidden, without a gradient, None where the picture has no regions; `present` (B, C) bool tells
    which of them a picture has, None: all.
    """

    text: Tensor
    patches: Tensor | None
    features: Tensor | None = None
    present: Tensor | None = None


class Attended(NamedTuple):
    """What share of a block's attention each token pays to each part of the picture, the mean over heads.

    `weights` (B, T, C); `corners` (C, 4) or (B, C, 4) in 0..1: where the parts are.
    """

    weights: Tensor
    corners: Tensor


class System(Network):
    """A network over items: [CLS] text [SEP] and a picture."""

    kind: ClassVar[str]  # in the config.json of a saved one
    config_class: ClassVar[type[Inputs]]  # of its configuration
    uses_everything: ClassVar[bool] = True  # whether every task trains all of it but other tasks' heads
    config: Inputs

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def inputs(self) -> Inputs:
        """What it can read: its configuration, which begins with that and builds the same network again."""
        return self.config

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, self.kind, self.config, self)

    @classmethod
    def planned_from(cls, folder: Path) -> Planned[Self]:
        """A saved one, to be built; `InputError` when `folder` holds none."""
        return plan_model(folder, cls.kind, cls.config_class, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself; `where` that is, for messages."""
        return cls(parse(cls.config_class, values, where))

    @property
    @abstractmethod
    def patches(self) -> int:
        """Vectors that it makes of a picture."""

    @property
    def sampled(self) -> int | None:
        """How many of them, drawn at random, pre-training reads; None: all."""
        return None

    @abstractmethod
    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of a batch lie, from its `text_attention` (B, T) while that lies on the CPU."""

    def pack_visible(self, packing: Packing, text_mask: Tensor, image_mask: Tensor) -> Packing:
        """What `pack_items` gave, with what blocks need that do not read hidden places; on the CPU. Here: all do."""
        return packing

    @abstractmethod
    def tokens(self, packing: Packing) -> int:
        """Vectors that its transformers read of a batch, without padding."""

    @abstractmethod
    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch, without heads and decoders."""

    def task_modules(self) -> list[nn.Module]:
        """Heads and decoders: what only those tasks train that read them."""
        parts = self.parts()
        return [*parts.get("heads", ()), *parts.get("decoder", ())]


@runtime_checkable
class SeesOnce(Protocol):
    """A system whose image side makes the same of a picture, whatever else is shown or hidden."""

    def see(self, pixels: Tensor) -> Tensor:
        """What its image side makes of pictures: (B, C, H), for `Shown.vectors`."""

    @property
    def seeing_operations(self) -> float:
        """Operations of that for one picture."""


def seen_once(system: System, shown: Shown) -> Shown:
    """What is shown, with what the system's image side makes of it where several readings can share that."""
    if not isinstance(system, SeesOnce) or shown.pixels is None or shown.vectors is not None:
        return shown
    return shown._replace(vectors=system.see(shown.pixels))


@runtime_checkable
class Fuses(Protocol):
    """A system whose text and picture see each other."""

    @property
    def patches(self) -> int:
        """Vectors that it makes of a picture."""

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's patches."""


@runtime_checkable
class PredictsTokens(Fuses, Protocol):
    """A system that predicts hidden tokens."""

    mlm_head: nn.Module

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the head at so many positions."""


@runtime_checkable
class Reconstructs(Fuses, Protocol):
    """A system that draws the picture."""

    decoder: nn.Module

    def reconstruct(self, patches: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [0, 1] from the outputs at the patches (B, C, H)."""

    def decoder_operations(self) -> float:
        """Operations of a forward pass of the decoder for one picture."""


@runtime_checkable
class JudgesAgreement(Fuses, Protocol):
    """A system that decides whether text and picture belong together."""

    itm_head: nn.Module

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) from the outputs at [CLS] (B, H)."""


@runtime_checkable
class RestoresRegions(Fuses, Protocol):
    """A system that reads regions of a picture, and tells what hidden ones were."""

    @property
    def region_boxes(self) -> Tensor:
        """Where those of a grid are: corners (C, 4) in 0..1."""

    @property
    def region_feature_head(self) -> nn.Module:
        """From outputs at regions (N, H) to their features (N, F)."""

    @property
    def region_label_head(self) -> nn.Module | None:
        """From outputs at regions (N, H) to logits over labels (N, labels); None where no labels are known."""

    @property
    def region_attribute_head(self) -> nn.Module | None:
        """What `region_attribute_logits` uses; None where no attributes are known."""

    def region_attribute_logits(self, hidden: Tensor) -> list[Tensor]:
        """Logits (N, values) of every kind of attribute from outputs at regions (N, H)."""

    def region_operations(self, hidden: float, head: nn.Module) -> float:
        """Operations of a forward pass of one of these heads at so many regions."""


@runtime_checkable
class AnswersQuestions(Fuses, Protocol):
    """A system that answers the question that its text is."""

    @property
    def answer_head(self) -> nn.Module | None:
        """From the outputs at [CLS] (N, H) to logits over answers (N, answers); None where no answers are known."""

    def answer_operations(self, questions: float) -> float:
        """Operations of a forward pass of the head for so many questions."""


@runtime_checkable
class ShowsAttention(Protocol):
    """A system that tells where its words look."""

    def attended(self, shown: Shown) -> Attended | None:
        """The attention of texts to pictures in the last block that has any; None where no block has."""


@runtime_checkable
class EncodesItems(Protocol):
    """A system that makes one vector of an item, whatever is shown of it; fine-tuning can compare these."""

    @property
    def item_parts(self) -> int:
        """Of how many vectors of the width of its blocks that one consists."""

    @property
    def item_part_width(self) -> int:
        """The width of its blocks."""

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, parts * width); zeros stand for a modality that is left out."""

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Vectors that its transformers read of a batch, without padding."""

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch."""
