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

    def forward(self, first: PairSide, second: PairSide, modality: Modality) -> Tensor:
        """Logits (B,) that the items match; the vectors of a modality that is left out are not in the sequence."""
        vectors, attention = zip(
            self._special(self.config.backbone.special.cls, torch.zeros_like(first.attention[:, :1], dtype=torch.long)),
            *self._item(first, modality, segment=0),
            self._special(self.config.backbone.special.sep, self._sep_position(first, modality)),
            *self._item(second, modality, segment=1),
            strict=True,
        )
        hidden = self.backbone.encode(torch.cat(vectors, dim=1), torch.cat(attention, dim=1))
        return cast(Tensor, self.head(hidden[:, 0]))

    def _special(self, token: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.backbone.embed_text(torch.full_like(positions, token), positions)
        return self._in_segment(vectors, 0), torch.ones_like(positions, dtype=torch.bool)

    def _sep_position(self, first: PairSide, modality: Modality) -> Tensor:
        if modality == "image":
            return torch.ones_like(first.attention[:, :1], dtype=torch.long)
        return first.attention.sum(dim=1, keepdim=True) + 1

    def _item(self, side: PairSide, modality: Modality, segment: int) -> list[tuple[Tensor, Tensor]]:
        parts = []
        if modality != "image":
            places = self.backbone.count_positions(side.tokens.shape[1] + TEXT_SPECIALS, side.tokens)
            vectors = self.backbone.embed_text(side.tokens, places[1:-1])  # between the places of [CLS] and [SEP]
            parts.append((self._in_segment(vectors, segment), side.attention))
        if modality != "text":
            cells = self.backbone.embed_image(side.pixels)
            readable = torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)
            parts.append((self._in_segment(cells, segment), readable))
        return parts

    def _in_segment(self, vectors: Tensor, segment: int) -> Tensor:
        return vectors if self.segments is None else vectors + self.segments.weight[segment]

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved matcher, in evaluation mode; `InputError` when `folder` holds none."""
        return load_model(folder, KIND, MatcherConfig, cls)
