"""What the suite `annotations` looks at: a few numbers of each annotation, null where they do not apply."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlim.annotations.pictures import Pictures
from mlim.annotations.records import Annotation, Caption, Question, Region, Statement

COLUMNS = (
    "picture_known", "pictures_together", "box_inside", "box_area", "label_characters", "text_characters", "answers",
    "scores_valid", "set_labels",
)  # fmt: skip


class Found(NamedTuple):
    """An annotation with the items that it is about; None for those that the catalog does not have."""

    annotation: Annotation
    items: tuple[str | None, ...]


def find_items(annotation: Annotation, pictures: Pictures) -> Found:
    """The items of an annotation: one, or left and right."""
    if isinstance(annotation, Statement):
        return Found(annotation, (pictures.find(annotation.left), pictures.find(annotation.right)))
    return Found(annotation, (pictures.find(annotation.picture),))


def measure(found: Sequence[Found], pictures: Pictures) -> pd.DataFrame:
    """A row of `COLUMNS` for each annotation, labelled 0, 1, 2, ..."""
    labels = _labels_of_sets(entry.annotation for entry in found)
    rows = [_measured(entry, pictures, labels) for entry in found]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(np.float64)


def _labels_of_sets(annotations: Iterable[Annotation]) -> Mapping[str, set[bool]]:
    labels: dict[str, set[bool]] = defaultdict(set)
    for annotation in annotations:
        if isinstance(annotation, Statement):
            labels[annotation.set].add(annotation.label)
    return labels


def _written(text: str) -> float:
    """The letters and digits of a text: one of signs alone has no words."""
    return float(sum(character.isalnum() for character in text))


def _measured(found: Found, pictures: Pictures, labels: Mapping[str, set[bool]]) -> dict[str, float]:
    known = {"picture_known": float(None not in found.items)}
    match found.annotation:
        case Region(box=box, label=label, score=score):
            x0, y0, x1, y1 = box
            inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            area = (x1 - x0) * (y1 - y0)
            boxed = {"box_inside": float(inside), "box_area": area, "scores_valid": float(0 < score <= 1)}
            return known | boxed | {"label_characters": float(len(label.strip()))}
        case Caption(caption=caption):
            return known | {"text_characters": _written(caption)}
        case Question(question=question, answers=answers):
            valid = all(0 < score <= 1 for _, score in answers)
            asked = {"answers": float(len(answers)), "scores_valid": float(valid)}
            return known | asked | {"text_characters": _written(question)}
        case Statement(sentence=sentence):
            items = [item for item in found.items if item is not None]
            together = float(len({pictures.split(item) for item in items}) == 1)
            stated = {
                "set_labels": float(len(labels[found.annotation.set])),
                "text_characters": _written(sentence),
            }
            return known | stated | ({"pictures_together": together} if len(items) == len(found.items) else {})
