"""The catalog of scenes as files: a table, pictures, annotations in public layouts, and their description."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlim.annotations.priors import Posed, measure_priors
from mlim.catalog.defaults import ANNOTATION_FOLDER, EMBEDDED_IMAGES, EMBEDDED_TABLE, describe_scenes
from mlim.console import Terminal
from mlim.embedded.drawing import FOLDER_DIGITS, SMALLEST_IMAGE, Order, drawn, name_of
from mlim.embedded.scenes import files
from mlim.embedded.scenes.balance import balanced
from mlim.embedded.scenes.facts import (
    COLOUR_ORDER,
    MOST_OBJECTS,
    PRODUCT_ORDER,
    SPLIT_SHARES,
    Difficulty,
    Purpose,
    Scene,
    draw_scenes,
    generator_of,
)
from mlim.embedded.scenes.questions import Asked, Draw, answer_to, ask
from mlim.embedded.scenes.statements import Stated, state, truth_of
from mlim.embedded.scenes.words import write_captions
from mlim.errors import InputError
from mlim.files import atomic_folder, check_claim, mark, write_json
from mlim.processes import processes_for

DESCRIPTION = "catalog.yaml"
COLUMNS = ("item_id", "image", "split", "caption")
SPLITS = tuple(split for split, _ in SPLIT_SHARES)
TRAIN = SPLITS[0]
TOLD = ("colour", "pattern", "material")
IN_CAPTIONS = ("colour", "pattern")
FEWEST_SCENES = 16
LEAST = 2  # products, colours
CEILING_DIGITS = 3


class Drawn(NamedTuple):
    """All scenes with what is said about them; `asked` holds the scene's number with each question."""

    scenes: Sequence[Scene]
    files: Sequence[str]
    captions: Sequence[Sequence[str]]
    asked: Sequence[tuple[int, Asked]]
    stated: dict[str, list[Stated]]


def synthesize_scenes(
    out: Path, items: int, seed: int, image_size: int, workers: int, terminal: Terminal, difficulty: Difficulty
) -> None:
    """Write the catalog of scenes to the folder `out` (all or nothing): table, images/, annotations/, catalog.yaml.

    Equal arguments (`image_size` in pixels) give equal bytes, whatever the number of `workers` (processes).
    Raises `InputError` for impossible numbers and for a folder that holds something that mlim did not make.
    """
    _check(out, items, image_size, workers, difficulty)
    with atomic_folder(out) as folder:
        mark(folder)
        made = plan_scenes(items, seed, difficulty)
        orders = [
            Order(folder / EMBEDDED_IMAGES / file, scene.looks, image_size)
            for scene, file in zip(made.scenes, made.files, strict=True)
        ]
        with terminal.progress("drawing pictures", items) as bar:
            for _ in drawn(orders, workers):
                bar.advance()
        _write_table(folder / EMBEDDED_TABLE, made)
        _write_annotations(folder / ANNOTATION_FOLDER, made, image_size)
        text = yaml.safe_dump(describe_scenes(), sort_keys=False)
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def plan_scenes(items: int, seed: int, difficulty: Difficulty) -> Drawn:
    """Everything but the pictures; questions and statements are balanced within each split."""
    scenes = list(draw_scenes(items, seed, difficulty))
    digits = [name_of("scene", seed, scene.number, *difficulty) for scene in scenes]
    return Drawn(
        scenes,
        [f"{name[:FOLDER_DIGITS]}/s{name}.jpg" for name in digits],
        [_captions(scene, seed) for scene in scenes],
        [
            question
            for part, split in enumerate(SPLITS)
            for question in _questions(scenes, split, part, seed, difficulty)
        ],
        {
            split: list(state([scene for scene in scenes if scene.split == split], seed, part, difficulty))
            for part, split in enumerate(SPLITS)
        },
    )


def _captions(scene: Scene, seed: int) -> list[str]:
    return write_captions(scene.objects, generator_of(seed, scene.number, 0, Purpose.CAPTIONS), IN_CAPTIONS)


def _questions(
    scenes: Sequence[Scene], split: str, part: int, seed: int, difficulty: Difficulty
) -> list[tuple[int, Asked]]:
    asked = [
        (scene.number, question)
        for scene in scenes
        if scene.split == split
        for question in ask(
            scene.objects, Draw(difficulty, generator_of(seed, scene.number, 0, Purpose.QUESTIONS)), TOLD
        )
    ]
    return balanced(asked, seed, part)


def measure_ceilings(made: Drawn) -> dict[str, Any]:
    """On the test split, the share right of readers of the words alone, and of one who sees the facts.

    The readers of words learn from the train split (`mlim.annotations.priors`); the one of facts gets the sentence as
    text, and the values and boxes that are written.
    """
    split_of = {scene.number: scene.split for scene in made.scenes}
    objects = {scene.number: scene.objects for scene in made.scenes}
    posed = {split: [question for question in made.asked if split_of[question[0]] == split] for split in SPLITS}
    priors = measure_priors(map(_posed, posed[TRAIN]), [_posed(question) for question in posed[SPLITS[-1]]])
    right = [answer_to(asked.text, objects[number]) == asked.answer for number, asked in posed[SPLITS[-1]]]
    truths = [
        truth_of(sentence.text, left.objects, right.objects) is truth
        for sentence in made.stated[SPLITS[-1]]
        for left, right, truth in sentence.pairs
    ]
    return {
        "judged_on": SPLITS[-1],
        "questions": {
            key: {"questions": prior.questions, "majority": _rounded(prior.majority), "words": _rounded(prior.words)}
            for key, prior in priors.items()
        },
        "questions_facts": _share(right),
        "statements": {"count": len(truths), "words": 0.5, "facts": _share(truths)},  # two of four pairs are true
    }


def _posed(question: tuple[int, Asked]) -> Posed:
    asked = question[1]
    return Posed(asked.template.kind, asked.template.name, asked.text, {asked.answer: 1.0})


def _share(right: Sequence[bool]) -> float | None:
    return _rounded(sum(right) / len(right)) if right else None


def _rounded(share: float) -> float:
    return round(share, CEILING_DIGITS)


def _write_table(path: Path, made: Drawn) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        for scene, file, captions in zip(made.scenes, made.files, made.captions, strict=True):
            writer.writerow((Path(file).stem, file, scene.split, captions[0]))


def _write_annotations(folder: Path, made: Drawn, side: int) -> None:
    folder.mkdir()
    pictures = [files.pictured(scene, file) for scene, file in zip(made.scenes, made.files, strict=True)]
    files.write_instances(folder / files.INSTANCES, pictures, side, TOLD)
    files.write_captions(folder / files.CAPTIONS, pictures, made.captions, side)
    files.write_questions(folder, made.asked)
    files.write_statements(
        folder / files.STATEMENTS, made.stated, {picture.number: picture.file for picture in pictures}
    )
    write_json(folder / files.CEILINGS, measure_ceilings(made))


def _check(out: Path, items: int, image_size: int, workers: int, difficulty: Difficulty) -> None:
    processes_for(workers, "workers")
    ranges = (
        ("items", items, FEWEST_SCENES, None),
        ("image size", image_size, SMALLEST_IMAGE, None),
        ("products", difficulty.products, LEAST, len(PRODUCT_ORDER)),
        ("colours", difficulty.colours, LEAST, len(COLOUR_ORDER)),
        ("most", difficulty.most, 1, MOST_OBJECTS),
    )
    problems = [
        f"{name} is {value}, but must be at least {least}" + (f" and at most {most}" if most else "")
        for name, value, least, most in ranges
        if value < least or (most is not None and value > most)
    ]
    try:
        check_claim(out, str(out))
    except InputError as problem:
        problems += problem.problems
    if problems:
        raise InputError(*problems)
