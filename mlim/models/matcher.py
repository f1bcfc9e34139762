"""The fine-tuned model: do two items match closely? (paper section 4.2.1)"""

from pathlib import Path
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from mlim.config import Config
from mlim.models.backbone import Backbone
from mlim.models.config import TEXT_SPECIALS, MlimConfig
from mlim.models.heads import BinaryHead
from mlim.models.initialise import initialise
from mlim.models.mlim import Mlim
from mlim.models.storage import load_model, save_model
from mlim.models.transformer import Packing, pack
from mlim.recipe import Modality, Probability

KIND = "matcher"
PAIR = 2


class PairSide(NamedTuple):
    """One item of every pair of a batch.

    `tokens` (B, T) ids without [CLS] and [SEP], padded; `attention` (B, T) bool, False at padding;
    `pixels` (B, 3, S, S) in [0, 1]. The two sides may differ in T.
    """

    tokens: Tensor
    attention: Tensor
    pixels: Tensor


class MatcherConfig(Config):
    """The backbone's shape and what fine-tuning adds."""

    backbone: MlimConfig
    head_dropout: Probability


class Matcher(nn.Module):
    """Sequence [CLS] text1 cells1 [SEP] text2 cells2; one logit from [CLS]; no decoder, no masking.

    Positions restart in each item, so that both items look as they did in pre-training: tokens count from 1 after
    [CLS] at 0, and [SEP] has the position after the last token of the first text, where pre-training has it too.
    Nothing but order and [SEP] tells the items apart, unless `pair_segments` adds a learned vector per item.
    """

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.head = BinaryHead(config.backbone.hidden_size, config.head_dropout)
        self.segments = nn.Embedding(PAIR, config.backbone.hidden_size) if config.backbone.pair_segments else None

    @classmethod
    def from_mlim(cls, mlim: Mlim, head_dropout: float, seed: int) -> Self:
        """Start from a copy of `mlim`'s backbone; the head is random from `seed`, the pre-training heads are gone."""
        with torch.device("meta"):
            matcher = cls(MatcherConfig(backbone=mlim.config, head_dropout=head_dropout))
        matcher.to_empty(device="cpu")
        initialise(matcher, mlim.config.hidden_size, torch.Generator().manual_seed(seed))
        matcher.backbone.load_state_dict(mlim.backbone.state_dict())
        return matcher

    def forward(self, first: PairSide, second: PairSide, modality: Modality, packing: Packing | None = None) -> Tensor:
        """Logits (B,) that the items match; the vectors of a modality that is left out are not in the sequence.

        `packing` is what `pack_pairs` gave for this batch, for models on a GPU.
        """
        special, cls = self.config.backbone.special, torch.zeros_like(first.attention[:, :1], dtype=torch.long)
        vectors = (
            self._special(special.cls, cls),
            *self._item(first, modality, segment=0),
            self._special(special.sep, self._sep_position(first, modality)),
            *self._item(second, modality, segment=1),
        )
        attention = self._attention(first.attention, second.attention, modality)
        hidden = self.backbone.encode(torch.cat(vectors, dim=1), attention, packing)
        return cast(Tensor, self.head(hidden[:, 0]))

    def pack_pairs(self, first: Tensor, second: Tensor, modality: Modality) -> Packing:
        """The packing for `forward`, from the attentions (B, T) of both sides while they lie on the CPU."""
        return pack(self._attention(first, second, modality))

    def _attention(self, first: Tensor, second: Tensor, modality: Modality) -> Tensor:
        """Which vectors of [CLS] text1 cells1 [SEP] text2 cells2 are no padding, (B, S) bool."""
        one, cells = (first.new_ones(len(first), width) for width in (1, self.config.backbone.cells))
        sides = {
            "text": ((first,), (second,)),
            "image": ((cells,), (cells,)),
            "both": ((first, cells), (second, cells)),
        }
        left, right = sides[modality]
        return torch.cat([one, *left, one, *right], dim=1)

    def _special(self, token: int, positions: Tensor) -> Tensor:
        return self._in_segment(self.backbone.embed_text(torch.full_like(positions, token), positions), 0)

    def _sep_position(self, first: PairSide, modality: Modality) -> Tensor:
        if modality == "image":
            return torch.ones_like(first.attention[:, :1], dtype=torch.long)
        return first.attention.sum(dim=1, keepdim=True) + 1

    def _item(self, side: PairSide, modality: Modality, segment: int) -> list[Tensor]:
        parts = []
        if modality != "image":
            places = self.backbone.count_positions(side.tokens.shape[1] + TEXT_SPECIALS, side.tokens)
            parts.append(self.backbone.embed_text(side.tokens, places[1:-1]))  # between [CLS] and [SEP]
        if modality != "text":
            parts.append(self.backbone.embed_image(side.pixels))
        return [self._in_segment(vectors, segment) for vectors in parts]

    def compile_parts(self) -> None:
        """Compile blocks and embedder in place (torch.compile); names and values of weights stay."""
        self.backbone.compile_parts()

    def _in_segment(self, vectors: Tensor, segment: int) -> Tensor:
        return vectors if self.segments is None else vectors + self.segments.weight[segment]

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved matcher, in evaluation mode; `InputError` when `folder` holds none."""
        return load_model(folder, KIND, MatcherConfig, cls)
