"""What is known about the pictures of the item catalog, beside it in the layouts of the public data sets.

Pattern and size decide which items match, so neither is told, asked or named as an attribute. Which split an item comes
to is drawn later, by family: statements compare pictures of one family, and stay in one split.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from mlim.embedded.families import Draw, generator_for
from mlim.embedded.generate import Item
from mlim.embedded.palette import COLOURS
from mlim.embedded.scenes import files, questions
from mlim.embedded.scenes.balance import balanced
from mlim.embedded.scenes.facts import PRODUCT_ORDER, Difficulty, Scene, seen_object
from mlim.embedded.scenes.questions import Asked, ask, say
from mlim.embedded.scenes.statements import SAYINGS, Stated, find_pairs
from mlim.embedded.scenes.words import write_captions

TOLD: Final = ("colour", "material")
IN_CAPTIONS: Final = ("colour",)
ONE: Final = Difficulty(len(PRODUCT_ORDER), len(COLOURS), 1)  # product in a picture, of all
WHOLE: Final = "items"  # in the place of a split in identifiers of statements
BOTH: Final = "2"  # of two pictures


def write_annotations(folder: Path, items: Sequence[Item], seed: int, side: int) -> None:
    """Write boxes, captions, questions, answers and statements about `items` into the new folder `folder`.

    `side` is that of the pictures in pixels. Equal arguments give equal bytes.
    """
    folder.mkdir()
    scenes = [_scene(number, item) for number, item in enumerate(items, start=1)]
    pictures = [files.pictured(scene, item.row["image"]) for scene, item in zip(scenes, items, strict=True)]
    captions = [
        write_captions(scene.objects, _generator(seed, item, Draw.CAPTIONS), IN_CAPTIONS)
        for scene, item in zip(scenes, items, strict=True)
    ]
    files.write_instances(folder / files.INSTANCES, pictures, side, TOLD)
    files.write_captions(folder / files.CAPTIONS, pictures, captions, side)
    files.write_questions(folder, _questions(scenes, items, seed))
    stated = {WHOLE: list(_statements(scenes, items, seed))}
    files.write_statements(folder / files.STATEMENTS, stated, {picture.number: picture.file for picture in pictures})


def _scene(number: int, item: Item) -> Scene:
    """An item's picture as a scene of one product."""
    member = item.member
    return Scene(number, WHOLE, (seen_object(item.look, member.colour, member.family.material),), (item.look,))


def _generator(seed: int, item: Item, draw: Draw) -> np.random.Generator:
    return generator_for(seed, item.member.family.number, item.member.number, draw)


def _questions(scenes: Sequence[Scene], items: Sequence[Item], seed: int) -> list[tuple[int, Asked]]:
    """Balanced over all items, without templates that have one answer, as how many products there are."""
    asked = [
        (scene.number, question)
        for scene, item in zip(scenes, items, strict=True)
        for question in ask(scene.objects, questions.Draw(ONE, _generator(seed, item, Draw.QUESTIONS)), TOLD)
    ]
    kept, answers = balanced(asked, seed, 0), defaultdict[str, set[str]](set)
    for _, question in kept:
        answers[question.template.name].add(question.answer)
    return [(number, question) for number, question in kept if len(answers[question.template.name]) > 1]


def _statements(scenes: Sequence[Scene], items: Sequence[Item], seed: int) -> Iterator[Stated]:
    """Sentences about the colours of each family, true of as many of its pairs of pictures as not."""
    known = sorted(zip(scenes, items, strict=True), key=lambda both: both[1].member.family.number)
    for family, members in groupby(known, key=lambda both: both[1].member.family):
        mine = [scene for scene, _ in members]
        generator = generator_for(seed, family.number, 0, Draw.STATEMENTS)
        for saying in SAYINGS:
            if "colour" not in saying.fields:
                continue
            for colour in sorted({scene.objects[0].colour for scene in mine}):
                values = {"colour": colour, "product": family.product, "number": BOTH}
                fields = {name: values[name] for name in saying.fields}
                if pairs := find_pairs(saying, fields, mine, generator):
                    yield Stated(say(saying.words, fields), pairs)
