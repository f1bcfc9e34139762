"""The vector of an item from the outputs of one encoder over its text and its picture."""

import torch
from torch import Tensor

from mlim.models.system import Fused


def vectors_of(fused: Fused, attention: Tensor) -> Tensor:
    """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the picture's outputs.

    `attention` (B, T) bool says where real tokens are. Zeros stand for the mean of what is left out, and of an empty
    text.
    """
    own = between_specials(attention).unsqueeze(-1).to(fused.text.dtype)
    text = (fused.text * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)
    picture = torch.zeros_like(text) if fused.patches is None else fused.patches.mean(dim=1)
    return torch.cat([fused.text[:, 0], text, picture], dim=1)


def between_specials(attention: Tensor) -> Tensor:
    """Where the tokens between [CLS] and [SEP] are, (B, T) bool, from where any are."""
    nowhere = torch.zeros_like(attention[:, :1])
    return torch.cat([nowhere, attention[:, 2:], nowhere], dim=1)[:, : attention.shape[1]]
