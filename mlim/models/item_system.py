"""What systems share that read [CLS] text [SEP] and a picture with blocks of one width, and make vectors of an item."""

from abc import abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from mlim.models.costs import mlm_layers, operations_of, transformer_layers
from mlim.models.dropout import Dropout
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import picture_operations
from mlim.models.images.side import PictureSide
from mlim.models.initialise import drawn
from mlim.models.item_vectors import vectors_of
from mlim.models.shapes import ShapedInputs, SidedInputs
from mlim.models.system import Fused, Shown, System
from mlim.models.transformer import Packing, pack, without_padding
from mlim.models.weights import NamedTensors, Planned, on_meta
from mlim.models.writing import embed_in_order
from mlim.recipe.base import Modality

ITEM_PARTS = 3  # of an item's vector: one output for all of it, text, picture


class ItemSystem(System):
    """A system that makes a vector of an item; what it reads of a batch is its texts' tokens and whole pictures."""

    config: ShapedInputs
    side: ClassVar[str] = "image"  # the name of its image side among its modules

    @classmethod
    def planned(cls, config: ShapedInputs, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on `config` and `seed`, and those it starts from."""
        model = on_meta(lambda: cls(config))
        start = dict(model.start())

        def weights() -> NamedTensors:
            random = torch.Generator().manual_seed(seed)
            return chain(drawn(model, config.hidden_size, random), start.items())

        return Planned(model, weights)

    def start(self) -> Mapping[str, Tensor]:
        """Weights that it starts from instead of random ones, by their names in it: those of its image side.

        `InputError` when they cannot be found or read.
        """
        side = cast(PictureSide, self.get_submodule(self.side))
        return {f"{self.side}.{name}": value for name, value in side.start()}

    @property
    def patches(self) -> int:
        """Vectors that it makes of a picture, at most."""
        return self.config.patches

    @abstractmethod
    def encoding_operations(self, text: float, cells: int) -> float:
        """Operations for one item with so many tokens and so many vectors of its picture; 0: without the picture."""

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and the pictures' vectors."""
        return self.item_tokens(packing, "both")

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch, without heads and decoders."""
        return self.item_operations(packing, "both")

    @property
    def item_parts(self) -> int:
        """One output for all of it, its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.hidden_size

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, and the pictures' vectors, as far as they are shown."""
        return self.text_tokens(packing, modality) + len(packing.attention_mask) * self._shown(modality)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of texts of average length."""
        items = len(packing.attention_mask)
        return items * self.encoding_operations(self.text_tokens(packing, modality) / items, self._shown(modality))

    def text_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding that are read of a batch; of a text that is left out [CLS] stays."""
        return len(packing.attention_mask) if modality == "image" else len(packing.indices)

    def _shown(self, modality: Modality) -> int:
        return 0 if modality == "text" else self.patches


class ReadsWords(ItemSystem):
    """One that reads words with their positions, and one LayerNorm over both, as in BERT."""

    word_embeddings: nn.Embedding
    text_positions: nn.Embedding
    norm: nn.LayerNorm
    dropout: Dropout

    def read_words(self, ids: Tensor) -> Tensor:
        """What the first block reads (B, T, H) of tokens `ids` (B, T)."""
        placed = embed_in_order(self.word_embeddings, self.text_positions, ids)
        return cast(Tensor, self.dropout(self.norm(placed)))


class FusingSystem(ItemSystem):
    """One whose text and picture see each other, with the heads of MLM and ITM.

    A subclass builds embeddings and heads itself, because the order of modules decides the random weights.
    """

    word_embeddings: nn.Embedding
    mlm_head: MlmHead
    itm_head: BinaryHead

    @abstractmethod
    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's vectors."""

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.word_embeddings.weight))

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the MLM head at so many positions."""
        return operations_of(mlm_layers(self.config, masked))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H)."""
        return cast(Tensor, self.itm_head(cls))

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the picture's outputs.

        A text that is left out leaves its [CLS]; zeros stand for the mean of what is left out, and of an empty text.
        """
        ids, attention, packing = shown.input_ids, shown.text_attention, shown.packing
        if modality == "image":
            ids, attention, packing = ids[:, :1], attention[:, :1], without_padding(len(ids), 1)
        pixels = None if modality == "text" else shown.pixels
        return vectors_of(self.fuse(Shown(ids, attention, pixels, packing=packing)), attention)


class OneEncoderSystem(FusingSystem):
    """One whose text and picture, which an image side reads, are one sequence."""

    config: SidedInputs
    image: PictureSide

    def see(self, pixels: Tensor) -> Tensor:
        """What its image side makes of pictures: (B, C, H)."""
        return cast(Tensor, self.image(pixels))

    @property
    def seeing_operations(self) -> float:
        """Operations of that for one picture."""
        return picture_operations(self.config.shape.image, self.config.shape.width, self.config.image_size)

    def seen(self, shown: Shown) -> Tensor | None:
        """The same of what is shown, where it was not made yet; None without pictures."""
        if shown.pixels is None:
            return None
        return self.see(shown.pixels) if shown.vectors is None else shown.vectors

    @property
    @abstractmethod
    def depth(self) -> int:
        """Blocks over both."""

    def encoding_operations(self, text: float, cells: int) -> float:
        """Operations for one item with so many tokens and so many vectors of its picture; 0: without the picture."""
        layers = transformer_layers(self.config.blocks(self.depth), text + cells)
        return operations_of(layers) + (self.seeing_operations if cells else 0.0)
