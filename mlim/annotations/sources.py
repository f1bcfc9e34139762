"""All annotation files of a catalog, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from mlim.annotations.coco import names_of, read_captions, read_instances, read_karpathy
from mlim.annotations.genome import read_genome
from mlim.annotations.json_stream import entries
from mlim.annotations.lxmert import read_regions, read_texts
from mlim.annotations.questions import read_gqa, read_scene_graphs, read_vqa
from mlim.annotations.records import Annotation, Caption
from mlim.annotations.statements import read_nlvr2
from mlim.catalog.annotation_rules import AnnotationFiles, LxmertFiles


def read_files(files: AnnotationFiles) -> Iterator[Annotation]:
    """What the files hold, streamed; `InputError` names file and line of what has another layout."""
    simple: tuple[tuple[Sequence[Path], Callable[[Path], Iterator[Annotation]]], ...] = (
        (files.instances, read_instances),
        (files.captions, read_captions),
        (files.karpathy, read_karpathy),
        (files.gqa_questions, read_gqa),
        (files.gqa_scene_graphs, read_scene_graphs),
        (files.statements, read_nlvr2),
        (files.pairs, read_pairs),
    )
    for paths, read in simple:
        yield from chain.from_iterable(map(read, paths))
    for vqa in files.vqa:
        yield from read_vqa(vqa.questions, vqa.answers, vqa.entailed)
    if files.genome is not None:
        yield from read_genome(files.genome)
    if files.lxmert is not None:
        yield from _read_lxmert(files.lxmert)


def _read_lxmert(files: LxmertFiles) -> Iterator[Annotation]:
    for path in files.features:
        yield from read_regions(path, files.labels, files.attributes)
    yield from chain.from_iterable(map(read_texts, files.texts))


def read_pairs(path: Path) -> Iterator[Caption]:
    """A list of {image, caption}; the caption is a text or a list of texts."""
    for entry in entries(path):
        given = entry.value.get("caption") if isinstance(entry.value, dict) else None
        texts = entry.texts("caption") if isinstance(given, list) else [entry.get("caption", str)]
        for number, text in enumerate(texts):
            yield Caption(entry.place, names_of(entry.get("image", str)), f"{entry.number}-{number}", text)


def picture_numbers(files: AnnotationFiles) -> dict[str, tuple[str, ...]]:
    """The names of pictures by the number that VQA's questions give: from COCO's files of the same pictures."""
    if not files.vqa:
        return {}
    return {
        entry.word("id"): names_of(entry.get("file_name", str))
        for path in (*files.instances, *files.captions)
        for entry in entries(path, "images")
    }
