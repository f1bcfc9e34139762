"""One encoder over text and picture, whatever makes the picture's vectors: ViLT (Kim et al. 2021), Pixel-BERT.

Sequence [CLS] text [SEP] picture. Every vector is a word or a part of the picture, plus its position, plus a learned
vector of its modality. With `norm` post, as in BERT, one LayerNorm follows for all of them; with `norm` pre, as in
ViLT, one for the text alone, whose word vectors have no other, and the encoder ends with another one.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mlim.config import parse
from mlim.data.tokenize import TextTokenizer
from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, TEXT_SPECIALS, Inputs, SpecialIds
from mlim.models.costs import mlm_layers, operations_of, transformer_layers
from mlim.models.dropout import Dropout
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import build_image_side, picture_operations
from mlim.models.initialise import drawn
from mlim.models.item_vectors import between_specials
from mlim.models.network import Part, RecomputableBlock
from mlim.models.storage import plan_model, save_model
from mlim.models.system import Fused, Shown, System
from mlim.models.transformer import Encoder, Packing, extended, pack, put_tokens, take_tokens, without_padding
from mlim.models.weights import Planned, on_meta
from mlim.recipe.base import Modality
from mlim.recipe.image_sides import GridSide
from mlim.recipe.joint import JointSystem
from mlim.recipe.systems import NetworkSections

KIND = "joint"
IMAGE = "image."  # begins the names of the image side's weights
ITEM_PARTS = 3  # of an item's vector: [CLS], text, picture
WIDENING = 4  # of the vectors between the two dense layers of a block, as in BERT
MODALITIES = 2


class JointConfig(Inputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: JointSystem

    @property
    def patches(self) -> int:
        """Vectors of a picture."""
        return (self.image_size // self.shape.image.cell_size) ** 2

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""
        return self.shape.width

    @property
    def layers(self) -> int:
        """Blocks."""
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
        """Of the encoder."""
        return self.shape.dropout

    @property
    def activation(self) -> str:
        """Between the two dense layers."""
        return BERT_ACTIVATION

    @property
    def norm_eps(self) -> float:
        """Of the layer norms."""
        return BERT_NORM_EPS

    @property
    def tied_words(self) -> bool:
        """Words are predicted by the vectors that they are read as."""
        return True


class Joint(System):
    """Text tokens and a picture's vectors in one encoder, read by MLM and ITM."""

    kind = KIND

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.image = build_image_side(config.shape.image, width)
        self.image_positions = nn.Embedding(config.patches, width)
        self.modalities = nn.Embedding(MODALITIES, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config, config.shape.norm)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, config.dropout)

    @classmethod
    def planned(cls, config: JointConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on `config` and `seed`, and those it starts from."""
        model = on_meta(lambda: cls(config))
        start = [(f"{IMAGE}{name}", value) for name, value in model.image.start()]
        random = torch.Generator().manual_seed(seed)
        return Planned(model, lambda: chain(drawn(model, config.hidden_size, random), start))

    @property
    def inputs(self) -> JointConfig:
        """What it can read."""
        return self.config

    @property
    def patches(self) -> int:
        """Vectors that it makes of a picture."""
        return self.config.patches

    @property
    def sampled(self) -> int | None:
        """How many of them, drawn at random, pre-training reads; None: all."""
        image = self.config.shape.image
        return image.sample if isinstance(image, GridSide) else None

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        embeddings = [self.word_embeddings, self.text_positions, self.image_positions, self.modalities, self.norm]
        return {
            "embedder": [self.image],
            "transformer": [*embeddings, self.encoder],
            "heads": [self.mlm_head, self.itm_head],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of its one encoder."""
        return [[block] for block in self.encoder.levels()]

    def pack_items(self, text_attention: Tensor) -> Packing:
        """Where the real tokens of the texts lie; pictures have no padding."""
        return pack(text_attention)

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and what pre-training reads of the pictures."""
        return len(packing.indices) + len(packing.attention_mask) * (self.sampled or self.patches)

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch in pre-training, without the heads."""
        return self._operations(packing, len(packing.indices), self.sampled or self.patches)

    def _operations(self, packing: Packing, text: int, pictures: int) -> float:
        """Operations over a batch of sequences of average length, with so many vectors of each picture."""
        items, shape = len(packing.attention_mask), self.config.shape
        layers = transformer_layers(self.config, text / items + pictures)
        side = picture_operations(shape.image, shape.width, self.config.image_size) if pictures else 0.0
        return items * (operations_of(layers) + side)

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's vectors, of which `shown` may choose some."""
        ids, length = shown.input_ids, shown.input_ids.shape[1]
        if shown.text_mask is not None:
            ids = torch.where(shown.text_mask, self.config.special.mask, ids)
        packing = pack(shown.text_attention) if shown.packing is None else shown.packing
        hidden = self._encode(ids, None if shown.pixels is None else self._picture(shown.pixels, shown.cells), packing)
        return Fused(hidden[:, :length], None if shown.pixels is None else hidden[:, length:])

    def _picture(self, pixels: Tensor, cells: Tensor | None = None) -> Tensor:
        """The vectors of pictures with their positions (B, C, H), or those at `cells` (B, K) of them."""
        vectors: Tensor = self.image(pixels) + self.image_positions.weight
        return vectors if cells is None else vectors.gather(1, cells[..., None].expand(-1, -1, vectors.shape[-1]))

    def _encode(self, ids: Tensor, picture: Tensor | None, packing: Packing) -> Tensor:
        """The outputs (B, T + C, H) of texts `ids` (B, T), packed as `packing` says, and of the vectors of pictures."""
        text = self.word_embeddings(ids) + self.text_positions.weight[: ids.shape[1]]
        first = self.config.shape.norm == "pre"
        vectors = (self.norm(text) if first else text) + self.modalities.weight[0]
        if picture is not None:
            vectors = torch.cat([vectors, picture + self.modalities.weight[1]], dim=1)
            packing = extended(packing, picture.shape[1])
        inputs = take_tokens(vectors, packing)
        return put_tokens(self.encoder(self.dropout(inputs if first else self.norm(inputs)), packing), packing)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.word_embeddings.weight))

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the MLM head at so many positions."""
        return operations_of(mlm_layers(self.config, masked))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H)."""
        return cast(Tensor, self.itm_head(cls))

    @property
    def item_parts(self) -> int:
        """An item is its output at [CLS], its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.hidden_size

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the picture's outputs.

        A text that is left out leaves its [CLS]; zeros stand for the mean of what is left out, and of an empty text.
        """
        ids, own = shown.input_ids, between_specials(shown.text_attention)
        packing = pack(shown.text_attention) if shown.packing is None else shown.packing
        if modality == "image":
            ids, own, packing = ids[:, :1], own[:, :1], without_padding(len(ids), 1)
        picture = None if modality == "text" or shown.pixels is None else self._picture(shown.pixels)
        hidden, length = self._encode(ids, picture, packing), ids.shape[1]
        weights = own.unsqueeze(-1).to(hidden.dtype)
        text = (hidden[:, :length] * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        seen = torch.zeros_like(text) if picture is None else hidden[:, length:].mean(dim=1)
        return torch.cat([hidden[:, 0], text, seen], dim=1)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, or [CLS] alone, and the pictures' vectors, as far as they are shown."""
        return self._text_tokens(packing, modality) + len(packing.attention_mask) * self._shown(modality)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of sequences of average length."""
        return self._operations(packing, self._text_tokens(packing, modality), self._shown(modality))

    def _text_tokens(self, packing: Packing, modality: Modality) -> int:
        return len(packing.attention_mask) if modality == "image" else len(packing.indices)

    def _shown(self, modality: Modality) -> int:
        return 0 if modality == "text" else self.patches

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def planned_from(cls, folder: Path) -> Planned[Self]:
        """A saved model to be built; `InputError` when `folder` holds none."""
        return plan_model(folder, KIND, JointConfig, cls)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Self:
        """One without its weights, from what a saved one says of itself."""
        return cls(parse(JointConfig, values, where))


def plan_joint(shape: JointSystem, sections: NetworkSections, tokenizer: TextTokenizer, seed: int) -> Planned[Joint]:
    """The network of this shape that pre-training starts from, to be built: random from `seed`, or with given weights.

    `InputError` when weights that its image side starts from cannot be found or read.
    """
    config = JointConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        special=SpecialIds.of(tokenizer),
        text_positions=sections.text.limit + TEXT_SPECIALS,
        image_size=sections.image.size,
        shape=shape,
    )
    return Joint.planned(config, seed)
