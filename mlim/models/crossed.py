"""LXMERT (Tan and Bansal 2019): text and regions of a picture encoded apart, then blocks that attend both ways."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from mlim.data.objects import ObjectNames
from mlim.data.regions import is_packed, unpack
from mlim.errors import InputError
from mlim.models.activation import activation
from mlim.models.boxes import CORNERS
from mlim.models.costs import crossing_layers, linear, operations_of, transformer_layers
from mlim.models.decoder import Attention, Blocks, DecoderBlock
from mlim.models.dropout import Dropout
from mlim.models.heads import BinaryHead, ClassHead, MlmHead
from mlim.models.hub import start_of_text
from mlim.models.images.build import picture_operations
from mlim.models.images.regions import RegionReader, grid_boxes
from mlim.models.item_system import FusingSystem, ReadsWords
from mlim.models.network import Part, RecomputableBlock
from mlim.models.shapes import ShapedInputs
from mlim.models.system import Attended, Fused, Shown
from mlim.models.transformer import EncoderShape
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.image_sides import RANDOM_START

KIND = "crossed"


class CrossedConfig(ShapedInputs):
    """What it reads, its shape, what objects are called, which answers there are; stored beside the weights as JSON.

    `feature_size`: numbers of a region's stored feature; None: it reads pictures.
    """

    shape: CrossedSystem
    objects: ObjectNames = ObjectNames()
    feature_size: PositiveInt | None = None
    answers: tuple[str, ...] = ()

    @property
    def patches(self) -> int:
        """Regions of a picture, at most."""
        return self.shape.image.most

    @property
    def values(self) -> list[int]:
        """How many values each kind of attribute has that stored regions tell; the regions of a picture tell none."""
        return [] if self.feature_size is None else self.objects.values()


class CrossingBlock(RecomputableBlock):
    """Cross-attention both ways with one set of weights, as in the published code, then a BERT block for each side."""

    def __init__(self, config: EncoderShape) -> None:
        super().__init__()
        self.cross_attention = Attention(config)
        self.cross_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.text = DecoderBlock(config, crosses=False)
        self.regions = DecoderBlock(config, crosses=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, length: int, visible: Tensor, there: Tensor | None = None) -> Tensor:
        """Outputs like `hidden` (B, T + R, H): `length` is T; `visible` (B, 1, 1, T) bool is False at padding.

        `there` (B, 1, 1, R) bool is False where a picture has fewer regions; None: all have R. Without regions (R = 0)
        the text attends to itself alone.
        """
        text, regions = hidden[:, :length], hidden[:, length:]
        if not regions.shape[1]:
            return cast(Tensor, self.text(self.cross_norm(text), None, visible))
        seen, read = self._cross(text, regions, there), self._cross(regions, text, visible)
        return torch.cat([self.text(seen, None, visible), self.regions(read, None, there)], dim=1)

    def _cross(self, asking: Tensor, known: Tensor, visible: Tensor | None) -> Tensor:
        attended = self.cross_attention(asking, known, known, visible)
        return cast(Tensor, self.cross_norm(self.dropout.add(asking, attended)))


class RegionHead(nn.Module):
    """What a hidden region was: a dense layer as in BERT's head over words, then a linear one."""

    def __init__(self, config: CrossedConfig, leaving: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.dense = nn.Linear(width, width)
        self.activation = activation(config.activation)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.output = nn.Linear(width, leaving)

    def forward(self, hidden: Tensor) -> Tensor:
        """Numbers (N, leaving) from outputs (N, H); N may be 0."""
        return cast(Tensor, self.output(self.norm(self.activation(self.dense(hidden)))))


class Crossed(ReadsWords, FusingSystem):
    """[CLS] text [SEP] in one encoder, regions in another one, and blocks in which both attend to each other.

    The last block's outputs at regions serve only tasks that read them, those at the text only the others.
    """

    kind = KIND
    config_class = CrossedConfig
    config: CrossedConfig
    side = "regions.side"
    uses_everything = False

    def __init__(self, config: CrossedConfig) -> None:
        super().__init__(config)
        shape, width = config.shape, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.regions = RegionReader(shape.image, config.blocks(shape.image.depth), config.feature_size)
        self.text_encoder = Blocks(config.blocks(shape.text_depth), crosses=False)
        self.region_encoder = Blocks(config.blocks(shape.image.depth), crosses=False)
        self.crossing = nn.ModuleList(CrossingBlock(config.blocks(1)) for _ in range(shape.cross_depth))
        labels = len(config.objects.labels)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, shape.dropout)
        self.region_feature_head = RegionHead(config, self.regions.side.feature_size)
        self.region_label_head = RegionHead(config, labels) if labels else None
        self.region_attribute_head = RegionHead(config, sum(config.values)) if config.values else None
        self.answer_head = ClassHead(width, width, len(config.answers)) if config.answers else None

    def start(self) -> Mapping[str, Tensor]:
        """The weights that its sides start from; `InputError` when they cannot be found or read."""
        shape, image = self.config.shape, super().start()
        if shape.text_start == RANDOM_START:
            return image
        return {**image, **start_of_text(shape.text_start, self.config, self.config.blocks(shape.text_depth))}

    @property
    def region_boxes(self) -> Tensor:
        """Where those of a grid are: corners (R, 4) in 0..1."""
        return grid_boxes(self.config.shape.image.side, self.norm.weight.device)

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        embeddings = [self.word_embeddings, self.text_positions, self.norm]
        asked = [self.region_feature_head, self.region_label_head, self.region_attribute_head]
        heads: list[nn.Module | None] = [self.mlm_head, self.itm_head, *asked, self.answer_head]
        return {
            "embedder": [self.regions],
            "transformer": [*embeddings, self.text_encoder, self.region_encoder, self.crossing],
            "heads": [head for head in heads if head is not None],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of both encoders side by side, then those that cross."""
        apart = zip_longest(self.text_encoder.levels(), self.region_encoder.levels())
        return [
            *([block for block in level if block is not None] for level in apart),
            *([each] for each in self._cross),
        ]

    @property
    def _cross(self) -> list[CrossingBlock]:
        return [cast(CrossingBlock, block) for block in self.crossing]

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the regions; the features of hidden regions are 0."""
        ids, attention = shown.words(self.config.special.mask), shown.text_attention
        if shown.pixels is None:
            return Fused(self._encode(ids, attention, None), None)
        features, boxes, present = self._look(shown.pixels)
        shows = features if shown.image_mask is None else features.masked_fill(shown.image_mask[..., None], 0.0)
        hidden = self._encode(ids, attention, self.regions(shows, boxes), present)
        return Fused(hidden[:, : ids.shape[1]], hidden[:, ids.shape[1] :], features.detach(), present)

    def attended(self, shown: Shown) -> Attended | None:
        """The attention of the texts' tokens to the regions in the last block that crosses; None where none does."""
        if shown.pixels is None or not self._cross:
            return None
        features, boxes, present = self._look(shown.pixels)
        length, attention = shown.input_ids.shape[1], shown.text_attention
        hidden = self._encode(shown.input_ids, attention, self.regions(features, boxes), present, len(self._cross) - 1)
        there = None if present is None else present[:, None, None, :]
        weights = self._cross[-1].cross_attention.weights(hidden[:, :length], hidden[:, length:], there)
        return Attended(weights.mean(dim=1), boxes)

    def _look(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, corners, and which regions are there (None: all), read off pictures or stored."""
        if self.config.feature_size is None:
            return self.regions.features(pictures, self.region_boxes), self.region_boxes, None
        if not is_packed(pictures):
            source = self.config.shape.image.source
            raise InputError(
                f"a model that reads stored regions (source {source}) was shown pictures; use it in the work folder of "
                "its regions, or choose a model that reads pictures"
            )
        return unpack(pictures)

    def _encode(
        self,
        ids: Tensor,
        attention: Tensor,
        regions: Tensor | None,
        present: Tensor | None = None,
        crossings: int | None = None,
    ) -> Tensor:
        """The outputs (B, T + R, H) for texts `ids` (B, T) and vectors of regions (B, R, H).

        Those of the first `crossings` blocks that cross; None: of all.
        """
        visible, there = attention[:, None, None, :], None if present is None else present[:, None, None, :]
        hidden = self.text_encoder(self.read_words(ids), visible=visible)[-1]
        if regions is not None:
            hidden = torch.cat([hidden, self.region_encoder(self.dropout(regions), visible=there)[-1]], dim=1)
        for block in self._cross[:crossings]:
            hidden = block.run(hidden, ids.shape[1], visible, there)
        return cast(Tensor, hidden)

    def region_attribute_logits(self, hidden: Tensor) -> list[Tensor]:
        """Logits (N, values) of every kind of attribute from outputs at regions (N, H)."""
        if self.region_attribute_head is None:
            raise ValueError("its regions have no attributes")
        return list(self.region_attribute_head(hidden).split(self.config.values, dim=1))

    def region_operations(self, hidden: float, head: nn.Module) -> float:
        """Operations of a forward pass of one of its heads over regions at so many of them."""
        width, leaving = self.config.shape.width, cast(RegionHead, head).output.out_features
        return operations_of([linear(hidden, width, width), linear(hidden, width, leaving)])

    def answer_operations(self, questions: float) -> float:
        """Operations of a forward pass of the head over answers for so many questions."""
        width, answers = self.config.shape.width, len(self.config.answers)
        return operations_of([linear(questions, width, 2 * width), linear(questions, 2 * width, answers)])

    def encoding_operations(self, text: float, cells: int) -> float:
        """Operations for one item with so many tokens and regions; 0: without the picture.

        The projection of the image side counts in all cells of its grid, which is too many.
        """
        shape = self.config.shape
        crossing = self.config.blocks(shape.cross_depth)
        layers = transformer_layers(self.config.blocks(shape.text_depth), text)
        if not cells:
            return operations_of([*layers, *transformer_layers(crossing, text)])
        layers += transformer_layers(self.config.blocks(shape.image.depth), cells)
        layers += crossing_layers(crossing, text, memory=cells)
        layers += crossing_layers(crossing, cells, memory=text)
        layers += [linear(cells, CORNERS, shape.width)]
        if (size := self.config.feature_size) is not None:
            return operations_of([*layers, linear(cells, size, shape.width)])
        grid = shape.image.features.cells(self.config.image_size) ** 2
        layers += [linear(cells, grid, self.regions.side.feature_size)]
        return operations_of(layers) + picture_operations(shape.image.features, shape.width, self.config.image_size)
