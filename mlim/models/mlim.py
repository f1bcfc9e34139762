"""The pre-training model: text and image patches in one transformer, read by MLM, RECON and ITM (paper section 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from mlim.models.attention import attention_weights
from mlim.models.backbone import Backbone
from mlim.models.config import MlimConfig
from mlim.models.costs import (
    crossing_layers,
    decoder_layers,
    embedder_layers,
    mlm_layers,
    operations_of,
    transformer_layers,
)
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.image_decoder import ImageDecoder
from mlim.models.images.regions import grid_boxes
from mlim.models.initialise import drawn
from mlim.models.item_vectors import vectors_of
from mlim.models.masked_writing import WritesByMasks
from mlim.models.network import Part, RecomputableBlock
from mlim.models.system import Attended, Fused, Shown, System
from mlim.models.transformer import QKV, Encoder, Packing, pack
from mlim.models.weights import Planned, on_meta
from mlim.recipe.base import Modality

KIND = "mlim"
ITEM_PARTS = 3  # vectors of an item: [CLS], text, patches


class Mlim(WritesByMasks, System):
    """Sequence [CLS] text [SEP] patches; masked tokens and patches are the same [MASK] vector; no segment embedding."""

    kind = KIND
    config_class = MlimConfig
    config: MlimConfig

    def __init__(self, config: MlimConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(config.hidden_size, config.dropout)
        self.decoder = ImageDecoder(config)

    @classmethod
    def planned(cls, config: MlimConfig, seed: int) -> Planned[Self]:
        """A network to be built, with random weights that depend on nothing but `config` and `seed`."""
        model = on_meta(lambda: cls(config))
        return Planned(model, lambda: drawn(model, config.hidden_size, torch.Generator().manual_seed(seed)))

    @classmethod
    def random(cls, config: MlimConfig, seed: int) -> Self:
        """The same, built."""
        return cls.planned(config, seed).build()

    @property
    def patches(self) -> int:
        """Vectors that it makes of a picture."""
        return self.config.patches

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        return {
            "embedder": self.backbone.embedders,
            "transformer": [self.backbone],
            "decoder": [self.decoder],
            "heads": [self.mlm_head, self.itm_head],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of its one encoder."""
        return [[block] for block in self.backbone.encoder.levels()]

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's patches."""
        input_ids, length = shown.words(self.config.special.mask), shown.input_ids.shape[1]
        vectors = self.backbone.embed_text(input_ids, self.backbone.count_positions(length, input_ids))
        pictures = shown.pixels is not None
        if shown.pixels is not None:
            vectors = torch.cat([vectors, self.backbone.embed_image(shown.pixels, shown.image_mask)], dim=1)
        attention, blocks = self._attention(shown.text_attention, pictures), self.config.visible_blocks
        hidden = self._hidden(shown, vectors)
        if hidden is None:
            outputs = self.backbone.encode(vectors, attention, shown.packing)
        else:
            outputs = self.backbone.encode_visible(vectors, attention, hidden, shown.packing, blocks)
        return Fused(outputs[:, :length], outputs[:, length:] if pictures else None)

    def attended(self, shown: Shown) -> Attended:
        """The attention of the texts' tokens to the patches in the last block."""
        if shown.pixels is None:
            raise ValueError("words look at pictures: there are none")
        backbone, length = self.backbone, shown.input_ids.shape[1]
        vectors = backbone.embed_text(shown.input_ids, backbone.count_positions(length, shown.input_ids))
        vectors = torch.cat([vectors, backbone.embed_image(shown.pixels)], dim=1)
        visible, last = self._attention(shown.text_attention, pictures=True), backbone.encoder.levels()[-1]
        hidden = backbone.encode(vectors, visible, end=len(backbone.encoder.blocks) - 1)
        query, key, _ = last.qkv(hidden).chunk(QKV, dim=-1)
        weights = attention_weights(query, key, last.heads, visible[:, None, None, :]).mean(dim=1)
        return Attended(weights[:, :length, length:], grid_boxes(self.config.grid, hidden.device)[:-1])

    def forward_items(
        self,
        input_ids: Tensor,
        text_attention: Tensor,
        pixels: Tensor | None,
        text_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Fused:
        """What `fuse` gives, from the parts of `Shown`."""
        return self.fuse(Shown(input_ids, text_attention, pixels, text_mask, image_mask, packing))

    def pack_items(self, text_attention: Tensor, pictures: bool = True) -> Packing:
        """Where the real tokens of a batch lie, from its `text_attention` (B, T) while that lies on the CPU."""
        return pack(self._attention(text_attention, pictures))

    def pack_visible(self, packing: Packing, text_mask: Tensor, image_mask: Tensor) -> Packing:
        """The packing with that of what is not hidden, for the blocks that read no more; all of it on the CPU."""
        if not self.config.visible_blocks:
            return packing
        hidden = torch.cat([text_mask, image_mask], dim=1)
        return packing._replace(visible=pack(packing.attention_mask & ~hidden))

    def tokens(self, packing: Packing) -> int:
        """Vectors that the transformer reads of a batch: text tokens and image patches, without padding."""
        return len(packing.indices)

    def operations(self, packing: Packing) -> float:
        """Operations of a forward pass over a batch, of sequences of average length, without heads and decoder."""
        sequences, blocks = len(packing.attention_mask), self.config.visible_blocks
        below = 0 if packing.visible is None else blocks
        layers = [
            *embedder_layers(self.config),
            *transformer_layers(self.config, self.tokens(packing.visible or packing) / sequences, below),
            *transformer_layers(self.config, self.tokens(packing) / sequences, self.config.layers - below),
        ]
        return sequences * operations_of(layers)

    def mlm_operations(self, masked: float) -> float:
        """Operations of a forward pass of the MLM head at so many positions."""
        return operations_of(mlm_layers(self.config, masked))

    def decoder_operations(self) -> float:
        """Operations of a forward pass of the decoder for one picture."""
        return operations_of(decoder_layers(self.config))

    def _attention(self, text: Tensor, pictures: bool) -> Tensor:
        return torch.cat([text, text.new_ones(len(text), self.config.patches)], dim=1) if pictures else text

    def _hidden(self, shown: Shown, vectors: Tensor) -> Tensor | None:
        """Which of `vectors` (B, S, H) stand for what is hidden, (B, S) bool; None where every block reads all."""
        if not self.config.visible_blocks or (shown.text_mask is None and shown.image_mask is None):
            return None
        hidden = torch.zeros(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        length = shown.input_ids.shape[1]
        if shown.text_mask is not None:
            hidden[:, :length] = shown.text_mask
        if shown.image_mask is not None and shown.pixels is not None:
            hidden[:, length:] = shown.image_mask
        return hidden

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.backbone.word_embeddings.weight))

    def reconstruct(self, patches: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [0, 1] from the outputs at the patches (B, C, H)."""
        return cast(Tensor, self.decoder(patches))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H)."""
        return cast(Tensor, self.itm_head(cls))

    @property
    def joint_encoder(self) -> Encoder:
        """The blocks over text and picture."""
        return self.backbone.encoder

    @property
    def mask_token(self) -> int:
        """The id of [MASK]."""
        return self.config.special.mask

    def enter_pictures(self, shown: Shown) -> Tensor:
        """What the first block reads of the pictures that are shown (B, C, H)."""
        return self.backbone.enter(self.backbone.embed_image(cast(Tensor, shown.pixels)))

    def enter_words(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first block reads of tokens `ids` (B, T) at `positions` (T,) of a text."""
        return self.backbone.enter(self.backbone.embed_text(ids, positions))

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture and a text of so many tokens, each read and predicted at a place of its own."""
        layers = [*embedder_layers(self.config), *transformer_layers(self.config, self.patches)]
        layers += crossing_layers(self.config, 2 * tokens, before=self.patches)
        return operations_of([*layers, *mlm_layers(self.config, tokens)])

    @property
    def item_parts(self) -> int:
        """An item is its output at [CLS], its text and its picture."""
        return ITEM_PARTS

    @property
    def item_part_width(self) -> int:
        """The width of the blocks."""
        return self.config.hidden_size

    def encode_items(self, shown: Shown, modality: Modality) -> Tensor:
        """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the patches' outputs.

        A text that is left out leaves its [CLS]. The packing of one modality is made here, which waits for the device.
        """
        if modality == "text":
            shown = shown._replace(pixels=None, packing=None)
        elif modality == "image":
            ids, attention = shown.input_ids[:, :1], shown.text_attention[:, :1]
            shown = shown._replace(input_ids=ids, text_attention=attention, packing=None)
        return vectors_of(self.fuse(shown), shown.text_attention)

    def item_tokens(self, packing: Packing, modality: Modality) -> int:
        """Text tokens without padding, or [CLS] alone, and the patches, as far as they are shown."""
        items = len(packing.attention_mask)
        text = items if modality == "image" else len(packing.indices) - items * self.patches
        return text + (0 if modality == "text" else items * self.patches)

    def item_operations(self, packing: Packing, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of sequences of average length."""
        items = len(packing.attention_mask)
        layers = transformer_layers(self.config, self.item_tokens(packing, modality) / items)
        pictures = [] if modality == "text" else embedder_layers(self.config)
        return items * operations_of([*pictures, *layers])

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved model, in evaluation mode; `InputError` when `folder` holds none."""
        return cls.planned_from(folder).build().eval()
