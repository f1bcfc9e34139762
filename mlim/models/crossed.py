"""LXMERT (Tan and Bansal 2019): text and regions of a picture encoded apart, then blocks that attend both ways."""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mlim.config import parse
from mlim.data.objects import ObjectNames
from mlim.data.tokenize import TextTokenizer
from mlim.models.activation import activation
from mlim.models.boxes import CORNERS
from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, TEXT_SPECIALS, Inputs, SpecialIds
from mlim.models.costs import crossing_layers, linear, mlm_layers, operations_of, transformer_layers
from mlim.models.decoder import Attention, Blocks, DecoderBlock
from mlim.models.dropout import Dropout
from mlim.models.dual import WIDENING, TowerShape
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import picture_operations
from mlim.models.images.regions import RegionReader, grid_boxes
from mlim.models.initialise import drawn
from mlim.models.item_vectors import vectors_of
from mlim.models.network import Part, RecomputableBlock
from mlim.models.storage import plan_model, save_model
from mlim.models.system import Fused, Shown, System
from mlim.models.transformer import EncoderShape, Packing, pack
from mlim.models.weights import Planned, on_meta
from mlim.models.writing import embed_in_order
from mlim.recipe.base import Modality
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.systems import NetworkSections

KIND = "crossed"
SIDE = "regions.side."  # begins the names of the image side's weights
ITEM_PARTS = 3  # of an item's vector: [CLS], text, picture


class CrossedConfig(Inputs):
    """What it reads, its shape, and what objects are called; stored beside the weights as JSON."""

    shape: CrossedSystem
    objects: ObjectNames = ObjectNames()

    def blocks(self, depth: int) -> TowerShape:
        """So many of its blocks."""
        return TowerShape(self.shape.width, depth, self.shape.heads, self.shape.dropout)

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""
        return self.shape.width

    @property
    def layers(self) -> int:
        """Blocks of the text encoder."""
        return self.shape.text_depth

    @property
    def heads(self) -> int:
        """Of the attention, in each block."""
        return self.shape.heads

    @property
    def intermediate_size(self) -> int:
        """Numbers between the two dense layers of a block."""
        return WIDENING * self.shape.width

    @property
    def dropout(self) -> float:
        """Of all blocks."""
        return self.shape.dropout

    @property
    def tied_words(self) -> bool:
        """Words are predicted by the vectors that they are read as."""
        return True

    @property
    def activation(self) -> str:
        """Between the two dense layers."""
        return BERT_ACTIVATION

    @property
    def norm_eps(self) -> float:
        """Of the layer norms."""
        return BERT_NORM_EPS


class CrossingBlock(RecomputableBlock):
    """Cross-attention both ways with one set of weights, as in the published code, then a BERT block for each side."""

    def __init__(self, config: EncoderShape) -> None:
        super().__init__()
        self.cross_attention = Attention(config)
        self.cross_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.text = DecoderBlock(config, crosses=False)
        self.regions = DecoderBlock(config, crosses=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, length: int, visible: Tensor) -> Tensor:
        """Outputs like `hidden` (B, T + R, H): `length` is T; `visible` (B, 1, 1, T) bool is False at padding.

        Without regions (R = 0) the text attends to itself alone.
        """
        text, regions = hidden[:, :length], hidden[:, length:]
        if not regions.shape[1]:
            return cast(Tensor, self.text(self.cross_norm(text), None, visible))
        seen, read = self._cross(text, regions, None), self._cross(regions, text, visible)
        return torch.cat([self.text(seen, None, visible), self.regions(read)], dim=1)

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


class Crossed(System):
    """[CLS] text [SEP] in one encoder, regions in another one, and blocks in which both attend to each other.

    The last block's outputs at regions serve only tasks that read them, those at the text only the others.
    """

    kind = KIND
    uses_everything = False

    def __init__(self, config: CrossedConfig) -> None:
        super().__init__()
        self.config, shape, width = config, config.shape, config.shape.width
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.regions = RegionReader(shape.image, config.blocks(shape.image.depth))
        self.text_encoder = Blocks(config.blocks(shape.text_depth), crosses=False)
        self.region_encoder = Blocks(config.blocks(shape.image.depth), crosses=False)
        self.crossing = nn.ModuleList(CrossingBlock(config.blocks(1)) for _ in range(shape.cross_depth))
        labels = len(config.objects.labels)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, shape.dropout)
        self.region_feature_head = RegionHead(config, self.regions.side.feature_size)
        self.region_label_head = RegionHead(config, labels) if labels else None

    @classmethod
    def planned(cls, config: CrossedConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on `config` and `seed`, and those it starts from."""
        model = on_meta(lambda: cls(config))
        start = [(f"{SIDE}{name}", value) for name, value in model.regions.side.start()]
        random = torch.Generator().manual_seed(seed)
        return Planned(model, lambda: chain(drawn(model, config.shape.width, random), start))

    @property
    def inputs(self) -> CrossedConfig:
        """What it can read."""
        return self.config

    @property
    def patches(self) -> int:
        """Regions of a picture."""
        return self.config.shape.image.count

    @property
    def region_boxes(self) -> Tensor:
        """Where they are: corners (R, 4) in 0..1."""
        return grid_boxes(self.config.shape.image.side, self.norm.weight.device)

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        embeddings = [self.word_embeddings, self.text_positions, self.norm]
        heads = [self.mlm_head, self.itm_head, self.region_feature_head, self.region_label_head]
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
        ids, attention = shown.input_ids, shown.text_attention
        if shown.text_mask is not None:
            ids = torch.where(shown.text_mask, self.config.special.mask, ids)
        if shown.pixels is None:
            return Fused(self._encode(ids, attention, None), None)
        features, boxes = self.regions.features(shown.pixels, self.region_boxes), self.region_boxes
        shows = features if shown.image_mask is None else features.masked_fill(shown.image_mask[..., None], 0.0)
        hidden = self._encode(ids, attention, self.regions(shows, boxes))
        return Fused(hidden[:, : ids.shape[1]], hidden[:, ids.shape[1] :], features.detach())

    def _encode(self, ids: Tensor, attention: Tensor, regions: Tensor | None) -> Tensor:
        """The outputs (B, T + R, H) for texts `ids` (B, T) and vectors of regions (B, R, H)."""
        visible = attention[:, None, None, :]
        words = self.dropout(self.norm(embed_in_order(self.word_embeddings, self.text_positions, ids)))
        hidden = self.text_encoder(words, visible=visible)[-1]
        if regions is not None:
            hidden = torch.cat([hidden, self.region_encoder(self.dropout(regions))[-1]], dim=1)
        for block in self._cross:
            hidden = block.run(hidden, ids.shape[1], visible)
        return cast(Tensor, hidden)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.word_embeddings.weight))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H), pooled by tanh."""
        return cast(Tensor, self.itm_head(cls))

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the MLM head at so many positions."""
        return operations_of(mlm_layers(self.config, masked))

    def region_operations(self, hidden: float, labels: bool) -> float:
        """Operations of a forward pass of either head at so many regions."""
        width = self.config.shape.width
        leaving = len(self.config.objects.labels) if labels else self.regions.side.feature_size
        return operations_of([linear(hidden, width, width), linear(hidden, width, leaving)])

    def _encoding(self, text: float, pictures: bool) -> float:
        """Operations for one item with so many tokens; the projection counts in all cells, which is too many."""
        shape, regions = self.config.shape, self.patches if pictures else 0
        layers = transformer_layers(self.config.blocks(shape.text_depth), text)
        if not pictures:
            return operations_of([*layers, *transformer_layers(self.config.blocks(shape.cross_depth), text)])
        layers += transformer_layers(self.config.blocks(shape.image.depth), regions)
        layers += crossing_layers(self.config.blocks(shape.cross_depth), text, memory=regions)
        layers += crossing_layers(self.config.blocks(shape.cross_depth), regions, memory=text)
        cells = (self.config.image_size // shape.image.features.cell_size) ** 2
        layers += [linear(regions, cells, self.regions.side.feature_size), linear(regions, CORNERS, shape.width)]
        return operations_of(layers) + picture_operations(shape.image.features, shape.width, self.config.image_size)

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and regions."""
        return self.item_tokens(packing, "both")

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch, without heads."""
        return self.item_operations(packing, "both")

    @property
    def item_parts(self) -> int:
        """An item is its output at [CLS], its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.shape.width

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the regions' outputs.

        A text that is left out leaves its [CLS]; zeros stand for the mean of what is left out, and of an empty text.
        """
        ids, attention = shown.input_ids, shown.text_attention
        if modality == "image":
            ids, attention = ids[:, :1], attention[:, :1]
        fused = self.fuse(Shown(ids, attention, None if modality == "text" else shown.pixels))
        return vectors_of(fused, attention)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, or [CLS] alone, and the regions, as far as they are shown."""
        items = len(packing.attention_mask)
        text = items if modality == "image" else len(packing.indices)
        return text + (0 if modality == "text" else items * self.patches)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of texts of average length."""
        items = len(packing.attention_mask)
        text = 1.0 if modality == "image" else len(packing.indices) / items
        return items * self._encoding(text, pictures=modality != "text")

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def planned_from(cls, folder: Path) -> Planned[Self]:
        """A saved model to be built; `InputError` when `folder` holds none."""
        return plan_model(folder, KIND, CrossedConfig, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself."""
        return cls(parse(CrossedConfig, values, where))


def plan_crossed(
    shape: CrossedSystem, sections: NetworkSections, tokenizer: TextTokenizer, seed: int, objects: ObjectNames
) -> Planned[Crossed]:
    """The network of this shape that pre-training starts from, to be built: random from `seed`, or with given weights.

    `InputError` when weights that its image side starts from cannot be found or read.
    """
    config = CrossedConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        special=SpecialIds.of(tokenizer),
        text_positions=sections.text.limit + TEXT_SPECIALS,
        image_size=sections.image.size,
        shape=shape,
        objects=objects,
    )
    return Crossed.planned(config, seed)
