"""A dual encoder: texts and pictures in one space, where those of an item are close (Radford et al. 2021, CLIP)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlim.config import parse
from mlim.data.tokenize import TextTokenizer
from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, RGB, TEXT_SPECIALS, Inputs, SpecialIds
from mlim.models.costs import linear, operations_of, transformer_layers
from mlim.models.dropout import Dropout
from mlim.models.images.patch import PatchProjection
from mlim.models.initialise import drawn
from mlim.models.network import Part, RecomputableBlock
from mlim.models.storage import plan_model, save_model
from mlim.models.system import Shown, System
from mlim.models.transformer import Encoder, Packing, pack, put_tokens, take_tokens, without_padding
from mlim.models.vectors import Vectors
from mlim.models.weights import Planned, on_meta
from mlim.recipe.base import Modality
from mlim.recipe.dual import LEAST_TEMPERATURE, DualSystem
from mlim.recipe.systems import NetworkSections

KIND = "dual"
ITEM_PARTS = 2  # of an item's vector: text, picture
WIDENING = 4  # of the vectors between the two dense layers of a block, as in BERT
TEMPERATURE = "projection.free_temperature"


class DualConfig(Inputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: DualSystem

    @property
    def patches(self) -> int:
        """Of a picture."""
        return (self.image_size // self.shape.image.size) ** 2


@dataclass(frozen=True)
class TowerShape:
    """An encoder of `layers` blocks."""

    hidden_size: int
    layers: int
    heads: int
    dropout: float
    activation: str = BERT_ACTIVATION
    norm_eps: float = BERT_NORM_EPS

    @classmethod
    def of(cls, shape: DualSystem, layers: int) -> Self:
        """One of the two encoders."""
        return cls(shape.width, layers, shape.heads, shape.dropout)

    @property
    def intermediate_size(self) -> int:
        """Numbers between the two dense layers of a block."""
        return WIDENING * self.hidden_size


class Tower(nn.Module):
    """Vectors with positions to their encoding; what makes the vectors is its owner's."""

    def __init__(self, shape: TowerShape, positions: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.encoder = Encoder(shape)

    def forward(self, vectors: Tensor, packing: Packing) -> Tensor:
        """Outputs (B, S, H) of vectors (B, S, H), zeros at padding."""
        placed = vectors + self.positions.weight[: vectors.shape[1]]
        hidden = self.dropout(self.norm(take_tokens(placed, packing)))
        return put_tokens(self.encoder(hidden, packing), packing)


class Projection(nn.Module):
    """Both encoders' outputs into the common space, and the temperature that is learned with it."""

    def __init__(self, shape: DualSystem) -> None:
        super().__init__()
        self.text = nn.Linear(shape.width, shape.vector_size, bias=False)
        self.image = nn.Linear(shape.width, shape.vector_size, bias=False)
        self.free_temperature = nn.Parameter(torch.empty(1))  # its exponential is what lies above the least one

    @property
    def temperature(self) -> Tensor:
        """At least `LEAST_TEMPERATURE`, wherever the gradient leads."""
        return LEAST_TEMPERATURE + self.free_temperature.exp()


class Dual(System):
    """Two encoders: a text becomes its output at [CLS], a picture the mean of its patches' outputs."""

    kind = KIND

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self._shapes = {
            "text": TowerShape.of(shape, shape.text_depth),
            "image": TowerShape.of(shape, shape.image.depth),
        }
        self.word_embeddings = nn.Embedding(config.vocabulary_size, shape.width)
        self.patch_embeddings = PatchProjection(shape.image.size, shape.width)
        self.text = Tower(self._shapes["text"], config.text_positions)
        self.image = Tower(self._shapes["image"], config.patches)
        self.projection = Projection(shape)

    @classmethod
    def planned(cls, config: DualConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on nothing but `config` and `seed`."""
        model = on_meta(lambda: cls(config))
        start = torch.tensor([math.log(config.shape.temperature - LEAST_TEMPERATURE)])
        random = torch.Generator().manual_seed(seed)
        return Planned(model, lambda: chain(drawn(model, config.shape.width, random), [(TEMPERATURE, start)]))

    @property
    def inputs(self) -> DualConfig:
        """What it can read."""
        return self.config

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.config.patches

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        return {
            "embedder": [self.patch_embeddings],
            "transformer": [self.word_embeddings, self.text, self.image],
            "heads": [self.projection],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of both encoders; the last ones stand side by side."""
        towers = [tower.encoder.levels() for tower in (self.text, self.image)]
        depth = max(map(len, towers))
        return [[tower[level - depth] for tower in towers if level >= depth - len(tower)] for level in range(depth)]

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and patches."""
        return self.item_tokens(packing, "both")

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch, without the projections."""
        return self.item_operations(packing, "both")

    def vectors(self, shown: Shown) -> Vectors:
        """Unit vectors of texts and pictures."""
        text = normalize(self.projection.text(self._encode_text(shown)), dim=-1)
        image = normalize(self.projection.image(self._encode_image(shown)), dim=-1)
        return Vectors(text, image, self.projection.temperature)

    def _encode_text(self, shown: Shown) -> Tensor:
        """The outputs (B, H) at [CLS]."""
        packing = pack(shown.text_attention) if shown.packing is None else shown.packing
        return cast(Tensor, self.text(self.word_embeddings(shown.input_ids), packing)[:, 0])

    def _encode_image(self, shown: Shown) -> Tensor:
        """The means (B, H) of the outputs at the patches."""
        if shown.pixels is None:
            raise ValueError("the image encoder needs pictures")
        patches = self.patch_embeddings(shown.pixels)
        outputs: Tensor = self.image(patches, without_padding(*patches.shape[:2]))
        return outputs.mean(dim=1)

    @property
    def item_parts(self) -> int:
        """An item is its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.shape.width

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 2 * H): what the encoders make of text and picture; zeros for the one that is left out."""
        nothing = self.word_embeddings.weight.new_zeros(shown.input_ids.shape[0], self.item_part_width)
        text = nothing if modality == "image" else self._encode_text(shown)
        image = nothing if modality == "text" else self._encode_image(shown)
        return torch.cat([text, image], dim=1)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, and patches, as far as they are shown."""
        text = 0 if modality == "image" else len(packing.indices)
        return text + (0 if modality == "text" else len(packing.attention_mask) * self.patches)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of texts of average length."""
        items, shape = len(packing.attention_mask), self.config.shape
        layers = []
        if modality != "image":
            layers += transformer_layers(self._shapes["text"], len(packing.indices) / items)
        if modality != "text":
            layers += [linear(self.patches, RGB * shape.image.size**2, shape.width)]
            layers += transformer_layers(self._shapes["image"], self.patches)
        return items * operations_of(layers)

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def planned_from(cls, folder: Path) -> Planned[Self]:
        """A saved model to be built; `InputError` when `folder` holds none."""
        return plan_model(folder, KIND, DualConfig, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself."""
        return cls(parse(DualConfig, values, where))


def plan_dual(shape: DualSystem, sections: NetworkSections, tokenizer: TextTokenizer, seed: int) -> Planned[Dual]:
    """The network of this shape that pre-training starts from, to be built; all weights are random from `seed`."""
    config = DualConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        special=SpecialIds.of(tokenizer),
        text_positions=sections.text.limit + TEXT_SPECIALS,
        image_size=sections.image.size,
        shape=shape,
    )
    return Dual.planned(config, seed)
