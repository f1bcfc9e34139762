"""E2E-VLP (Xu et al. 2021): one encoder over text and picture, one decoder that finds objects and writes captions.

As in DETR the cells of a picture have fixed positions that every attention adds to its queries and keys. A LayerNorm
brings cells to the size of word vectors before the first block: the network starts from random weights.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.config import parse
from mlim.data.objects import ObjectNames
from mlim.data.tokenize import TextTokenizer
from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, TEXT_SPECIALS, Inputs, SpecialIds
from mlim.models.costs import crossing_layers, linear, mlm_layers, operations_of, transformer_layers
from mlim.models.decoder import Blocks, Memory, causal
from mlim.models.detection import Detected, DetectionHeads, sine_positions
from mlim.models.dropout import Dropout
from mlim.models.dual import WIDENING, TowerShape
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import build_image_side, picture_operations
from mlim.models.initialise import drawn
from mlim.models.item_vectors import vectors_of
from mlim.models.network import Part, RecomputableBlock
from mlim.models.storage import plan_model, save_model
from mlim.models.system import Fused, Shown, System
from mlim.models.transformer import Packing, pack
from mlim.models.weights import Planned, on_meta
from mlim.models.writing import WritingHead, embed_in_order
from mlim.recipe.base import Modality
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.systems import NetworkSections

KIND = "e2e-vlp"
IMAGE = "image."  # begins the names of the image side's weights
ITEM_PARTS = 3  # of an item's vector: [CLS], text, picture


class E2eVlpConfig(Inputs):
    """What it reads, its shape, and what objects are called; stored beside the weights as JSON."""

    shape: E2eVlpSystem
    objects: ObjectNames = ObjectNames()

    @property
    def grid(self) -> int:
        """Cells along a side of a picture."""
        return self.image_size // self.shape.image.cell_size

    def blocks(self, depth: int) -> TowerShape:
        """So many of its blocks."""
        return TowerShape(self.shape.width, depth, self.shape.heads, self.shape.dropout)

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""
        return self.shape.width

    @property
    def layers(self) -> int:
        """Blocks of the encoder."""
        return self.shape.depth

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
        """Of encoder and decoder."""
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


class E2eVlp(System):
    """Sequence [CLS] text [SEP] cells, read by MLM and ITM; queries and captions read it in the decoder."""

    kind = KIND

    def __init__(self, config: E2eVlpConfig) -> None:
        super().__init__()
        self.config, shape, width = config, config.shape, config.shape.width
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.image = build_image_side(shape.image, width)
        self.image_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.encoder = Blocks(config.blocks(shape.depth), crosses=False)
        self.queries = nn.Embedding(shape.queries, width)
        self.decoder = Blocks(config.blocks(shape.decoder_depth))
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.detection = DetectionHeads(width, len(config.objects.labels), config.objects.values())
        self.writing = WritingHead(config.vocabulary_size)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, shape.dropout)

    @classmethod
    def planned(cls, config: E2eVlpConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on `config` and `seed`, and those it starts from."""
        model = on_meta(lambda: cls(config))
        start = [(f"{IMAGE}{name}", value) for name, value in model.image.start()]
        random = torch.Generator().manual_seed(seed)
        return Planned(model, lambda: chain(drawn(model, config.shape.width, random), start))

    @property
    def inputs(self) -> E2eVlpConfig:
        """What it can read."""
        return self.config

    @property
    def patches(self) -> int:
        """Cells of a picture."""
        return self.config.grid**2

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        return {
            "embedder": [self.image],
            "transformer": [self.word_embeddings, self.text_positions, self.norm, self.image_norm, self.encoder],
            "decoder": [self.queries, self.decoder, self.decoder_norm],
            "heads": [self.detection, self.writing, self.mlm_head, self.itm_head],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of its encoder: what all tasks go through."""
        return [[block] for block in self.encoder.levels()]

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's cells."""
        ids, length = shown.input_ids, shown.input_ids.shape[1]
        if shown.text_mask is not None:
            ids = torch.where(shown.text_mask, self.config.special.mask, ids)
        hidden = self._encode(self._words(ids), shown.text_attention, shown.pixels)
        return Fused(hidden[:, :length], None if shown.pixels is None else hidden[:, length:])

    def look(self, shown: Shown) -> Tensor:
        """The outputs at the cells (B, C, H) of pictures that are read without a text."""
        if shown.pixels is None:
            raise ValueError("to look needs pictures")
        nothing = shown.text_attention[:, :0]
        return self._encode(self.norm.weight.new_zeros(*nothing.shape, self.config.shape.width), nothing, shown.pixels)

    def _words(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(self.norm(embed_in_order(self.word_embeddings, self.text_positions, ids))))

    def _positions(self, text: int, like: Tensor) -> Tensor:
        """Of `text` tokens, whose vectors have theirs already, and of the cells: (text + C, H)."""
        sines = sine_positions(self.config.grid, self.config.shape.width, like.device)
        return functional.pad(sines, (0, 0, text, 0))

    def _encode(self, text: Tensor, attention: Tensor, pixels: Tensor | None) -> Tensor:
        """The encoder's outputs (B, T + C, H) for word vectors (B, T, H) and pictures."""
        vectors, positions, visible = text, None, attention
        if pixels is not None:
            cells: Tensor = self.dropout(self.image_norm(self.image(pixels)))
            vectors, positions = torch.cat([text, cells], dim=1), self._positions(text.shape[1], text)
            visible = functional.pad(attention, (0, cells.shape[1]), value=True)
        return cast(Tensor, self.encoder(vectors, positions, visible[:, None, None, :])[-1])

    def detect(self, cells: Tensor, text: Tensor | None = None, attention: Tensor | None = None) -> Detected:
        """The objects, from the encoder's outputs at the cells (B, C, H), and at the text's tokens (B, T, H)."""
        states = cells if text is None else torch.cat([text, cells], dim=1)
        visible = None if attention is None else functional.pad(attention, (0, cells.shape[1]), value=True)
        positions = self._positions(states.shape[1] - cells.shape[1], cells)
        memory = Memory(states, positions, None if visible is None else visible[:, None, None, :])
        queries = self.queries.weight
        nothing = queries.new_zeros(len(cells), *queries.shape)
        found: Detected = self.detection(self.decoder_norm(self.decoder(nothing, queries, memory=memory)))
        return found

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) that predict the token after each of `ids` (B, T), from what `look` gave."""
        visible, memory = causal(ids.shape[1], ids.device), Memory(seen, self._positions(0, seen))
        return cast(Tensor, self.decoder_norm(self.decoder(self._words(ids), visible=visible, memory=memory)[-1]))

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""
        return cast(Tensor, self.writing(hidden, self.word_embeddings.weight))

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.word_embeddings.weight))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H)."""
        return cast(Tensor, self.itm_head(cls))

    @property
    def queries_and_layers(self) -> tuple[int, int]:
        """How many objects are looked for, and how often: once in each block of the decoder."""
        return self.config.shape.queries, self.config.shape.decoder_depth

    @property
    def detection_modules(self) -> list[nn.Module]:
        """What only detection and captions train."""
        return [self.queries, self.decoder, self.decoder_norm, self.detection]

    @property
    def writing_modules(self) -> list[nn.Module]:
        """What only captions and detection train."""
        return [self.decoder, self.decoder_norm, self.writing]

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the MLM head at so many positions."""
        return operations_of(mlm_layers(self.config, masked))

    def detection_operations(self, text: float, alone: bool) -> float:
        """Operations of finding the objects of a picture beside so many tokens; `alone`: with the encoder's."""
        shape, objects = self.config.shape, self.config.objects
        layers = crossing_layers(self.config.blocks(shape.decoder_depth), shape.queries, memory=text + self.patches)
        judged = shape.queries * shape.decoder_depth
        heads = [linear(judged, shape.width, len(objects.labels) + 1 + sum(objects.values()))]
        boxes = [linear(judged, shape.width, shape.width)] * 2
        return operations_of([*layers, *heads, *boxes]) + (self._encoding(0.0, pictures=True) if alone else 0.0)

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture, which is encoded alone, and a text of so many tokens."""
        shape = self.config.shape
        layers = crossing_layers(self.config.blocks(shape.decoder_depth), tokens, memory=self.patches)
        head = linear(tokens, shape.width, self.config.vocabulary_size)
        return operations_of([*layers, head]) + self._encoding(0.0, pictures=True)

    def _encoding(self, text: float, pictures: bool) -> float:
        """Operations of the encoder for one item with so many tokens."""
        shape = self.config.shape
        layers = transformer_layers(self.config.blocks(shape.depth), text + (self.patches if pictures else 0))
        side = picture_operations(shape.image, shape.width, self.config.image_size) if pictures else 0.0
        return operations_of(layers) + side

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and cells."""
        return self.item_tokens(packing, "both")

    def operations(self, packing: Packing) -> float:
        """Operations of the encoder over a batch."""
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
        """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the picture's outputs.

        A text that is left out leaves its [CLS]; zeros stand for the mean of what is left out, and of an empty text.
        """
        ids, attention = shown.input_ids, shown.text_attention
        if modality == "image":
            ids, attention = ids[:, :1], attention[:, :1]
        pixels = None if modality == "text" else shown.pixels
        return vectors_of(self.fuse(Shown(ids, attention, pixels)), attention)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, or [CLS] alone, and the cells, as far as they are shown."""
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
        return plan_model(folder, KIND, E2eVlpConfig, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself."""
        return cls(parse(E2eVlpConfig, values, where))


def plan_e2e_vlp(
    shape: E2eVlpSystem, sections: NetworkSections, tokenizer: TextTokenizer, seed: int, objects: ObjectNames
) -> Planned[E2eVlp]:
    """The network of this shape that pre-training starts from, to be built: random from `seed`, or with given weights.

    `InputError` when weights that its image side starts from cannot be found or read.
    """
    config = E2eVlpConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        special=SpecialIds.of(tokenizer),
        text_positions=sections.text.limit + TEXT_SPECIALS,
        image_size=sections.image.size,
        shape=shape,
        objects=objects,
    )
    return E2eVlp.planned(config, seed)
