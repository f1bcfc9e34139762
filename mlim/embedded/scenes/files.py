"""What is known about drawn pictures, written as the public data sets write it: the importers are the only way back.

The layouts are those of COCO (instances, captions), VQA v2 (questions, answers) and NLVR2 (statements).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlim.embedded.scenes.facts import BOX_DIGITS, Object, Scene
from mlim.embedded.scenes.questions import Asked, entails
from mlim.embedded.scenes.statements import Stated
from mlim.embedded.scenes.words import COLOUR_NAMES, NOUNS, PATTERN_NAMES

INSTANCES, CAPTIONS, QUESTIONS, ANSWERS, ENTAILED, STATEMENTS, CEILINGS = (
    *("instances.json", "captions.json", "questions.json", "answers.json", "entailed.json"),
    *("statements.jsonl", "ceilings.json"),
)
PEOPLE = 10  # answers to each question of VQA v2
ANSWER_TYPES = {"binary": "yes/no", "number": "number", "open": "other"}


class Pictured(NamedTuple):
    """One picture with what is in it: `number` identifies it in the files, `file` is its path in the images folder."""

    number: int
    file: str
    objects: Sequence[Object]


def write_instances(path: Path, pictures: Sequence[Pictured], side: int, told: Sequence[str]) -> None:
    """COCO instances with a further key `attributes`; `told` are the attributes that are written."""
    known = sorted({NOUNS[thing.product] for picture in pictures for thing in picture.objects})
    number = {name: place for place, name in enumerate(known, start=1)}
    things = [(picture, thing) for picture in pictures for thing in picture.objects]
    _write(
        path,
        {
            "images": _images(pictures, side),
            "categories": [{"id": place, "name": name, "supercategory": "product"} for name, place in number.items()],
            "annotations": [
                {"id": place, "image_id": picture.number, "category_id": number[NOUNS[thing.product]], "iscrowd": 0}
                | _box(thing, side)
                | {"attributes": {name: _attribute(thing, name) for name in told}}
                for place, (picture, thing) in enumerate(things, start=1)
            ],
        },
    )


def _attribute(thing: Object, name: str) -> str:
    spoken: Mapping[str, Mapping[str, str]] = {"colour": COLOUR_NAMES, "pattern": PATTERN_NAMES}
    value: str = getattr(thing, name)
    return spoken[name][value] if name in spoken else value


def _box(thing: Object, side: int) -> dict[str, Any]:
    x0, y0, x1, y1 = thing.box
    sizes = [round(value * side, BOX_DIGITS) for value in (x0, y0, x1 - x0, y1 - y0)]
    return {"bbox": sizes, "area": round(sizes[2] * sizes[3], BOX_DIGITS)}


def _images(pictures: Sequence[Pictured], side: int) -> list[dict[str, Any]]:
    return [{"id": picture.number, "file_name": picture.file, "width": side, "height": side} for picture in pictures]


def write_captions(path: Path, pictures: Sequence[Pictured], captions: Sequence[Sequence[str]], side: int) -> None:
    """COCO captions; those of a picture follow each other, the one that says most first."""
    told = [(picture.number, text) for picture, texts in zip(pictures, captions, strict=True) for text in texts]
    annotations = [
        {"id": place, "image_id": number, "caption": text} for place, (number, text) in enumerate(told, start=1)
    ]
    _write(path, {"images": _images(pictures, side), "annotations": annotations})


def write_questions(folder: Path, asked: Sequence[tuple[int, Asked]]) -> None:
    """VQA v2's questions and answers, whose `question_type` is the template, and which questions follow from which."""
    numbered = list(enumerate(asked, start=1))
    _write(
        folder / QUESTIONS,
        {
            "questions": [
                {"question_id": place, "image_id": number, "question": question.text}
                for place, (number, question) in numbered
            ]
        },
    )
    _write(
        folder / ANSWERS,
        {"annotations": [_answers(place, number, question) for place, (number, question) in numbered]},
    )
    _write(folder / ENTAILED, _entailed(numbered))


def _answers(place: int, number: int, question: Asked) -> dict[str, Any]:
    given = [
        {"answer_id": person, "answer": question.answer, "answer_confidence": "yes"} for person in range(1, PEOPLE + 1)
    ]
    return {
        "question_id": place,
        "image_id": number,
        "question_type": question.template.name,
        "answer_type": ANSWER_TYPES[question.template.kind],
        "multiple_choice_answer": question.answer,
        "answers": given,
    }


def _entailed(numbered: Iterable[tuple[int, tuple[int, Asked]]]) -> dict[str, list[int]]:
    of_picture: dict[int, list[tuple[int, Asked]]] = defaultdict(list)
    for place, (number, question) in numbered:
        of_picture[number].append((place, question))
    found = {
        str(place): [other for other, following in members if entails(question, following)]
        for members in of_picture.values()
        for place, question in members
    }
    return {place: others for place, others in found.items() if others}


def write_statements(path: Path, stated: Mapping[str, Sequence[Stated]], files: Mapping[int, str]) -> None:
    """NLVR2's lines; `stated` are the sentences of each split, `files` the picture of each scene."""
    with path.open("w", encoding="utf-8", newline="\n") as target:
        for split, sentences in stated.items():
            for number, sentence in enumerate(sentences):
                for pair, (left, right, truth) in enumerate(sentence.pairs):
                    line = {
                        "identifier": f"{split}-{number}-{pair}-0",
                        "sentence": sentence.text,
                        "label": str(truth),
                        "left_url": files[left.number],
                        "right_url": files[right.number],
                    }
                    target.write(f"{json.dumps(line, separators=(',', ':'))}\n")


def pictured(scene: Scene, file: str) -> Pictured:
    """A scene as the files have it."""
    return Pictured(scene.number, file, scene.objects)


def _write(path: Path, value: Any) -> None:
    path.write_text(f"{json.dumps(value, separators=(',', ':'), ensure_ascii=False)}\n", encoding="utf-8")
