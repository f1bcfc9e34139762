"""Where annotations come from: the `annotations` section of catalog.yaml (docs/scenes.md explains it)."""

from collections.abc import Collection, Iterator
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mlim.config import Config


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str | dict | Path) else given


Files = Annotated[tuple[Path, ...], BeforeValidator(_as_list)]


class VqaFiles(Config):
    """Questions and answers in VQA v2's layout."""

    questions: Path
    answers: Path = Field(description="`annotations` of the same questions")
    entailed: Path | None = Field(default=None, description="question -> questions that follow from its answer")


class GenomeFiles(Config):
    """Visual Genome; sizes of pictures are in `images` (image_data.json)."""

    images: Path
    objects: Path | None = None
    attributes: Path | None = None
    regions: Path | None = Field(default=None, description="region_descriptions.json: phrases, read as captions")
    questions: Path | None = None


class LxmertFiles(Config):
    """LXMERT's files: regions of a detector with features (TSV), and texts with answers (JSON)."""

    features: Files = ()
    texts: Files = ()
    labels: Path | None = Field(default=None, description="names of the detector's classes, one a line")
    attributes: Path | None = Field(default=None, description="names of its attributes, one a line")


class AnnotationFiles(Config):
    """Files of annotations in the layouts of public data sets."""

    instances: Files = Field(default=(), description="COCO instances; with a further key `attributes` {kind: value}")
    captions: Files = Field(default=(), description="COCO captions")
    karpathy: Files = Field(default=(), description="dataset_coco.json, dataset_flickr30k.json: captions and splits")
    vqa: Annotated[tuple[VqaFiles, ...], BeforeValidator(_as_list)] = ()
    gqa_questions: Files = ()
    gqa_scene_graphs: Files = ()
    statements: Files = Field(default=(), description="NLVR2: one JSON object per line")
    genome: GenomeFiles | None = None
    lxmert: LxmertFiles | None = None
    pairs: Files = Field(default=(), description="lists of {image, caption}")


class ColumnQuestion(Config):
    """A question that a column of the table answers; the item's text is not shown with it."""

    column: str
    ask: str = Field(description="for example: what colour is it?")
    verify: str | None = Field(default=None, description="for example: is it {value}?; wrong values as often as right")


class ColumnRegions(Config):
    """One box around what differs from the colour of the picture's border, labelled by columns."""

    source: Literal["foreground"] = "foreground"
    label: str = Field(description="column that names what is in the box")
    attributes: tuple[str, ...] = ()


class AnnotationLimits(Config):
    """When an annotation, or all of them, are rejected."""

    min_box_area: float = Field(default=0.0005, ge=0, le=1, description="smaller boxes, as a share of the picture")
    max_unknown_share: float = Field(
        default=0.5, ge=0, le=1, description="of the annotations may be of pictures that the catalog does not have"
    )


class AnnotationRules(Config):
    """What is known beyond an item's text: from columns of the table, from files, or both."""

    questions: tuple[ColumnQuestion, ...] = ()
    captions: tuple[str, ...] = Field(
        default=(), description="columns, or texts with {columns}; the first is the target"
    )
    regions: ColumnRegions | None = None
    files: AnnotationFiles = AnnotationFiles()
    limits: AnnotationLimits = AnnotationLimits()
    may_tell: tuple[str, ...] = Field(
        default=(), description="columns of pairs.decided_by that may be asked, told or learned as attributes"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, in order and once each."""
        asked = [question.column for question in self.questions]
        told = [column for caption in self.captions for column in caption_columns(caption)]
        boxed = [] if self.regions is None else [self.regions.label, *self.regions.attributes]
        return tuple(dict.fromkeys((*asked, *told, *boxed)))

    def problems(self, decided_by: Collection[str]) -> Iterator[str]:
        """A sentence for each column that would teach the labels of the pairs, or a verification without a value."""
        for column in self.columns:
            if column in decided_by and column not in self.may_tell:
                yield (
                    f"`{column}` decides which pairs match (pairs.decided_by), and annotations would teach it: take it "
                    f"out of `annotations`, or say `annotations.may_tell: [{column}]`"
                )
        for question in self.questions:
            if question.verify is not None and "{value}" not in question.verify:
                yield f"annotations.questions: `verify: {question.verify}` has no {{value}} to ask about"


def caption_columns(caption: str) -> list[str]:
    """The columns that a caption is made of: those in braces, else the caption is one column's name."""
    named = [name for _, name, _, _ in Formatter().parse(caption) if name]
    return named or [caption]
