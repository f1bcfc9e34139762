"""What files call a picture: names that may be the id of an item, and its number in COCO.

Numbers of different data sets mean different pictures: 42 of Visual Genome is not 42 of COCO. A name says which it is.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

COCO_NAME = re.compile(r"(?:COCO_\w+_)?([0-9]{12})")


@dataclass(frozen=True)
class Names:
    """The names of one picture in one file.

    `texts` may be the id of an item, the most exact first; numbers of Visual Genome are among them, which only an
    equal id matches. `coco` is the picture's number in COCO, None where it has none. `listed` is the number that
    COCO-layout files of the same pictures give it, None where they are not asked.
    """

    texts: tuple[str, ...] = ()
    coco: int | None = None
    listed: str | None = None

    @property
    def first(self) -> str:
        """The name for a person."""
        return self.texts[0] if self.texts else str(self.listed if self.coco is None else self.coco)


def coco_number(name: str) -> int | None:
    """The number in COCO of `COCO_val2014_000000000042` or `000000000042`; None for any other name."""
    found = COCO_NAME.fullmatch(name)
    return None if found is None else int(found[1])


def id_names(*names: str) -> Names:
    """A picture that is named as an item may be: by its id, or by its name in COCO."""
    numbers = (coco_number(name) for name in names)
    return Names(_distinct(*names), next((number for number in numbers if number is not None), None))


def file_names(file: str, *others: str) -> Names:
    """A picture in a file: the stem, the path, and `others`; its number in COCO where the stem is a name of COCO."""
    stem = PurePosixPath(file).stem
    return Names(_distinct(stem, file, *others), coco_number(stem))


def vqa_names(number: str, of_coco: bool) -> Names:
    """A picture of VQA: a number of COCO, or one that COCO-layout files of the catalog give to their own pictures.

    `of_coco` says that the file itself names COCO as its source, so that no other file is asked.
    """
    if not number.isdecimal():
        return id_names(number)
    return Names(coco=int(number), listed=None if of_coco else number)


def _distinct(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
