"""One encoder over text and picture, whatever makes the picture's vectors: ViLT (Kim et al. 2021), Pixel-BERT.

Sequence [CLS] text [SEP] picture. Every vector is a word or a part of the picture, plus its position, plus a learned
vector of its modality. With `norm` post, as in BERT, one LayerNorm follows for all of them; with `norm` pre, as in
ViLT, one for the text alone, whose word vectors have no other, and the encoder ends with another one.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mlim.models.costs import crossing_layers, mlm_layers, operations_of
from mlim.models.dropout import Dropout
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import build_image_side
from mlim.models.item_system import OneEncoderSystem
from mlim.models.masked_writing import WritesByMasks
from mlim.models.network import Part, RecomputableBlock
from mlim.models.shapes import SidedInputs
from mlim.models.system import Fused, Shown
from mlim.models.transformer import Encoder, Packing, extended, pack, put_tokens, take_tokens
from mlim.recipe.image_sides import GridSide
from mlim.recipe.joint import JointSystem

KIND = "joint"
MODALITIES = 2


class JointConfig(SidedInputs):
    """What it reads, and its shape; stored beside the weights as JSON."""

    shape: JointSystem


class Joint(WritesByMasks, OneEncoderSystem):
    """Text tokens and a picture's vectors in one encoder, read by MLM and ITM."""

    kind = KIND
    config_class = JointConfig
    config: JointConfig

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.image = build_image_side(config.shape.image, width)
        self.image_positions = nn.Embedding(config.patches, width)
        self.modalities = nn.Embedding(MODALITIES, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(config.shape.dropout)
        self.encoder = Encoder(config.blocks(config.shape.depth), config.shape.norm)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, config.shape.dropout)

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

    def tokens(self, packing: Packing) -> int:
        """Text tokens without padding, and what pre-training reads of the pictures."""
        return len(packing.indices) + len(packing.attention_mask) * (self.sampled or self.patches)

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch in pre-training, without the heads."""
        items = len(packing.attention_mask)
        return items * self.encoding_operations(len(packing.indices) / items, self.sampled or self.patches)

    @property
    def depth(self) -> int:
        """Blocks over text and picture."""
        return self.config.shape.depth

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's vectors, of which `shown` may choose some."""
        ids, length = shown.words(self.config.special.mask), shown.input_ids.shape[1]
        packing = pack(shown.text_attention) if shown.packing is None else shown.packing
        seen = self.seen(shown)
        hidden = self._encode(ids, None if seen is None else self._placed(seen, shown.cells), packing)
        return Fused(hidden[:, :length], None if seen is None else hidden[:, length:])

    def _placed(self, seen: Tensor, cells: Tensor | None = None) -> Tensor:
        """What the image side has made of pictures with its positions (B, C, H), or at `cells` (B, K) of them."""
        vectors: Tensor = seen + self.image_positions.weight
        return vectors if cells is None else vectors.gather(1, cells[..., None].expand(-1, -1, vectors.shape[-1]))

    def _encode(self, ids: Tensor, picture: Tensor | None, packing: Packing) -> Tensor:
        """The outputs (B, T + C, H) of texts `ids` (B, T), packed as `packing` says, and of the vectors of pictures."""
        vectors = self._words(ids, self.text_positions.weight[: ids.shape[1]])
        if picture is not None:
            vectors = torch.cat([vectors, picture + self.modalities.weight[1]], dim=1)
            packing = extended(packing, picture.shape[1])
        return put_tokens(self.encoder(self._enter(take_tokens(vectors, packing)), packing), packing)

    def _words(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Word, position and modality vectors (B, T, H) of `ids` (B, T), with the `positions` (T, H)."""
        text = self.word_embeddings(ids) + positions
        return cast(Tensor, self.norm(text) if self._norm_first else text) + self.modalities.weight[0]

    def _enter(self, vectors: Tensor) -> Tensor:
        """What the first block reads of vectors (..., H)."""
        return cast(Tensor, self.dropout(vectors if self._norm_first else self.norm(vectors)))

    @property
    def _norm_first(self) -> bool:
        return self.config.shape.norm == "pre"

    @property
    def joint_encoder(self) -> Encoder:
        """The blocks over text and picture."""
        return self.encoder

    @property
    def mask_token(self) -> int:
        """The id of [MASK]."""
        return self.config.special.mask

    def enter_pictures(self, shown: Shown) -> Tensor:
        """What the first block reads of the pictures that are shown (B, C, H), of which all vectors are read."""
        return self._enter(self._placed(cast(Tensor, self.seen(shown))) + self.modalities.weight[1])

    def enter_words(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first block reads of tokens `ids` (B, T) at `positions` (T,) of a text."""
        return self._enter(self._words(ids, self.text_positions(positions)))

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture and a text of so many tokens, each read and predicted at a place of its own."""
        blocks = self.config.blocks(self.config.shape.depth)
        layers = [*crossing_layers(blocks, 2 * tokens, before=self.patches), *mlm_layers(self.config, tokens)]
        return self.encoding_operations(0.0, self.patches) + operations_of(layers)
