"""What the suite `annotations` looks at: a few numbers of each annotation, null where they do not apply."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlim.annotations.pictures import Pictures
from mlim.annotations.records import Annotation, Caption, Question, Region, Statement
from mlim.annotations.tables import table_of

COLUMNS = (
    "picture_known", "pictures_together", "box_inside", "box_area", "label_characters", "label_kept", "text_characters",
    "answers", "scores_valid", "id_new", "set_labels",
)  # fmt: skip
DIGEST_BYTES = 8  # of an id: of ten million, the chance that any two are taken for one is one in 370,000


class Found(NamedTuple):
    """An annotation with the items that it is about; None for those that the catalog does not have."""

    annotation: Annotation
    items: tuple[str | None, ...]


def find_items(annotation: Annotation, pictures: Pictures) -> Found:
    """The items of an annotation: one, or left and right. `InputError` for a picture that several items may be."""
    match annotation:
        case Statement(place=place, left=left, right=right):
            return Found(annotation, (pictures.find(left, place), pictures.find(right, place)))
        case _:
            return Found(annotation, (pictures.find(annotation.picture, annotation.place),))


def measure(
    found: Sequence[Found], pictures: Pictures, train: str, labels: Collection[str] | None = None
) -> pd.DataFrame:
    """A row of `COLUMNS` for each annotation by itself, labelled 0, 1, 2, ...

    In the split `train` every question needs an answer; elsewhere one whose answer is known to be no class is judged,
    too, as one that nothing answers. `labels` are those that boxes may have; None: any. What other annotations decide
    is null.
    """
    return _frame([_measured(entry, pictures, train, labels) for entry in found])


def measure_together(found: Sequence[Found], taken: set[int]) -> pd.DataFrame:
    """The same for what other annotations decide: ids that come again, sentences with one label.

    `found` are acceptable each by itself, the statements of a set together. `taken` are the ids of earlier ones, to
    which those of `found` are added; of annotations with one id the first counts.
    """
    new = [_take(_identity(entry), taken) for entry in found]
    labels: dict[str, set[bool]] = defaultdict(set)
    for entry, first in zip(found, new, strict=True):
        if isinstance(entry.annotation, Statement) and first:
            labels[entry.annotation.set].add(entry.annotation.label)
    return _frame([_beside(entry, first, labels) for entry, first in zip(found, new, strict=True)])


def _frame(rows: Sequence[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(np.float64)


def _identity(found: Found) -> tuple[str, ...] | None:
    """What is there once: an id in its table, of a caption with its picture; boxes have none."""
    table = table_of(found.annotation)
    match found.annotation:
        case Region():
            return None
        case Caption(caption_id=name):
            return table, str(found.items[0]), name
        case Question(question_id=name) | Statement(statement_id=name):
            return table, name


def _take(identity: tuple[str, ...] | None, taken: set[int]) -> bool:
    """Whether an id is new; it is taken from now on."""
    if identity is None:
        return True
    text = "\0".join(identity).encode("utf-8", "surrogatepass")
    digest = int.from_bytes(blake2b(text, digest_size=DIGEST_BYTES).digest(), "little")
    new = digest not in taken
    taken.add(digest)
    return new


def _beside(found: Found, new: bool, labels: dict[str, set[bool]]) -> dict[str, float]:
    match found.annotation:
        case Region():
            return {}
        case Statement(set=name) if new:
            return {"id_new": 1.0, "set_labels": float(len(labels[name]))}
        case _:
            return {"id_new": float(new)}


def _written(text: str) -> float:
    """The letters and digits of a text: one of signs alone has no words."""
    return float(sum(character.isalnum() for character in text))


def _measured(found: Found, pictures: Pictures, train: str, labels: Collection[str] | None) -> dict[str, float]:
    known = {"picture_known": float(None not in found.items)}
    items = [item for item in found.items if item is not None]
    match found.annotation:
        case Region(box=box, label=label, score=score):
            x0, y0, x1, y1 = box
            inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            area = (x1 - x0) * (y1 - y0)
            boxed = {"box_inside": float(inside), "box_area": area, "scores_valid": float(0 < score <= 1)}
            kept = {} if labels is None else {"label_kept": float(label in labels)}
            return known | boxed | kept | {"label_characters": float(len(label.strip()))}
        case Caption(caption=caption):
            return known | {"text_characters": _written(caption)}
        case Question(question=question, answers=answers):
            valid = all(0 < score <= 1 for _, score in answers)
            asked = {"scores_valid": float(valid), "text_characters": _written(question)}
            judged = found.annotation.outside and any(pictures.split(item) != train for item in items)
            return known | asked | ({} if judged else {"answers": float(len(answers))})
        case Statement(sentence=sentence):
            together = float(len({pictures.split(item) for item in items}) == 1)
            stated = {"text_characters": _written(sentence)}
            return known | stated | ({"pictures_together": together} if len(items) == len(found.items) else {})
