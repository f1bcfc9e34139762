"""All annotation files of a catalog, one after the other."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from mlim.annotations.answers import AnswerSpellings
from mlim.annotations.coco import image_names, read_captions, read_instances, read_karpathy
from mlim.annotations.genome import read_genome
from mlim.annotations.json_stream import entries
from mlim.annotations.lxmert import read_regions, read_texts
from mlim.annotations.names import file_names
from mlim.annotations.questions import read_gqa, read_scene_graphs, read_vqa
from mlim.annotations.records import Annotation, Caption, Region
from mlim.annotations.statements import read_nlvr2
from mlim.catalog.annotation_rules import AnnotationFiles, GenomeFiles, LxmertFiles

Reader = tuple[Sequence[Path], Callable[[Path], Iterator[Annotation]]]


def read_files(files: AnnotationFiles) -> Iterator[Annotation]:
    """What the files hold, streamed; `InputError` names file and line of what has another layout."""
    simple: tuple[Reader, ...] = (
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
    spellings = AnswerSpellings()
    for vqa in files.vqa:
        yield from read_vqa(vqa.questions, vqa.answers, vqa.entailed, spellings)
    if files.genome is not None:
        yield from read_genome(files.genome, spellings)
    if files.lxmert is not None:
        yield from _read_lxmert(files.lxmert)


def read_boxes(files: AnnotationFiles) -> Iterator[Region]:
    """Only the boxes that the files hold, which makes a second reading of them short."""
    genome, lxmert = files.genome, files.lxmert
    boxed = AnnotationFiles(
        instances=files.instances,
        gqa_scene_graphs=files.gqa_scene_graphs,
        genome=None if genome is None else GenomeFiles(images=genome.images, objects=genome.objects),
        lxmert=None if lxmert is None else lxmert.model_copy(update={"texts": ()}),
    )
    return (found for found in read_files(boxed) if isinstance(found, Region))


def _read_lxmert(files: LxmertFiles) -> Iterator[Annotation]:
    """Texts, and of `features` the boxes where they are taken for annotations: a detector predicted them."""
    for path in files.features if files.boxes else ():
        yield from read_regions(path, files.labels, files.attributes)
    yield from chain.from_iterable(map(read_texts, files.texts))


def read_pairs(path: Path) -> Iterator[Caption]:
    """A list of {image, caption}; the caption is a text or a list of texts."""
    for entry in entries(path):
        given = entry.value.get("caption") if isinstance(entry.value, dict) else None
        texts = entry.texts("caption") if isinstance(given, list) else [entry.get("caption", str)]
        for number, text in enumerate(texts):
            name = f"{path.name}-{entry.number}-{number}"  # of the file, too: another one has captions of its own
            yield Caption(entry.place, file_names(entry.get("image", str)), name, text)


def picture_numbers(files: AnnotationFiles) -> dict[str, tuple[str, ...]]:
    """The names of pictures by the number that VQA's questions give: from COCO-layout files of the same pictures.

    Pictures that have a number of COCO are found by it and left out.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for path in (*files.instances, *files.captions) if files.vqa else ():
        for entry in entries(path, "images"):
            names = image_names(entry)
            if names.coco is None:
                found[entry.word("id")].update(names.texts)
    return {number: tuple(sorted(names)) for number, names in found.items()}
