"""The losses as sums and counts: micro-batches and devices add up, and a mean over nothing is 0 instead of NaN."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

LEAST_VARIANCE: Final = 1e-3  # of a patch of one colour, of pixels in [0, 1]
UNKNOWN: Final = -100  # a target that counts nothing; torch's own number for that


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A loss summed over its targets, and how many there were; both scalars on the model's device."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The average per target; exactly 0, with a gradient of 0, when there is no target."""
        return self.total / torch.where(self.count > 0, self.count, 1)  # targets may count in part


def mlm_loss(logits: Tensor, targets: Tensor) -> LossTerm:
    """Negative log-likelihood of the masked tokens (section 3.2): logits (N, V), targets (N,) ids; N may be 0."""
    total = functional.cross_entropy(logits.float(), targets, reduction="sum")
    return LossTerm(total, _count(total, targets.numel()))


def recon_loss(pred: Tensor, target: Tensor, grid: int | None = None) -> LossTerm:
    """Squared error summed over the channels, counted per pixel of the whole picture (section 3.2).

    Both are (B, 3, S, S) in [0, 1]; masked and visible patches count alike. With `grid` the error of each of the
    grid x grid patches is divided by the variance of its target pixels, as in a normalised patch (He et al. 2022, MAE).
    """
    errors = (pred.float() - target.float()).square()
    if grid is not None:
        errors = errors / _patch_variances(target.float(), grid)
    total = errors.sum()
    return LossTerm(total, _count(total, pred.numel() // pred.shape[1]))


def _patch_variances(pictures: Tensor, grid: int) -> Tensor:
    """The variance of the patch around every pixel (B, 1, S, S), not below `LEAST_VARIANCE`."""
    side = pictures.shape[-1] // grid
    means, squares = (functional.avg_pool2d(each, side).mean(1, keepdim=True) for each in (pictures, pictures.square()))
    variances = (squares - means.square()).clamp(min=LEAST_VARIANCE)
    return variances.repeat_interleave(side, 2).repeat_interleave(side, 3)


def itm_loss(logits: Tensor, labels: Tensor) -> LossTerm:
    """Does this picture belong to this text? Binary cross-entropy over items: logits (B,), labels (B,) in {0, 1}."""
    return _binary(logits, labels)


def write_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> LossTerm:
    """Negative log-likelihood of the tokens that are written: logits (N, V), targets (N,) ids.

    `smoothing` is the share of each target that all tokens have alike (Szegedy et al. 2016).
    """
    total = functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
    return LossTerm(total, _count(total, targets.numel()))


def region_feature_loss(pred: Tensor, target: Tensor) -> LossTerm:
    """Squared error of the features of hidden regions (N, F), the mean over their numbers; N may be 0."""
    errors = (pred.float() - target.float()).square()
    total = errors.mean(dim=1).sum()
    return LossTerm(total, _count(total, len(pred)))


def region_label_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> LossTerm:
    """Cross-entropy of what is to be seen in hidden regions: logits (N, labels), labels (N,); N may be 0.

    `weights` (N,) say how sure a label is; the count is that of the regions all the same, as in LXMERT.
    """
    if weights is None:
        total = functional.cross_entropy(logits.float(), labels, reduction="sum")
    else:
        total = (functional.cross_entropy(logits.float(), labels, reduction="none") * weights).sum()
    return LossTerm(total, _count(total, labels.numel()))


def region_attribute_loss(logits: Sequence[Tensor], values: Tensor, weights: Tensor, count: float) -> LossTerm:
    """Cross-entropy of the attributes of hidden regions, each by how sure it is, the mean over their K kinds.

    `logits` (N, values) for each kind; `values` and `weights` (N, K), `UNKNOWN` where there is no target; `count` is
    that of the known ones, divided by K.
    """
    parts = [
        (functional.cross_entropy(each.float(), wanted, reduction="none", ignore_index=UNKNOWN) * weight).sum()
        for each, wanted, weight in zip(logits, values.unbind(1), weights.unbind(1), strict=True)
    ]
    total = torch.stack(parts).sum() / len(parts)
    return LossTerm(total, _count(total, count))


def question_loss(logits: Tensor, answers: Tensor) -> LossTerm:
    """Which answer has a question? Cross-entropy over a table: logits (N, answers), answers (N,); N may be 0."""
    total = functional.cross_entropy(logits.float(), answers, reduction="sum")
    return LossTerm(total, _count(total, answers.numel()))


def match_loss(logits: Tensor, labels: Tensor) -> LossTerm:
    """Are the two items closely matching? Binary cross-entropy over pairs: logits (B,), labels (B,) in {0, 1}."""
    return _binary(logits, labels)


def attribute_loss(logits: Sequence[Tensor], targets: Tensor, count: int) -> LossTerm:
    """Which value has an item? Cross-entropy over items and attributes.

    `logits` (N, classes) for each of A attributes, `targets` (N, A) with UNKNOWN where there is no target, `count`
    the targets that are known.
    """
    parts = [
        functional.cross_entropy(each.float(), target, reduction="sum", ignore_index=UNKNOWN)
        for each, target in zip(logits, targets.unbind(1), strict=True)
    ]
    total = torch.stack(parts).sum()
    return LossTerm(total, _count(total, count))


def answer_loss(logits: Tensor, scores: Tensor) -> LossTerm:
    """Which answers are right? Binary cross-entropies summed over the answers, counted per question.

    `logits` and `scores` (B, answers); a score is the share of people who gave an answer.
    """
    total = functional.binary_cross_entropy_with_logits(logits.float(), scores, reduction="sum")
    return LossTerm(total, _count(total, len(logits)))


def statement_loss(logits: Tensor, labels: Tensor) -> LossTerm:
    """Is a statement false or true? Cross-entropy over statements; `logits` and `labels` (B, 2), one 1 in each row."""
    total = functional.cross_entropy(logits.float(), labels, reduction="sum")
    return LossTerm(total, _count(total, len(logits)))


def _binary(logits: Tensor, labels: Tensor) -> LossTerm:
    total = functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
    return LossTerm(total, _count(total, labels.numel()))


def _count(like: Tensor, number: float) -> Tensor:
    return torch.full((), float(number), device=like.device)
