"""A picture as prefix, then its text word after word: GIT (Wang et al. 2022).

An image encoder's vectors come before the text in causal blocks: the picture sees the picture, a word the picture and
the words before it. What the blocks make of a picture does not depend on the text, so it is computed once.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mlim.models.attention import causal
from mlim.models.costs import crossing_layers, linear, operations_of, transformer_layers
from mlim.models.decoder import Blocks
from mlim.models.dropout import Dropout
from mlim.models.images.build import build_image_side, picture_operations
from mlim.models.item_system import ReadsWords
from mlim.models.item_vectors import mean_over
from mlim.models.network import Part, RecomputableBlock
from mlim.models.shapes import SidedInputs
from mlim.models.system import Shown
from mlim.models.tower import Tower
from mlim.models.transformer import Packing, without_padding
from mlim.models.writing import WritesByHead, WritingHead
from mlim.recipe.base import Modality
from mlim.recipe.writer import WriterSystem

KIND = "writer"


class WriterConfig(SidedInputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: WriterSystem


class Writer(WritesByHead, ReadsWords):
    """Image encoder, projection, and causal blocks over picture and text."""

    kind = KIND
    config_class = WriterConfig
    config: WriterConfig

    def __init__(self, config: WriterConfig) -> None:
        super().__init__(config)
        shape = config.shape
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
        """What each block reads of the pictures (B, L, C, H); without pictures C is 0."""
        return self._nothing(shown) if shown.pixels is None else self._picture(shown)[0]

    def _nothing(self, shown: Shown) -> Tensor:
        weight, shape = self.word_embeddings.weight, self.config.shape
        return weight.new_zeros(len(shown.input_ids), shape.depth, 0, shape.width)

    def _picture(self, shown: Shown) -> tuple[Tensor, Tensor]:
        """The same, and the outputs of the last block (B, C, H)."""
        if shown.pixels is None:
            raise ValueError("a writer needs pictures")
        vectors = self.image(shown.pixels)
        seen = self.picture(vectors, without_padding(*vectors.shape[:2]))
        return self.decoder.inputs(self.projection_norm(self.projection(seen)))

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) that predict the token after each of `ids` (B, T)."""
        words = self.read_words(ids)
        visible = causal(ids.shape[1], ids.device, before=seen.shape[2])
        return cast(Tensor, self.decoder(words, visible=visible, before=seen)[-1])

    @property
    def writing_modules(self) -> list[nn.Module]:
        """Its head; the blocks are those of the network."""
        return [self.writing]

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture and a text of so many tokens."""
        head = linear(tokens, self.config.shape.width, self.config.vocabulary_size)
        return self.encoding_operations(tokens, self.patches) + operations_of([head])

    def encoding_operations(self, text: float, cells: int) -> float:
        """Operations for one item with so many tokens and so many vectors of its picture; 0: without the picture."""
        shape, blocks = self.config.shape, self.config.blocks(self.config.shape.depth)
        layers = crossing_layers(blocks, text, before=cells)
        if not cells:
            return operations_of(layers)
        tower = transformer_layers(self.config.blocks(shape.image_depth), cells)
        layers = [*layers, *tower, linear(cells, shape.width, shape.width), *transformer_layers(blocks, cells)]
        return operations_of(layers) + picture_operations(shape.image, shape.width, self.config.image_size)

    def operations(self, packing: Packing) -> float:
        """Nothing: its task counts what it writes (`writing_operations`)."""
        return 0.0

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [SEP], the means of the text's and of the picture's outputs.

        A text that is left out leaves its [CLS], and zeros for its mean; zeros stand for a picture that is left out.
        """
        ids, attention = shown.input_ids, shown.text_attention
        if modality == "image":
            ids, attention = ids[:, :1], attention[:, :1]
        if modality == "text":
            seen = self._nothing(shown)
            picture = seen.new_zeros(len(ids), self.item_part_width)
        else:
            seen, outputs = self._picture(shown)
            picture = outputs.mean(dim=1)
        text = self.write(seen, ids)
        rows, last = torch.arange(len(ids), device=ids.device), attention.sum(dim=1) - 1
        mean = mean_over(text, attention & (torch.arange(ids.shape[1], device=ids.device) > 0))
        return torch.cat([text[rows, last], mean, picture], dim=1)
