"""Questions: VQA v2 (Goyal et al., 2017) and GQA (Hudson and Manning, 2019)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mlim.annotations.answers import AnswerSpellings, vote
from mlim.annotations.json_stream import Entry, entries
from mlim.annotations.names import Names, id_names, vqa_names
from mlim.annotations.records import Kind, Question, Region, kind_of

KINDS: Mapping[str, Kind] = {"yes/no": "binary", "number": "number", "other": "open"}
COCO = "mscoco"  # `data_type` of VQA's files: their numbers of pictures are COCO's


def read_vqa(questions: Path, answers: Path, entailed: Path | None, spellings: AnswerSpellings) -> Iterator[Question]:
    """VQA v2: an answer's score follows from how many people gave it, in any spelling."""
    asked = dict(_asked(questions))
    following = {} if entailed is None else dict(_entailed(entailed))
    for entry in entries(answers, "annotations"):
        number = entry.word("question_id")
        if number not in asked:
            raise entry.refuse(f"`question_id` {number} is not among the questions of {questions}")
        names, question = asked[number]
        yield Question(
            entry.place,
            names,
            number,
            question,
            vote((inner.get("answer", str) for inner in entry.inner("answers")), spellings),
            vqa_kind(entry),
            entry.get("question_type", str),
            following.get(number, ()),
        )


def _asked(path: Path) -> Iterator[tuple[str, tuple[Names, str]]]:
    """The picture and the words of each question."""
    of_coco = any(entry.key == "data_type" and entry.value == COCO for entry in entries(path))
    for entry in entries(path, "questions"):
        names = vqa_names(entry.word("image_id"), of_coco)
        yield entry.word("question_id"), (names, entry.get("question", str))


def vqa_kind(entry: Entry) -> Kind:
    """The kind that the `answer_type` of an entry says."""
    kind = KINDS.get(entry.get("answer_type", str))
    if kind is None:
        raise entry.refuse(f"`answer_type` must be one of {', '.join(KINDS)}")
    return kind


def _entailed(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    found: dict[str, list[str]] = {}
    for entry in entries(path):
        if entry.key is None:
            raise entry.refuse("must be an object of lists: question -> questions that follow")
        found.setdefault(entry.key, []).append(str(entry.value))
    yield from ((number, tuple(others)) for number, others in found.items())


def read_gqa(path: Path) -> Iterator[Question]:
    """GQA's questions; open are those that ask for a value (structural type `query`), the others are binary.

    Without `types` the answer says which; without an answer a question has none.
    """
    for entry in entries(path):
        types = Entry(entry.place, entry.key, entry.number, entry.get("types", dict, {}))
        answer = entry.get("answer", str, "").strip().lower()
        answers = ((answer, 1.0),) if answer else ()
        structural = types.get("structural", str, "")
        kind: Kind = kind_of(answers) if not structural else "open" if structural == "query" else "binary"
        yield Question(
            entry.place,
            id_names(entry.word("imageId")),
            str(entry.key),
            entry.get("question", str),
            answers,
            kind,
            types.get("detailed", str, "") or structural or kind,
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
                id_names(str(entry.key)),
                (x / width, y / height, (x + w) / width, (y + h) / height),
                thing.get("name", str),
                tuple(("", attribute) for attribute in thing.texts("attributes")),
            )
