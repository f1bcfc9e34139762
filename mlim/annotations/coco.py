"""COCO: instances, captions (Lin et al., 2014), and the splits of Karpathy and Fei-Fei (2015)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mlim.annotations.json_stream import Entry, entries
from mlim.annotations.names import Names, file_names
from mlim.annotations.records import Attribute, Caption, Region

SIDES = 4


class _Picture(NamedTuple):
    names: Names
    width: float
    height: float


def image_names(entry: Entry) -> Names:
    """The names of an entry of `images`.

    Its `id`, where it is a number, is not the id of an item: files of other pictures number theirs from 1, too. It is
    COCO's number when `file_name` says so.
    """
    name = entry.word("id")
    return file_names(entry.get("file_name", str), *(() if name.isdecimal() else (name,)))


def read_instances(path: Path) -> Iterator[Region]:
    """Boxes with classes, and attributes where the file has the further key `attributes: {kind: value}`."""
    pictures, classes = dict[str, _Picture](), dict[str, str]()
    for entry in entries(path):  # the classes come last in COCO's files, so they are read twice
        if entry.key == "images":
            size = (_positive(entry, "width"), _positive(entry, "height"))
            pictures[entry.word("id")] = _Picture(image_names(entry), *size)
        elif entry.key == "categories":
            classes[entry.word("id")] = entry.get("name", str)
    for entry in entries(path, "annotations"):
        yield _region(entry, pictures, classes)


def _region(entry: Entry, pictures: Mapping[str, _Picture], classes: Mapping[str, str]) -> Region:
    picture, label = pictures.get(entry.word("image_id")), classes.get(entry.word("category_id"))
    if picture is None:
        raise entry.refuse(f"`image_id` {entry.word('image_id')} is not among `images`")
    if label is None:
        raise entry.refuse(f"`category_id` {entry.word('category_id')} is not among `categories`")
    sides = [float(entry.check("bbox", side, float)) for side in entry.get("bbox", list)]
    if len(sides) != SIDES:
        raise entry.refuse(f"`bbox` must be x, y, width, height in pixels, it has {len(sides)} numbers")
    x, y, width, height = sides
    box = (x / picture.width, y / picture.height, (x + width) / picture.width, (y + height) / picture.height)
    crowd = bool(entry.get("iscrowd", int, 0))
    return Region(entry.place, picture.names, box, label, tuple(_attributes(entry)), crowd=crowd)


def _attributes(entry: Entry) -> Iterator[Attribute]:
    given: dict[str, Any] = entry.get("attributes", dict, {})
    for kind, value in given.items():
        yield kind, entry.check(f"attributes.{kind}", value, str)


def _positive(entry: Entry, name: str) -> float:
    size = entry.get(name, float)
    if size <= 0:
        raise entry.refuse(f"`{name}` must be above 0, it is {size:g}")
    return size


def read_captions(path: Path) -> Iterator[Caption]:
    """Captions of pictures."""
    names = {entry.word("id"): image_names(entry) for entry in entries(path, "images")}
    for entry in entries(path, "annotations"):
        number = entry.word("image_id")
        if number not in names:
            raise entry.refuse(f"`image_id` {number} is not among `images`")
        yield Caption(entry.place, names[number], entry.word("id"), entry.get("caption", str))


def read_karpathy(path: Path) -> Iterator[Caption]:
    """The captions of dataset_coco.json or dataset_flickr30k.json."""
    for entry in entries(path, "images"):
        for sentence in entry.inner("sentences"):
            yield Caption(entry.place, _karpathy_names(entry), sentence.word("sentid"), sentence.get("raw", str))


def read_karpathy_splits(path: Path) -> Iterator[tuple[Names, str]]:
    """The names and the split of each picture: train, restval, val or test."""
    for entry in entries(path, "images"):
        yield _karpathy_names(entry), entry.get("split", str)


def _karpathy_names(entry: Entry) -> Names:
    names = file_names(entry.get("filename", str))
    return replace(names, coco=entry.get("cocoid", int)) if entry.has("cocoid") else names
