"""The loss of a set of predicted objects: each box is judged at the query that takes it (Carion et al. 2020, DETR)."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlim.data.batches import Objects
from mlim.losses import UNKNOWN, LossTerm
from mlim.models.boxes import assign, giou, matching_cost, to_corners
from mlim.models.detection import Detected

NO_OBJECT_WEIGHT: Final = 0.1  # of the queries that take no box
CLASS, L1, GIOU, ATTRIBUTE = "detect-class", "detect-l1", "detect-giou", "detect-attribute"


class Taken(NamedTuple):
    """Which query takes which box: long (N,) each; N is the number of boxes times that of the layers."""

    layer: Tensor
    row: Tensor
    query: Tensor
    box: Tensor


def object_counts(objects: Objects, layers: int, queries: int) -> dict[str, float]:
    """What the terms of `set_loss` count, from what is known before the forward pass.

    No picture may have more boxes than there are `queries` (`largest`).
    """
    boxes, pictures = int(objects.numbers.sum()), int((objects.numbers > 0).sum())
    counts = {CLASS: boxes + NO_OBJECT_WEIGHT * (pictures * queries - boxes), L1: boxes, GIOU: boxes}
    if kinds := objects.attributes.shape[-1]:
        counts[ATTRIBUTE] = int((objects.attributes != UNKNOWN).sum()) / kinds
    return {name: layers * float(count) for name, count in counts.items()}


def largest(objects: Objects, most: int) -> Objects:
    """The `most` largest objects of each picture; which are on the CPU."""
    if objects.boxes.shape[1] <= most:
        return objects
    sizes = objects.boxes[..., 2:].prod(dim=-1).masked_fill(objects.labels == UNKNOWN, -1.0)
    kept = sizes.argsort(dim=1, descending=True, stable=True)[:, :most, None]
    boxes, attributes = (
        part.gather(1, kept.expand(-1, -1, part.shape[-1])) for part in (objects.boxes, objects.attributes)
    )
    return Objects(boxes, objects.labels.gather(1, kept.squeeze(2)), attributes, objects.numbers.clamp(max=most))


def set_loss(detected: Detected, objects: Objects) -> dict[str, LossTerm]:
    """The four losses, summed over all layers; without attributes three.

    Classes: cross-entropy over the queries, those without a box weigh `NO_OBJECT_WEIGHT`. Boxes: L1 over the four
    numbers, and 1 - GIoU. Attributes: cross-entropy, a mean over the kinds. Waits for the device.
    """
    taken = match_objects(detected, objects)
    found = detected.boxes.float()[taken.layer, taken.row, taken.query]
    wanted = objects.boxes[taken.row, taken.box]
    near = giou(to_corners(found), to_corners(wanted))
    totals = {CLASS: _class_loss(detected, objects, taken), L1: (found - wanted).abs().sum(), GIOU: (1 - near).sum()}
    if detected.attributes and objects.attributes.shape[-1]:
        totals[ATTRIBUTE] = _attribute_loss(detected, objects, taken)
    layers, _, queries, _ = detected.classes.shape
    counts: Mapping[str, float] = object_counts(objects, layers, queries)
    return {name: LossTerm(total, torch.full_like(total, counts[name]).detach()) for name, total in totals.items()}


@torch.no_grad()
def match_objects(detected: Detected, objects: Objects) -> Taken:
    """The cheapest assignment in every layer and picture; computed on the CPU."""
    labels = objects.labels.clamp(min=0)
    cost = matching_cost(detected.classes.float(), detected.boxes.float(), labels, objects.boxes).cpu().numpy()
    found = []
    for row, number in enumerate(objects.numbers.tolist()):
        for layer in range(len(cost) if number else 0):
            taken = assign(cost[layer, row, :, :number])
            found += [(layer, row, query, box) for query, box in zip(*taken, strict=True)]
    table = torch.tensor(found, dtype=torch.long).view(-1, len(Taken._fields)).to(detected.classes.device)
    return Taken(*table.unbind(1))


def _class_loss(detected: Detected, objects: Objects, taken: Taken) -> Tensor:
    nothing = detected.classes.shape[-1] - 1
    labels = objects.labels.new_full(detected.classes.shape[:-1], nothing)
    labels[:, objects.numbers == 0] = UNKNOWN
    labels[taken.layer, taken.row, taken.query] = objects.labels[taken.row, taken.box]
    weights = detected.classes.new_ones(nothing + 1, dtype=torch.float)
    weights[nothing] = NO_OBJECT_WEIGHT
    logits = detected.classes.float().flatten(0, 2)
    return functional.cross_entropy(logits, labels.flatten(), weights, reduction="sum", ignore_index=UNKNOWN)


def _attribute_loss(detected: Detected, objects: Objects, taken: Taken) -> Tensor:
    wanted = objects.attributes[taken.row, taken.box].unbind(1)
    parts = [
        functional.cross_entropy(
            logits.float()[taken.layer, taken.row, taken.query], values, reduction="sum", ignore_index=UNKNOWN
        )
        for logits, values in zip(detected.attributes, wanted, strict=True)
    ]
    return torch.stack(parts).sum() / len(parts)
