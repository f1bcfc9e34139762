"""Texts from left to right by a network that was trained to predict hidden tokens.

As the overview of image-text pre-training adapts it to captions: the picture sees the picture, a word the picture and
the words before it (a seq2seq mask), and the next word is what the network predicts at a [MASK] behind them. All words
of a known text are predicted at once: every word has a [MASK] of its own, at its place, which sees the picture, the
words before, and itself. There are no weights besides those of MLM.
"""

from abc import ABC, abstractmethod
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from mlim.models.attention import causal
from mlim.models.system import Shown
from mlim.models.transformer import Encoder, without_padding


class _PredictsWords(Protocol):
    mlm_head: nn.Module

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""


class WritesByMasks(ABC):
    """What a system with one encoder needs to write with its MLM head."""

    @property
    @abstractmethod
    def joint_encoder(self) -> Encoder:
        """The blocks over text and picture."""

    @property
    @abstractmethod
    def mask_token(self) -> int:
        """The id of [MASK]."""

    @abstractmethod
    def enter_pictures(self, shown: Shown) -> Tensor:
        """What the first block reads of the pictures that are shown (B, C, H)."""

    @abstractmethod
    def enter_words(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first block reads of tokens `ids` (B, T) at `positions` (T,) of a text."""

    def look(self, shown: Shown) -> Tensor:
        """What each block reads of the pictures (B, L, C, H); without pictures C is 0."""
        encoder = self.joint_encoder
        if shown.pixels is None:
            weight = encoder.levels()[0].fc1.weight
            return weight.new_zeros(len(shown.input_ids), len(encoder.blocks), 0, weight.shape[1])
        vectors = self.enter_pictures(shown)
        return encoder.inputs(vectors, without_padding(*vectors.shape[:2]))

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) at the [MASK] after each of `ids` (B, T), from what `look` gave."""
        length, places = ids.shape[1], torch.arange(ids.shape[1], device=ids.device)
        masks = torch.full_like(ids, self.mask_token)
        vectors = torch.cat([self.enter_words(ids, places), self.enter_words(masks, places + 1)], dim=1)
        words = causal(length, ids.device, before=seen.shape[2])
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        visible = torch.cat([words.repeat(2, 1), torch.cat([torch.zeros_like(itself), itself])], dim=1)
        return self.joint_encoder.after(vectors, seen, visible)[:, length:]

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""
        return cast(_PredictsWords, self).mlm_logits(hidden)

    @property
    def writing_modules(self) -> list[nn.Module]:
        """The head of MLM: nothing is trained for writing alone."""
        return [cast(_PredictsWords, self).mlm_head]
