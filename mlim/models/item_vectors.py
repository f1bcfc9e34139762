"""The vector of an item from the outputs of blocks over its text and its picture."""

import torch
from torch import Tensor

from mlim.models.system import Fused


def vectors_of(fused: Fused, attention: Tensor) -> Tensor:
    """Vectors (B, 3 * H): the output at [CLS], the means of the text's and of the picture's outputs.

    `attention` (B, T) bool says where real tokens are. Zeros stand for the mean of what is left out, and of an empty
    text.
    """
    text = mean_over(fused.text, between_specials(attention))
    return torch.cat([fused.text[:, 0], text, mean_of_picture(fused, text)], dim=1)


def mean_over(vectors: Tensor, there: Tensor) -> Tensor:
    """The mean (B, H) of vectors (B, N, H) where `there` (B, N) is true; zeros where it is nowhere."""
    own = there.unsqueeze(-1).to(vectors.dtype)
    return (vectors * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)


def mean_of_picture(fused: Fused, like: Tensor) -> Tensor:
    """The mean (B, H) of what there is of the picture's outputs; zeros, shaped as `like` (B, H), without a picture."""
    if fused.patches is None:
        return torch.zeros_like(like)
    return fused.patches.mean(dim=1) if fused.present is None else mean_over(fused.patches, fused.present)


def between_specials(attention: Tensor) -> Tensor:
    """Where the tokens between [CLS] and [SEP] are, (B, T) bool, from where any are."""
    nowhere = torch.zeros_like(attention[:, :1])
    return torch.cat([nowhere, attention[:, 2:], nowhere], dim=1)[:, : attention.shape[1]]
