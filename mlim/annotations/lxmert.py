"""LXMERT's published files (Tan and Bansal, 2019): regions with features as TSV, texts with answers as JSON."""

import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.annotations.json_stream import Entry, entries
from mlim.annotations.names import Names, id_names
from mlim.annotations.questions import vqa_kind
from mlim.annotations.records import Annotation, Attribute, Caption, Place, Question, Region, Statement, kind_of
from mlim.errors import InputError

COLUMNS = (
    "img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
    "features",
)  # fmt: skip
SIDES = 4


class PictureRegions(NamedTuple):
    """The regions of one picture: `boxes` (n, 4) x0 y0 x1 y1 in fractions of it, `features` (n, d) as float32."""

    place: Place
    picture: Names
    labels: NDArray[np.int64]
    label_scores: NDArray[np.float32]
    attributes: NDArray[np.int64]
    attribute_scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    features: NDArray[np.float32]


def read_features(path: Path) -> Iterator[PictureRegions]:
    """The lines of a *_obj36.tsv, without a header: base64 of little-endian int64 and float32, n = num_boxes."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a line has some 400 kB
    try:
        with path.open(encoding="ascii", newline="") as source:
            for number, row in enumerate(csv.reader(source, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                yield _picture(Place(str(path), number), row)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct `annotations.files`") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a TSV file of LXMERT's layout; it must be ASCII text") from None


def find_pictures(path: Path) -> Iterator[tuple[Names, int, int]]:
    """Of each line of such a file the names of its picture, its number from 1, and the byte at which it begins.

    `InputError` for a line that was cut off before its last column.
    """
    start = 0
    try:
        with path.open("rb") as source:
            for number, line in enumerate(source, start=1):
                if line.count(b"\t") != len(COLUMNS) - 1:
                    found = line.count(b"\t") + 1
                    raise _refused(
                        Place(str(path), number), f"must have {len(COLUMNS)} columns between tabs, it has {found}"
                    )
                yield id_names(line.partition(b"\t")[0].decode("ascii", "replace")), number, start
                start += len(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name another file") from None


def read_picture(path: Path, number: int, start: int) -> PictureRegions:
    """The line `number` of such a file, which begins at the byte `start`; errors as `read_features`."""
    with path.open("rb") as source:
        source.seek(start)
        line = source.readline()
    place = Place(str(path), number)
    try:
        cells = line.decode("ascii").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        raise _refused(place, "is not of LXMERT's layout; it must be ASCII text") from None
    return _picture(place, cells)


def read_regions(path: Path, labels: Path | None = None, attributes: Path | None = None) -> Iterator[Region]:
    """The same as boxes with names: those of the two lists, else the numbers; an attribute's kind is not known."""
    named = [None if names is None else read_names(names) for names in (labels, attributes)]
    for found in read_features(path):
        for place in range(len(found.boxes)):
            told: tuple[Attribute, ...] = (("", name_of(named[1], int(found.attributes[place]), found.place)),)
            x0, y0, x1, y1 = (float(side) for side in found.boxes[place])
            label, score = name_of(named[0], int(found.labels[place]), found.place), float(found.label_scores[place])
            yield Region(found.place, found.picture, (x0, y0, x1, y1), label, told, score)


def read_names(path: Path) -> list[str]:
    """The names of a detector's classes or attributes; of synonyms, which a comma separates, the first."""
    try:
        return [line.split(",")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct `annotations.files`") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def name_of(names: Sequence[str] | None, number: int, place: Place) -> str:
    """The name of a class or attribute: its number where there are no names. `InputError` for one beyond them."""
    if names is None:
        return str(number)
    if not 0 <= number < len(names):
        raise InputError(f"{place.file}: line {place.row}: class {number}, but the list has {len(names)} names")
    return names[number]


def _picture(place: Place, row: Sequence[str]) -> PictureRegions:
    if len(row) != len(COLUMNS):
        raise _refused(place, f"must have {len(COLUMNS)} columns between tabs, it has {len(row)}")
    cells = dict(zip(COLUMNS, row, strict=True))
    height, width, count = (_whole(place, name, cells[name]) for name in ("img_h", "img_w", "num_boxes"))

    def decoded(name: str, kind: Any) -> NDArray[Any]:
        return _decoded(place, name, cells[name], kind, count)

    boxes = decoded("boxes", "<f4").reshape(count, -1)
    if boxes.shape[1] != SIDES:
        raise _refused(place, f"`boxes` must hold 4 numbers for each of {count} boxes")
    return PictureRegions(
        place,
        id_names(cells["img_id"]),
        decoded("objects_id", "<i8"),
        decoded("objects_conf", "<f4"),
        decoded("attrs_id", "<i8"),
        decoded("attrs_conf", "<f4"),
        (boxes / np.array([width, height, width, height], dtype=np.float32)).astype(np.float32),
        decoded("features", "<f4").reshape(count, -1),
    )


def _whole(place: Place, name: str, cell: str) -> int:
    if not cell.isdecimal() or int(cell) == 0:
        raise _refused(place, f"`{name}` must be a whole number above 0, it is {cell[:20]!r}")
    return int(cell)


def _decoded(place: Place, name: str, cell: str, kind: str, count: int) -> NDArray[Any]:
    try:
        data = base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise _refused(place, f"`{name}` is not base64 ({error})") from None
    size = np.dtype(kind).itemsize
    if not data or len(data) % (size * count):
        raise _refused(
            place, f"`{name}` has {len(data)} bytes, which are not numbers of {size} bytes for {count} boxes"
        )
    return np.frombuffer(data, kind)


def _refused(place: Place, problem: str) -> InputError:
    return InputError(f"{place.file}: line {place.row}: {problem}")


def read_texts(path: Path) -> Iterator[Annotation]:
    """LXMERT's JSON: texts of pre-training (`sentf`, `labelf`), of VQA and GQA (`sent`, `label`), of NLVR2 (`img0`)."""
    for entry in entries(path):
        if entry.has("sentf"):
            yield from _sentences(entry)
        elif entry.has("img0"):
            yield _statement(entry)
        else:
            yield _question(entry, entry.word("question_id"), entry.get("sent", str), entry.value.get("label"))


def _sentences(entry: Entry) -> Iterator[Annotation]:
    """A set with answers holds questions, one without holds captions."""
    labels = entry.get("labelf", dict, {})
    for source, sentences in entry.get("sentf", dict).items():
        answers = labels.get(source)
        for number, text in enumerate(entry.check(f"sentf.{source}", sentences, list)):
            name = f"{entry.word('img_id')}-{source}-{number}"
            if answers is None:
                yield Caption(entry.place, id_names(entry.word("img_id")), name, entry.check("sentf", text, str))
            elif number >= len(entry.check(f"labelf.{source}", answers, list)):
                raise entry.refuse(f"`labelf.{source}` has {len(answers)} answers for {len(sentences)} sentences")
            else:
                yield _question(entry, name, entry.check("sentf", text, str), answers[number])


def _question(entry: Entry, name: str, text: str, label: Any) -> Question:
    """A question; an empty `label` is an answer outside LXMERT's list, none at all is none."""
    scores = {} if label is None else entry.check("label", label, dict)
    answers = tuple((answer, float(entry.check(f"label.{answer}", score, float))) for answer, score in scores.items())
    kind = vqa_kind(entry) if entry.get("answer_type", str, "") else kind_of(answers)
    template = entry.get("question_type", str, "") or entry.get("answer_type", str, "") or kind
    names, outside = id_names(entry.word("img_id")), label is not None and not answers
    return Question(entry.place, names, name, text, answers, kind, template, outside=outside)


def _statement(entry: Entry) -> Statement:
    label, identifier = entry.get("label", int), entry.get("identifier", str)
    if label not in (0, 1):
        raise entry.refuse(f"`label` must be 0 or 1, it is {label}")
    if "img2" in entry.value:
        raise entry.refuse("`img2`: a statement is about two pictures, img0 and img1")
    left, right = (id_names(entry.get(side, str)) for side in ("img0", "img1"))
    split, number, _, sentence = (*identifier.rsplit("-", 3), "", "", "")[:4]
    text, group = entry.get("sent", str), f"{split}-{number}-{sentence}"
    return Statement(entry.place, left, right, identifier, text, bool(label), group)
