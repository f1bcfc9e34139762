"""From what a network detects to rows of scores.parquet."""

from typing import Any

import torch

from mlim.data.objects import ObjectNames
from mlim.evaluation.detections import DIGITS, row_of
from mlim.models.boxes import to_corners
from mlim.models.detection import Detected


def found_rows(detected: Detected, names: ObjectNames, side: int) -> list[list[dict[str, Any]]]:
    """The detections in each picture of `side` pixels: every query of the last layer with its likeliest class."""
    chances, labels = detected.classes[-1].float().softmax(-1)[..., :-1].max(-1)
    corners = (to_corners(detected.boxes[-1].float()).clamp(0, 1) * side).double().round(decimals=DIGITS)
    kinds = [logits[-1].argmax(-1) for logits in detected.attributes]
    chosen = torch.stack(kinds, dim=-1) if kinds else labels[..., None][..., :0]
    values = list(names.attributes.values())[: len(kinds)]
    sure = chances.double().round(decimals=DIGITS)
    queries = zip(*(part.flatten(0, 1).tolist() for part in (corners, labels, sure, chosen)), strict=True)
    rows = [
        row_of(box, names.labels[label], score, [of_kind[place] for of_kind, place in zip(values, places, strict=True)])
        for box, label, score, places in queries
    ]
    return [rows[at : at + labels.shape[1]] for at in range(0, len(rows), labels.shape[1])]
