"""The pre-training model: text and image cells in one transformer, read by MLM, RECON and ITM (paper section 3)."""

from pathlib import Path
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from mlim.models.backbone import Backbone
from mlim.models.config import MlimConfig
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.image_decoder import ImageDecoder
from mlim.models.initialise import initialise
from mlim.models.storage import load_model, save_model
from mlim.models.transformer import Packing, pack

KIND = "mlim"


class ItemOutput(NamedTuple):
    """The transformer's outputs: `text` (B, T, H) with [CLS] first, `cells` (B, C, H) or None without pictures."""

    text: Tensor
    cells: Tensor | None


class Mlim(nn.Module):
    """Sequence [CLS] text [SEP] cells; masked tokens and cells are the same [MASK] vector; no segment embedding."""

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(config.hidden_size, config.dropout)
        self.decoder = ImageDecoder(config)

    @classmethod
    def random(cls, config: MlimConfig, seed: int) -> Self:
        """A network with random weights that depend on nothing but `config` and `seed`."""
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device="cpu")
        initialise(model, model.config.hidden_size, torch.Generator().manual_seed(seed))
        return model

    def forward_items(
        self,
        input_ids: Tensor,
        text_attention: Tensor,
        pixels: Tensor | None,
        text_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> ItemOutput:
        """Encode items.

        `input_ids` (B, T) hold [CLS] tokens [SEP] and [PAD], `text_attention` (B, T) bool is False at [PAD];
        `pixels` (B, 3, S, S) in [0, 1]; `text_mask` (B, T) and `image_mask` (B, C) bool tell what is hidden;
        `packing` is what `pack_items` gave for this batch, for models on a GPU.
        """
        length = input_ids.shape[1]
        if text_mask is not None:
            input_ids = torch.where(text_mask, self.config.special.mask, input_ids)
        vectors = self.backbone.embed_text(input_ids, self.backbone.count_positions(length, input_ids))
        if pixels is not None:
            vectors = torch.cat([vectors, self.backbone.embed_image(pixels, image_mask)], dim=1)
        hidden = self.backbone.encode(vectors, self._attention(text_attention, pixels is not None), packing)
        return ItemOutput(hidden[:, :length], None if pixels is None else hidden[:, length:])

    def pack_items(self, text_attention: Tensor, pictures: bool = True) -> Packing:
        """The packing for `forward_items`, from a batch's `text_attention` (B, T) while that lies on the CPU."""
        return pack(self._attention(text_attention, pictures))

    def _attention(self, text: Tensor, pictures: bool) -> Tensor:
        return torch.cat([text, text.new_ones(len(text), self.config.cells)], dim=1) if pictures else text

    def compile_parts(self) -> None:
        """Compile blocks, embedder and decoder in place (torch.compile); names and values of weights stay."""
        self.backbone.compile_parts()
        self.decoder.compile(dynamic=True)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs at masked tokens (N, H); N may be 0."""
        return cast(Tensor, self.mlm_head(hidden, self.backbone.words.weight))

    def reconstruct(self, cells: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [0, 1] from the outputs at the cells (B, C, H)."""
        return cast(Tensor, self.decoder(cells))

    def itm_logits(self, cls: Tensor) -> Tensor:
        """Logits (B,) that picture and text belong together, from the outputs at [CLS] (B, H)."""
        return cast(Tensor, self.itm_head(cls))

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved model, in evaluation mode; `InputError` when `folder` holds none."""
        return load_model(folder, KIND, MlimConfig, cls)
