"""Questions: VQA v2 (Goyal et al., 2017) and GQA (Hudson and Manning, 2019)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlim.annotations.coco import names_of
from mlim.annotations.json_stream import Entry, entries
from mlim.annotations.records import Kind, Question, Region

KINDS: Mapping[str, Kind] = {"yes/no": "binary", "number": "number", "other": "open"}
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)  # of an answer that so many of ten people gave; four or more: 1


def read_vqa(questions: Path, answers: Path, entailed: Path | None = None) -> Iterator[Question]:
    """VQA v2: an answer's score is 0, 0.3, 0.6, 0.9 or 1 for 0, 1, 2, 3, 4 or more people who gave it."""
    asked = {entry.word("question_id"): entry for entry in entries(questions, "questions")}
    following = {} if entailed is None else dict(_entailed(entailed))
    for entry in entries(answers, "annotations"):
        number = entry.word("question_id")
        question = asked.get(number)
        if question is None:
            raise entry.refuse(f"`question_id` {number} is not among the questions of {questions}")
        kind = KINDS.get(entry.get("answer_type", str))
        if kind is None:
            raise entry.refuse(f"`answer_type` must be one of {', '.join(KINDS)}")
        yield Question(
            entry.place,
            vqa_names(question.word("image_id")),
            number,
            question.get("question", str),
            soft_scores(inner.get("answer", str) for inner in entry.inner("answers")),
            kind,
            entry.get("question_type", str),
            following.get(number, ()),
        )


def vqa_names(number: str) -> tuple[str, ...]:
    """A picture that is known by its number alone: COCO's files have twelve digits."""
    return (number, f"{int(number):012d}") if number.isdecimal() else names_of(number)


def soft_scores(answers: Iterator[str]) -> tuple[tuple[str, float], ...]:
    """The answers with their scores, the most frequent first."""
    counts = Counter(answer.strip().lower() for answer in answers)
    most = len(SOFT_SCORES) - 1
    return tuple((answer, SOFT_SCORES[min(count, most)]) for answer, count in counts.most_common() if answer)


def _entailed(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    found: dict[str, list[str]] = {}
    for entry in entries(path):
        if entry.key is None:
            raise entry.refuse("must be an object of lists: question -> questions that follow")
        found.setdefault(entry.key, []).append(str(entry.value))
    yield from ((number, tuple(others)) for number, others in found.items())


def read_gqa(path: Path) -> Iterator[Question]:
    """GQA's questions; open are those that ask for a value (structural type `query`), the others are binary."""
    for entry in entries(path):
        types = Entry(entry.place, entry.key, entry.number, entry.get("types", dict))
        structural = types.get("structural", str)
        answer = entry.get("answer", str).strip().lower()
        yield Question(
            entry.place,
            names_of(entry.word("imageId")),
            str(entry.key),
            entry.get("question", str),
            ((answer, 1.0),) if answer else (),
            "open" if structural == "query" else "binary",
            types.get("detailed", str, structural) if types.value.get("detailed") else structural,
            tuple(other for other in entry.texts("entailed") if other != entry.key),
        )


def read_scene_graphs(path: Path) -> Iterator[Region]:
    """GQA's scene graphs: objects with boxes, names and attributes (without kinds)."""
    for entry in entries(path):
        width, height = entry.get("width", float), entry.get("height", float)
        if width <= 0 or height <= 0:
            raise entry.refuse("`width` and `height` must be above 0")
        for number, (name, value) in enumerate(entry.get("objects", dict).items()):
            thing = Entry(entry.place, f"{entry.key}.objects.{name}", number, value)
            x, y, w, h = (thing.get(side, float) for side in ("x", "y", "w", "h"))
            yield Region(
                entry.place,
                names_of(str(entry.key)),
                (x / width, y / height, (x + w) / width, (y + h) / height),
                thing.get("name", str),
                tuple(("", attribute) for attribute in thing.texts("attributes")),
            )
