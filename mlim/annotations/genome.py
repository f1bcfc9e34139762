"""Visual Genome (Krishna et al., 2017): objects, attributes, phrases of regions, questions."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from sys import intern

from mlim.annotations.answers import AnswerSpellings
from mlim.annotations.json_stream import Entry, entries
from mlim.annotations.names import Names
from mlim.annotations.records import Annotation, Attribute, Caption, Question, Region, kind_of
from mlim.catalog.annotation_rules import GenomeFiles

Sizes = Mapping[str, tuple[Names, float, float]]  # picture -> its names, width, height


def read_genome(files: GenomeFiles, spellings: AnswerSpellings) -> Iterator[Annotation]:
    """All that the files hold; a region's phrase is read as a caption.

    A picture is found by its number or the name of its file alone: these numbers are not COCO's.
    """
    sizes = {_picture(entry): _size(entry) for entry in entries(files.images)}
    attributes = {} if files.attributes is None else dict(_attributes(files.attributes))
    if files.objects is not None:
        yield from _objects(files.objects, sizes, attributes)
    if files.regions is not None:
        for picture, region in _members(files.regions, "regions"):
            names = _known(region, sizes, picture)[0]
            yield Caption(region.place, names, region.word("region_id"), region.get("phrase", str))
    if files.questions is not None:
        for picture, asked in _members(files.questions, "qas"):
            yield _question(asked, _known(asked, sizes, picture)[0], spellings)


def _picture(entry: Entry) -> str:
    return entry.word("image_id", "id")


def _size(entry: Entry) -> tuple[Names, float, float]:
    width, height = entry.get("width", float), entry.get("height", float)
    if width <= 0 or height <= 0:
        raise entry.refuse("`width` and `height` must be above 0")
    number, file = _picture(entry), PurePosixPath(entry.get("url", str, "")).name
    return Names((number, file) if file else (number,)), width, height


def _members(path: Path, name: str) -> Iterator[tuple[str, Entry]]:
    for entry in entries(path):
        for inner in entry.inner(name):
            yield _picture(entry), inner


def _known(entry: Entry, sizes: Sizes, picture: str) -> tuple[Names, float, float]:
    if picture not in sizes:
        raise entry.refuse(f"picture {picture} is not in image_data.json")
    return sizes[picture]


def _attributes(path: Path) -> Iterator[tuple[str, tuple[Attribute, ...]]]:
    """Those of the objects that have any, by object; one value is held once for all objects."""
    known: dict[tuple[Attribute, ...], tuple[Attribute, ...]] = {}
    for _, thing in _members(path, "attributes"):
        found = tuple(("", intern(value.strip().lower())) for value in thing.texts("attributes"))
        if found:
            yield thing.word("object_id"), known.setdefault(found, found)


def _objects(path: Path, sizes: Sizes, attributes: Mapping[str, tuple[Attribute, ...]]) -> Iterator[Region]:
    for picture, thing in _members(path, "objects"):
        names, width, height = _known(thing, sizes, picture)
        x, y, w, h = (thing.get(side, float) for side in ("x", "y", "w", "h"))
        label = next(iter(thing.texts("names")), "").strip().lower()
        box = (x / width, y / height, (x + w) / width, (y + h) / height)
        yield Region(thing.place, names, box, label, attributes.get(thing.word("object_id"), ()))


def _question(entry: Entry, names: Names, spellings: AnswerSpellings) -> Question:
    answer = spellings.of(entry.get("answer", str, ""))
    answers = ((answer, 1.0),) if answer else ()
    asked = entry.get("question", str)
    return Question(
        entry.place, names, entry.word("qa_id"), asked, answers, kind_of(answers), asked.split(" ")[0].lower()
    )
