"""Simple baselines to restore what pre-training hides: what its losses have to be below before they mean anything.

Texts: the frequency of words (unigram), and the same given the word before (bigram). Pictures: the mean picture, a copy
shrunk to about 8 x 8 blocks (as many in each patch), and principal components, as many as the hidden size. All learn
from a sample of the train split and are judged on the same held-out items with the same masks as the losses; what is
hidden from the model is hidden from them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mlim.losses import LossTerm
from mlim.tasks.pretrain.passes import PassPlan

CHANNELS: Final = 3
COARSE: Final = 8  # blocks per side of a shrunk picture, as nearly as whole blocks in each patch allow, at least one
NOTHING: Final = -1  # in the place of a token id: hidden, or not there


@dataclass(frozen=True)
class TrainSample:
    """What baselines learn from: items of the train split, read when a task asks for them.

    texts: at most so many of them as token ids that begin with [CLS]; pictures: at most so many, (N, 3, S, S) in
    [0, 1]. `components` is how many numbers a baseline may keep of a picture.
    """

    texts: Callable[[int], Iterable[Sequence[int]]]
    pictures: Callable[[int], Tensor]
    vocabulary: int
    components: int


class Baselines(Protocol):
    """Simple baselines to do what a pre-training task does."""

    def losses(self, plan: PassPlan) -> Mapping[str, LossTerm]:
        """The task's loss by the name of the baseline, on the targets of a pass; sums and counts on the CPU."""


class Words:
    """How often tokens occur, and which follow which, in texts that begin with [CLS]."""

    def __init__(self, texts: Iterable[Sequence[int]], vocabulary: int) -> None:
        ids = [torch.tensor(text, dtype=torch.long) for text in texts]
        words = torch.cat([text[1:] for text in ids])
        pairs = torch.cat([text[:-1] * vocabulary + text[1:] for text in ids])
        self._vocabulary = vocabulary
        self._unigram = (torch.bincount(words, minlength=vocabulary) + 1.0) / (len(words) + vocabulary)
        known, times = torch.unique(pairs, return_counts=True)  # sorted
        self._follows = torch.zeros(vocabulary).index_add(0, known // vocabulary, times.float())
        self._kinds = torch.bincount(known // vocabulary, minlength=vocabulary).float()
        last = torch.tensor([torch.iinfo(torch.long).max])  # so that every search ends at a pair
        self._pairs, self._times = torch.cat([known, last]), torch.cat([times, torch.zeros(1, dtype=torch.long)])

    def losses(self, plan: PassPlan) -> Mapping[str, LossTerm]:
        """Negative log-likelihood of the masked tokens of items with their own picture."""
        places = masked_places(plan)
        visible = torch.where(plan.masks.text, NOTHING, plan.batch.input_ids).flatten()
        targets = plan.batch.input_ids.flatten()[places]
        found = {"unigram": self.unigram(targets), "bigram": self.bigram(targets, visible[places - 1])}
        return {way: LossTerm(value.sum(), torch.tensor(len(value))) for way, value in found.items()}

    def unigram(self, words: Tensor) -> Tensor:
        """Negative log-likelihood (N,) of token ids (N,) by frequency, with one added to each count."""
        return -self._unigram[words].log()

    def bigram(self, words: Tensor, before: Tensor) -> Tensor:
        """The same given the ids of the tokens before them (N,), where these are not `NOTHING`.

        Witten-Bell: unigrams fill in, the more the more kinds of tokens follow (Witten & Bell 1991).
        """
        known = before.clamp(min=0)
        places = torch.searchsorted(self._pairs, known * self._vocabulary + words)
        found = self._pairs[places] == known * self._vocabulary + words
        times = torch.where(found, self._times[places], 0)
        alone, kinds = self._unigram[words], self._kinds[known]
        both = (times + kinds * alone) / (self._follows[known] + kinds).clamp(min=1)
        usable = (before != NOTHING) & (kinds > 0)
        return -torch.where(usable, both, alone).log()


class Pictures:
    """A mean and principal components of pictures (N, 3, S, S) in [0, 1] that lie in a grid of `grid` x `grid` patches.

    Hidden patches are restored by the most likely picture given the visible ones, under the normal distribution that
    the components describe (probabilistic PCA: Tipping & Bishop 1999); with all patches visible that is plain PCA.
    """

    def __init__(self, pictures: Tensor, grid: int, components: int) -> None:
        patches = _patches(pictures, grid)  # (N, C, D)
        self._grid, self._size, self._mean = grid, pictures.shape[-1], patches.mean(dim=0)
        self._blocks = max(1, COARSE // grid)  # of a coarse picture, along a side of a patch
        flat = (patches - self._mean).flatten(1)
        del patches
        variances, left = torch.linalg.eigh(flat @ flat.T)  # N x N: far fewer pictures than pixels
        keep = max(1, min(components, len(flat) - 1))
        variances, left = variances[-keep:].clamp(min=0), left[:, -keep:]
        total, count = flat.square().sum() / len(flat), flat.shape[1]
        basis = flat.T @ left / variances.sqrt().clamp(min=torch.finfo(flat.dtype).eps)
        self.components = keep
        self._variances = (variances / len(flat)).clamp(min=torch.finfo(flat.dtype).eps)
        self._noise = ((total - self._variances.sum()) / max(1, count - keep)).clamp(min=torch.finfo(flat.dtype).eps)
        self._basis = basis.view(*self._mean.shape, keep)  # (C, D, K)
        self._products = torch.einsum("cdk,cdl->ckl", self._basis, self._basis)

    def losses(self, plan: PassPlan) -> Mapping[str, LossTerm]:
        """Squared error of the pictures of items with their own, counted by pixels."""
        pixels, hidden = plan.batch.with_floats().pixels[plan.kept], plan.masks.image[plan.kept]
        side = self._grid * self._blocks
        restored = {
            "mean picture": self.mean(pixels),
            f"shrunk to {side} x {side}": self.coarse(pixels, hidden),
            f"{self.components} principal components": self.principal(pixels, hidden),
        }
        count = torch.tensor(len(pixels) * self._size**2)
        return {way: LossTerm((value - pixels).square().sum(), count) for way, value in restored.items()}

    def mean(self, pixels: Tensor) -> Tensor:
        """The mean picture for each of (B, 3, S, S)."""
        return self._pictures(self._mean.expand(len(pixels), *self._mean.shape))

    def coarse(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """The pictures (B, 3, S, S) as blocks of their mean colour, `hidden` (B, C) patches as the mean."""
        side = self._size // self._grid
        patches = _patches(pixels, self._grid).view(-1, CHANNELS, side, side)
        blurred = functional.interpolate(functional.adaptive_avg_pool2d(patches, self._blocks), size=side)
        shown = blurred.view(len(pixels), *self._mean.shape)
        return self._pictures(torch.where(hidden[..., None], self._mean, shown))

    def principal(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """The most likely pictures by the components, given the patches that `hidden` (B, C) leaves visible."""
        shown = (~hidden).float()
        seen = (_patches(pixels, self._grid) - self._mean) * shown[..., None]
        precision = torch.einsum("bc,ckl->bkl", shown, self._products) + torch.diag(self._noise / self._variances)
        code = torch.linalg.solve(precision, torch.einsum("bcd,cdk->bk", seen, self._basis))
        return self._pictures(self._mean + torch.einsum("bk,cdk->bcd", code, self._basis)).clamp(0, 1)

    def _pictures(self, patches: Tensor) -> Tensor:
        side, grid = self._size // self._grid, self._grid
        tiles = patches.reshape(len(patches), grid, grid, CHANNELS, side, side)
        return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), CHANNELS, self._size, self._size)


def _patches(pictures: Tensor, grid: int) -> Tensor:
    """Pictures (N, 3, S, S) as their patches (N, grid * grid, 3 * side * side), row by row."""
    side = pictures.shape[-1] // grid
    tiles = pictures.unfold(2, side, side).unfold(3, side, side)  # (N, 3, grid, grid, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(len(pictures), grid * grid, -1)


def masked_places(plan: PassPlan) -> Tensor:
    """Places (M,) in the flattened (B * T) texts of the masked tokens of items with their own picture."""
    return (plan.masks.text & plan.own[:, None]).flatten().nonzero().squeeze(1)
