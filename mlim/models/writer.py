"""A picture as prefix, then its text word after word: GIT (Wang et al. 2022).

An image encoder's vectors come before the text in causal blocks: the picture sees the picture, a word the picture and
the words before it. What the blocks make of a picture does not depend on the text, so it is computed once.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mlim.config import parse
from mlim.data.tokenize import TextTokenizer
from mlim.models.config import TEXT_SPECIALS, Inputs, SpecialIds
from mlim.models.costs import crossing_layers, linear, operations_of, transformer_layers
from mlim.models.decoder import Blocks, causal
from mlim.models.dropout import Dropout
from mlim.models.dual import Tower, TowerShape
from mlim.models.images.build import build_image_side, picture_operations
from mlim.models.initialise import drawn
from mlim.models.network import Part, RecomputableBlock
from mlim.models.storage import plan_model, save_model
from mlim.models.system import Shown, System
from mlim.models.transformer import Packing, pack, without_padding
from mlim.models.weights import Planned, on_meta
from mlim.models.writing import WritingHead, embed_in_order
from mlim.recipe.base import Modality
from mlim.recipe.systems import NetworkSections
from mlim.recipe.writer import WriterSystem

KIND = "writer"
IMAGE = "image."  # begins the names of the image side's weights
ITEM_PARTS = 3  # of an item's vector: its last token, text, picture


class WriterConfig(Inputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: WriterSystem

    @property
    def patches(self) -> int:
        """Vectors of a picture."""
        return (self.image_size // self.shape.image.cell_size) ** 2

    def blocks(self, depth: int) -> TowerShape:
        """So many of its blocks."""
        return TowerShape(self.shape.width, depth, self.shape.heads, self.shape.dropout)


class Writer(System):
    """Image encoder, projection, and causal blocks over picture and text."""

    kind = KIND

    def __init__(self, config: WriterConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        blocks = config.blocks(shape.depth)
        self.image = build_image_side(shape.image, shape.width)
        self.picture = Tower(config.blocks(shape.image_depth), config.patches)
        self.projection = nn.Linear(shape.width, shape.width)
        self.projection_norm = nn.LayerNorm(shape.width, eps=blocks.norm_eps)
        self.word_embeddings = nn.Embedding(config.vocabulary_size, shape.width)
        self.text_positions = nn.Embedding(config.text_positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=blocks.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.decoder = Blocks(blocks, crosses=False)
        self.writing = WritingHead(config.vocabulary_size)

    @classmethod
    def planned(cls, config: WriterConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on `config` and `seed`, and those it starts from."""
        model = on_meta(lambda: cls(config))
        start = [(f"{IMAGE}{name}", value) for name, value in model.image.start()]
        random = torch.Generator().manual_seed(seed)
        return Planned(model, lambda: chain(drawn(model, config.shape.width, random), start))

    @property
    def inputs(self) -> WriterConfig:
        """What it can read."""
        return self.config

    @property
    def patches(self) -> int:
        """Vectors that it makes of a picture."""
        return self.config.patches

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        text = [self.word_embeddings, self.text_positions, self.norm]
        return {
            "embedder": [self.image],
            "transformer": [self.picture, self.projection, self.projection_norm, *text, self.decoder],
            "heads": [self.writing],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of the image encoder, then those over picture and text."""
        return [[block] for block in (*self.picture.encoder.levels(), *self.decoder.levels())]

    def look(self, shown: Shown) -> Tensor:
        """What each block reads of the pictures (B, L, C, H)."""
        return self._picture(shown)[0]

    def _picture(self, shown: Shown) -> tuple[Tensor, Tensor]:
        """The same, and the outputs of the last block (B, C, H)."""
        if shown.pixels is None:
            raise ValueError("a writer needs pictures")
        vectors = self.image(shown.pixels)
        seen = self.picture(vectors, without_padding(*vectors.shape[:2]))
        return self.decoder.inputs(self.projection_norm(self.projection(seen)))

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) that predict the token after each of `ids` (B, T)."""
        words = self.dropout(self.norm(embed_in_order(self.word_embeddings, self.text_positions, ids)))
        visible = causal(ids.shape[1], ids.device, before=seen.shape[2])
        return cast(Tensor, self.decoder(words, visible=visible, before=seen)[-1])

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""
        return cast(Tensor, self.writing(hidden, self.word_embeddings.weight))

    @property
    def writing_modules(self) -> list[nn.Module]:
        """Its head; the blocks are those of the network."""
        return [self.writing]

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture and a text of so many tokens."""
        head = linear(tokens, self.config.shape.width, self.config.vocabulary_size)
        return self._operations(tokens, pictures=True) + operations_of([head])

    def _operations(self, text: float, pictures: bool) -> float:
        shape, seen = self.config.shape, self.patches if pictures else 0
        blocks = self.config.blocks(shape.depth)
        layers = crossing_layers(blocks, text, before=seen)
        if not pictures:
            return operations_of(layers)
        tower = transformer_layers(self.config.blocks(shape.image_depth), seen)
        layers = [*layers, *tower, linear(seen, shape.width, shape.width), *transformer_layers(blocks, seen)]
        return operations_of(layers) + picture_operations(shape.image, shape.width, self.config.image_size)

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and the pictures' vectors."""
        return self.item_tokens(packing, "both")

    def operations(self, packing: Packing) -> float:
        """Nothing: its task counts what it writes (`writing_operations`)."""
        return 0.0

    @property
    def item_parts(self) -> int:
        """An item is the output at its last token, its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.shape.width

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [SEP], the means of the text's and of the picture's outputs.

        A text that is left out leaves its [CLS], and zeros for its mean; zeros stand for a picture that is left out.
        """
        ids, attention = shown.input_ids, shown.text_attention
        if modality == "image":
            ids, attention = ids[:, :1], attention[:, :1]
        width, depth = self.item_part_width, self.config.shape.depth
        if modality == "text":
            seen = self.word_embeddings.weight.new_zeros(len(ids), depth, 0, width)
            picture = seen.new_zeros(len(ids), width)
        else:
            seen, outputs = self._picture(shown)
            picture = outputs.mean(dim=1)
        text = self.write(seen, ids)
        rows, last = torch.arange(len(ids), device=ids.device), attention.sum(dim=1) - 1
        own = attention & (torch.arange(ids.shape[1], device=ids.device) > 0)
        own = own.unsqueeze(-1).to(text.dtype)
        mean = (text * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)
        return torch.cat([text[rows, last], mean, picture], dim=1)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, or [CLS] alone, and the pictures' vectors, as far as they are shown."""
        items = len(packing.attention_mask)
        text = items if modality == "image" else len(packing.indices)
        return text + (0 if modality == "text" else items * self.patches)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of texts of average length."""
        items = len(packing.attention_mask)
        text = 1.0 if modality == "image" else len(packing.indices) / items
        return items * self._operations(text, pictures=modality != "text")

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def planned_from(cls, folder: Path) -> Planned[Self]:
        """A saved model to be built; `InputError` when `folder` holds none."""
        return plan_model(folder, KIND, WriterConfig, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself."""
        return cls(parse(WriterConfig, values, where))


def plan_writer(shape: WriterSystem, sections: NetworkSections, tokenizer: TextTokenizer, seed: int) -> Planned[Writer]:
    """The network of this shape that pre-training starts from, to be built: random from `seed`, or with given weights.

    `InputError` when weights that its image side starts from cannot be found or read.
    """
    config = WriterConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        special=SpecialIds.of(tokenizer),
        text_positions=sections.text.limit + TEXT_SPECIALS,
        image_size=sections.image.size,
        shape=shape,
    )
    return Writer.planned(config, seed)
