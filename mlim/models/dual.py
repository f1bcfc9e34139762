"""A dual encoder: texts and pictures in one space, where those of an item are close (Radford et al. 2021, CLIP)."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlim.models.config import RGB
from mlim.models.costs import linear, operations_of, transformer_layers
from mlim.models.images.patch import PatchProjection
from mlim.models.item_system import ItemSystem
from mlim.models.network import Part, RecomputableBlock
from mlim.models.shapes import ShapedInputs
from mlim.models.system import Shown
from mlim.models.tower import Tower
from mlim.models.transformer import Packing, pack, without_padding
from mlim.models.vectors import Vectors
from mlim.recipe.base import Modality
from mlim.recipe.dual import LEAST_TEMPERATURE, DualSystem

KIND = "dual"
ITEM_PARTS = 2  # of an item's vector: text, picture
TEMPERATURE = "projection.free_temperature"


class DualConfig(ShapedInputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: DualSystem

    @property
    def patches(self) -> int:
        """Of a picture."""
        return self.shape.image.cells(self.image_size) ** 2


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


class Dual(ItemSystem):
    """Two encoders: a text becomes its output at [CLS], a picture the mean of its patches' outputs."""

    kind = KIND
    config_class = DualConfig
    config: DualConfig

    def __init__(self, config: DualConfig) -> None:
        super().__init__(config)
        shape = config.shape
        self.word_embeddings = nn.Embedding(config.vocabulary_size, shape.width)
        self.patch_embeddings = PatchProjection(shape.image.size, shape.width)
        self.text = Tower(config.blocks(shape.text_depth), config.text_positions)
        self.image = Tower(config.blocks(shape.image.depth), config.patches)
        self.projection = Projection(shape)

    def start(self) -> Mapping[str, Tensor]:
        """What its temperature starts from."""
        return {TEMPERATURE: torch.tensor([math.log(self.config.shape.temperature - LEAST_TEMPERATURE)])}

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

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 2 * H): what the encoders make of text and picture; zeros for the one that is left out."""
        nothing = self.word_embeddings.weight.new_zeros(shown.input_ids.shape[0], self.item_part_width)
        text = nothing if modality == "image" else self._encode_text(shown)
        image = nothing if modality == "text" else self._encode_image(shown)
        return torch.cat([text, image], dim=1)

    def text_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding that are read of a batch; none of a text that is left out."""
        return 0 if modality == "image" else len(packing.indices)

    def encoding_operations(self, text: float, cells: int) -> float:
        """Operations for one item with so many tokens and patches, without the projections; 0: without either."""
        shape, layers = self.config.shape, []
        if text:
            layers += transformer_layers(self.config.blocks(shape.text_depth), text)
        if cells:
            layers += [linear(cells, RGB * shape.image.size**2, shape.width)]
            layers += transformer_layers(self.config.blocks(shape.image.depth), cells)
        return operations_of(layers)
