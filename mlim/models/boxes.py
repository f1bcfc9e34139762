"""Boxes: their geometry, and which prediction takes which box (Carion et al. 2020, DETR).

Pictures are squares of side 1. Annotations have corners (x0, y0, x1, y1), networks predict centres and sizes
(x, y, width, height).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CORNERS = 4  # numbers of a box
CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0


def to_corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from centres and sizes to corners."""
    centres, sizes = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) by their corners; 0 for a box whose corners are in the wrong order."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of boxes by their corners, whose shapes (..., 4) broadcast."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared, area(first) + area(second) - shared


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU, in [-1, 1] (Rezatofighi et al. 2019): that less the share of the hull that is in neither box."""
    shared, union = overlap(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull, least = (high - low).clamp(min=0).prod(dim=-1), torch.finfo(union.dtype).tiny
    return shared / union.clamp(min=least) - (hull - union) / hull.clamp(min=least)


def matching_cost(logits: Tensor, predicted: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """What it costs that a prediction takes a box, (..., Q, M): -p(class) + 5 L1 - 2 GIoU; attributes do not count.

    `logits` (..., Q, classes + 1), `predicted` (..., Q, 4) centres and sizes; `labels` (..., M) with any class where
    there is no box; `boxes` (..., M, 4) centres and sizes. A cost that is not finite becomes the largest number.
    """
    taken = labels[..., None, :].expand(*logits.shape[:-1], labels.shape[-1])
    chance = logits.softmax(-1).gather(-1, taken)
    apart = torch.cdist(predicted, boxes, p=1)
    near = giou(to_corners(predicted)[..., :, None, :], to_corners(boxes)[..., None, :, :])
    cost = L1_COST * apart - CLASS_COST * chance - GIOU_COST * near
    most = torch.finfo(cost.dtype).max
    return cost.nan_to_num(nan=most, posinf=most, neginf=most)


def assign(cost: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The predictions and the boxes of the cheapest assignment of `cost` (Q, M): min(Q, M) pairs (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment  # a machine that trains without detection may lack scipy

    rows, columns = linear_sum_assignment(cost)
    return rows, columns
