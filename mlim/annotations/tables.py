"""The tables of annotations that tasks read: what `mlim annotate` writes, and how to load it.

Every row has the split of its picture; vocabularies are of the train split alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mlim.annotations.records import Annotation, Caption, Kind, Question, Region, Statement
from mlim.errors import InputError
from mlim.files import read_json

REGIONS, CAPTIONS, QUESTIONS, STATEMENTS = "regions", "captions", "questions", "statements"
VOCABULARIES_FILE = "vocabularies.json"
TEXT_TABLES = (CAPTIONS, QUESTIONS, STATEMENTS)  # those that hold texts
TEXT, TEXTS, NUMBER, YES_OR_NO = pa.string(), pa.list_(pa.string()), pa.float32(), pa.bool_()
ATTRIBUTES = pa.map_(TEXT, TEXT)
ANSWERS = pa.list_(pa.struct([("answer", TEXT), ("score", NUMBER)]))
SCHEMAS: Mapping[str, Any] = {
    REGIONS: pa.schema(
        [
            *[("id", TEXT), ("split", TEXT)],
            *[(side, NUMBER) for side in ("x0", "y0", "x1", "y1")],  # in 0..1 of the picture's width and height
            *[("label", TEXT), ("attributes", ATTRIBUTES)],  # kind is empty where the file has none
            *[("score", NUMBER), ("crowd", YES_OR_NO)],
        ]
    ),
    CAPTIONS: pa.schema([("id", TEXT), ("split", TEXT), ("caption_id", TEXT), ("caption", TEXT)]),
    QUESTIONS: pa.schema(
        [
            *[("question_id", TEXT), ("id", TEXT), ("split", TEXT), ("question", TEXT)],
            *[("answers", ANSWERS), ("kind", TEXT), ("template", TEXT), ("entailed", TEXTS)],
        ]
    ),
    STATEMENTS: pa.schema(
        [
            *[("statement_id", TEXT), ("left", TEXT), ("right", TEXT), ("split", TEXT)],
            *[("sentence", TEXT), ("label", YES_OR_NO), ("set", TEXT)],
        ]
    ),
}


class QuestionRow(NamedTuple):
    """A question about an item's picture; the item's text is not shown with it."""

    question_id: str
    id: str
    question: str
    answers: Mapping[str, float]
    kind: Kind
    template: str
    entailed: tuple[str, ...]


class StatementRow(NamedTuple):
    """A sentence about the pictures of two items; consistency counts the sets that are right as a whole."""

    statement_id: str
    left: str
    right: str
    sentence: str
    label: bool
    set: str


def table_of(annotation: Annotation) -> str:
    """The table that an annotation belongs to."""
    match annotation:
        case Region():
            return REGIONS
        case Caption():
            return CAPTIONS
        case Question():
            return QUESTIONS
        case Statement():
            return STATEMENTS


def row_of(annotation: Annotation, items: Sequence[str], split: str) -> dict[str, Any]:
    """The row of an annotation; `items` are the item it is about, or left and right."""
    match annotation:
        case Region():
            sides = dict(zip(("x0", "y0", "x1", "y1"), annotation.box, strict=True))
            own = {name: getattr(annotation, name) for name in ("label", "attributes", "score", "crowd")}
            return own | {"id": items[0], "split": split, **sides}
        case Caption():
            return {"id": items[0], "split": split, "caption_id": annotation.caption_id, "caption": annotation.caption}
        case Question():
            answers = [{"answer": answer, "score": score} for answer, score in annotation.answers]
            own = {
                name: getattr(annotation, name) for name in ("question_id", "question", "kind", "template", "entailed")
            }
            return own | {"id": items[0], "split": split, "answers": answers}
        case Statement():
            own = {name: getattr(annotation, name) for name in ("statement_id", "sentence", "label", "set")}
            left, right = items
            return own | {"left": left, "right": right, "split": split}


def table_file(folder: Path, table: str) -> Path:
    """Where a table lies."""
    return folder / f"{table}.arrow"


def read_table(folder: Path, table: str, split: str | None = None) -> Any:
    """An Arrow table of `SCHEMAS`, of one split or of all; `InputError` when the annotations were not made."""
    path = table_file(folder, table)
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; run `mlim annotate` first")
    if not path.is_file():
        return SCHEMAS[table].empty_table()
    with pa.memory_map(str(path)) as source:
        found = pa.ipc.open_file(source).read_all()
    return found if split is None else found.filter(pc.equal(found["split"], split))


def has_rows(folder: Path, table: str) -> bool:
    """Whether a table has anything in it; earlier versions did not write one that has not."""
    path = table_file(folder, table)
    if not path.is_file():
        return False
    with pa.memory_map(str(path)) as source:
        return bool(pa.ipc.open_file(source).num_record_batches)


def read_texts(folder: Path, split: str) -> Iterator[str]:
    """Every caption, question, answer and statement of a split, as often as it is there."""
    for row in _rows(folder, CAPTIONS, split):
        yield row["caption"]
    for row in _rows(folder, QUESTIONS, split):
        yield row["question"]
        yield from (given["answer"] for given in row["answers"])
    for row in _rows(folder, STATEMENTS, split):
        yield row["sentence"]


def load_questions(folder: Path, split: str) -> list[QuestionRow]:
    """The questions of a split, in the order of the files."""
    return [
        QuestionRow(
            row["question_id"],
            row["id"],
            row["question"],
            {given["answer"]: given["score"] for given in row["answers"]},
            row["kind"],
            row["template"],
            tuple(row["entailed"]),
        )
        for row in _rows(folder, QUESTIONS, split)
    ]


def load_statements(folder: Path, split: str) -> list[StatementRow]:
    """The statements of a split, in the order of the files."""
    return [StatementRow(*(row[name] for name in StatementRow._fields)) for row in _rows(folder, STATEMENTS, split)]


def load_answers(folder: Path) -> list[str]:
    """The answers of the train split, the most frequent first."""
    answers: list[str] = read_json(folder / VOCABULARIES_FILE)["answers"]
    return answers


def make_vocabularies(folder: Path, split: str, most_attributes: int | None = None) -> dict[str, Any]:
    """`labels`, `attributes` by kind and `answers` of a split, the most frequent first, and their `counts`.

    `labels` goes on with those of the other splits, which count 0: a box of theirs has a class, too. Of each kind of
    attributes the `most_attributes` most frequent are kept; None: all.
    """
    labels, answers, attributes = Counter[str](), Counter[str](), dict[str, Counter[str]]()
    for row in _rows(folder, REGIONS, split):
        labels[row["label"]] += 1
        for kind, value in row["attributes"]:
            attributes.setdefault(kind, Counter())[value] += 1
    for row in _rows(folder, QUESTIONS, split):
        answers.update(given["answer"] for given in row["answers"])
    labels.update(dict.fromkeys(read_table(folder, REGIONS)["label"].unique().to_pylist(), 0))
    return {
        "labels": most_frequent(labels),
        "attributes": {kind: most_frequent(counts, most_attributes) for kind, counts in attributes.items()},
        "answers": most_frequent(answers),
        "counts": {"labels": labels, "attributes": attributes, "answers": answers},
    }


def most_frequent(counts: Counter[str], most: int | None = None) -> list[str]:
    """The `most` names with the highest counts, or all; of equal counts the first in the alphabet."""
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def _rows(folder: Path, table: str, split: str) -> Iterator[dict[str, Any]]:
    for batch in read_table(folder, table, split).to_batches():
        yield from batch.to_pylist()
