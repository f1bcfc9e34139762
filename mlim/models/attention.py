"""Attention of some vectors to others: which of them each sees is a matter of a mask."""

import torch
from torch import Tensor
from torch.nn import functional

from mlim.models.dropout import Dropout


def causal(length: int, device: torch.device, before: int = 0) -> Tensor:
    """What each of `length` vectors sees, (length, before + length) bool: itself, earlier ones, all `before` them."""
    return torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, visible: Tensor | None, dropout: Dropout) -> Tensor:
    """Attention of `query` (B, Q, H) to `key`, `value` (B, K, H) -> (B, Q, H); dropout on its weights, as in BERT."""
    size = query.shape[-1] // heads
    asked, known, given = (each.view(*each.shape[:-1], heads, size).transpose(1, 2) for each in (query, key, value))
    if dropout.draws_cheaply(query):
        scores = asked @ known.transpose(-1, -2) * size**-0.5
        if visible is not None:  # the least number, not infinity: a row that reads nothing stays finite
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        mixed: Tensor = dropout(scores.softmax(-1)) @ given
    else:
        rate = dropout.rate if dropout.training else 0.0
        mixed = functional.scaled_dot_product_attention(asked, known, given, attn_mask=visible, dropout_p=rate)
    return mixed.transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """How each head of `attend` weighs `key` (B, K, H) for `query` (B, Q, H): (B, heads, Q, K), rows sum to 1."""
    size = query.shape[-1] // heads
    asked, known = (each.view(*each.shape[:-1], heads, size).transpose(1, 2) for each in (query, key))
    scores: Tensor = asked @ known.transpose(-1, -2) * size**-0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)
