"""Detections and objects as rows of scores.parquet, in the public form of COCO, and as what metrics read.

A row is {x0, y0, x1, y1, label, score, attributes}: corners in pixels of the picture, and one attribute of each kind,
empty where it has none. Of an object the score is 1, `crowd` marks a box of many (COCO), and `accepted` has all its
attributes of each kind: an object may be green and tall where kinds are not told apart (Visual Genome, GQA).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from mlim.evaluation.metrics.ap import FIGURES, DetectionAp, Found, Truth, about, areas_of
from mlim.evaluation.metrics.measure import Chosen, Figure, Flags, Measure, Together
from mlim.evaluation.metrics.objects import ATTRIBUTES, COUNT, attribute_accuracy, count_accuracy, hits_of

SIDES: Final = ("x0", "y0", "x1", "y1")
DIGITS: Final = 4  # of scores and boxes in pixels

Row = Mapping[str, Any]


def row_of(box: Sequence[float], label: str, score: float, attributes: Sequence[str]) -> dict[str, Any]:
    """A row of corners `box`, a label, a score and attributes."""
    return {**dict(zip(SIDES, box, strict=True)), "label": label, "score": score, "attributes": attributes}


def truth_row(region: Row, kinds: Sequence[str], side: int) -> dict[str, Any]:
    """An object, from a row of the annotations, in a picture of `side` pixels; `attributes` has the first of a kind."""
    box = [round(float(region[name]) * side, DIGITS) for name in SIDES]
    accepted = [[value for name, value in region["attributes"] if name == kind] for kind in kinds]
    shown = [next(iter(values), "") for values in accepted]
    return {**row_of(box, region["label"], 1.0, shown), "accepted": accepted, "crowd": region["crowd"]}


def detection_figures(scores: pd.DataFrame) -> tuple[Figure, ...]:
    """AP, AP by those sizes that there are, attributes where any are known, and numbers of objects."""
    truths, _ = _pictures(scores)
    attributes = (ATTRIBUTES,) if _has_attributes(scores) else ()
    return (*(FIGURES[place] for place in _places(about(truths))), *attributes, COUNT)


def detection_measure(scores: pd.DataFrame) -> Measure:
    """The figures of `detection_figures`."""
    truths, found = _pictures(scores)
    ap = DetectionAp(truths, found)
    parts: list[Measure] = [Chosen(ap, _places(ap.about()))]
    if _has_attributes(scores):
        told = [_compared(*row) for row in zip(scores["truth"], scores["found"], truths, found, strict=True)]
        parts.append(attribute_accuracy(*map(list, zip(*told, strict=True))))
    return Together(*parts, count_accuracy(truths, found))


def _places(held: Flags) -> list[int]:
    """Which of FIGURES some picture holds something to find for; `held` (6, n) says which picture does."""
    return np.flatnonzero(held.any(axis=1)).tolist()


def _has_attributes(scores: pd.DataFrame) -> bool:
    """Whether any object has an attribute that a model could tell."""
    told = any(len(row["attributes"]) for rows in scores["found"] for row in rows)
    return told and any(value for rows in scores["truth"] for row in rows for value in row["attributes"])


def _pictures(scores: pd.DataFrame) -> tuple[list[Truth], list[Found]]:
    labels = sorted({row["label"] for column in ("truth", "found") for rows in scores[column] for row in rows})
    numbers = {label: number for number, label in enumerate(labels)}
    truths = [truth_of(rows, numbers) for rows in scores["truth"]]
    return truths, [found_of(rows, numbers) for rows in scores["found"]]


def truth_of(rows: Sequence[Row], numbers: Mapping[str, int]) -> Truth:
    """What is in a picture; `numbers` are those of the labels."""
    boxes, labels = _boxes(rows), np.array([numbers[row["label"]] for row in rows], dtype=np.int64)
    return Truth(boxes, labels, areas_of(boxes), np.array([row["crowd"] for row in rows], dtype=bool))


def found_of(rows: Sequence[Row], numbers: Mapping[str, int]) -> Found:
    """What was detected in a picture."""
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    return Found(_boxes(rows), np.array([numbers[row["label"]] for row in rows], dtype=np.int64), scores)


def _boxes(rows: Sequence[Row]) -> np.ndarray:
    return np.array([[row[side] for side in SIDES] for row in rows], dtype=np.float64).reshape(-1, len(SIDES))


def _compared(truth: Sequence[Row], found: Sequence[Row], known: Truth, told: Found) -> tuple[np.ndarray, np.ndarray]:
    """Which attributes of the hits of a picture are known, and which are right: flags (hits, kinds)."""
    hits = hits_of(known, told)
    pairs = [(_accepted(truth[hit.truth]), found[hit.found]["attributes"]) for hit in hits]
    flags = [[(len(right) > 0, said in right) for right, said in zip(*pair, strict=True)] for pair in pairs]
    table = np.array(flags, dtype=bool).reshape(len(pairs), -1, 2) if pairs else np.empty((0, 0, 2), dtype=bool)
    return table[..., 0], table[..., 1]


def _accepted(row: Row) -> Sequence[Sequence[str]]:
    """The attributes of an object, of each kind; rows of earlier versions have one at most."""
    accepted: Sequence[Sequence[str]] | None = row.get("accepted")
    return [[value] if value else [] for value in row["attributes"]] if accepted is None else accepted


def coco_forms(scores: pd.DataFrame) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's instances, and results `[{image_id, category_id, bbox, score}]`, of the pictures of `scores`.

    Pictures and classes are numbered from 1 in the order of their names, which the instances tell.
    """
    labels = sorted({row["label"] for column in ("truth", "found") for rows in scores[column] for row in rows})
    classes = {label: number for number, label in enumerate(labels, start=1)}
    images = {item: number for number, item in enumerate(sorted(scores["id"]), start=1)}
    known = [(images[item], row) for item, rows in zip(scores["id"], scores["truth"], strict=True) for row in rows]
    told = [(images[item], row) for item, rows in zip(scores["id"], scores["found"], strict=True) for row in rows]
    annotations = [
        {"id": place, "iscrowd": int(row["crowd"]), **_coco(image, row, classes)}
        for place, (image, row) in enumerate(known, 1)
    ]
    truth = {
        "images": [{"id": number, "file_name": item} for item, number in images.items()],
        "categories": [{"id": number, "name": label} for label, number in classes.items()],
        "annotations": [{**one, "area": one["bbox"][2] * one["bbox"][3]} for one in annotations],
    }
    return truth, [{**_coco(image, row, classes), "score": row["score"]} for image, row in told]


def _coco(image: int, row: Row, classes: Mapping[str, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(row[side]) for side in SIDES)
    return {"image_id": image, "category_id": classes[row["label"]], "bbox": [x0, y0, x1 - x0, y1 - y0]}
