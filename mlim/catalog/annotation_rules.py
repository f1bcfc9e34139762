"""Where annotations come from: the `annotations` section of catalog.yaml (docs/scenes.md explains it)."""

from collections.abc import Collection, Iterator
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from mlim.config import Config


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str | dict | Path) else given


def _as_caption(given: str) -> str:
    """`ValueError` for braces that do not hold the name of a column."""
    try:
        parts = list(Formatter().parse(given))
    except ValueError as error:
        raise ValueError(f"`{given}`: {error}; write {{{{ and }}}} for braces of the text itself") from None
    if any(name is not None and (not name or form or conversion) for _, name, form, conversion in parts):
        raise ValueError(f"`{given}`: between braces stands the name of a column and nothing else")
    return given


def _as_verification(given: str) -> str:
    """`ValueError` without a value to ask about, or with braces around something else."""
    if "{value}" not in given:
        raise ValueError(f"`{given}` has no {{value}} to ask about")
    if "{" in given.replace("{value}", ""):
        raise ValueError(f"`{given}`: {{value}} is all that can stand between braces")
    return given


Caption = Annotated[str, AfterValidator(_as_caption)]
Verification = Annotated[str, AfterValidator(_as_verification)]
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
    boxes: bool = Field(
        default=False, description="read the boxes of `features`, which a detector predicted, as annotated ones, too"
    )
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
    verify: Verification | None = Field(
        default=None, description="for example: is it {value}?; wrong values as often as right"
    )


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
    labels: PositiveInt | None = Field(
        default=None, description="labels of boxes, the most frequent ones of the train split; null: all"
    )
    attributes: PositiveInt | None = Field(
        default=None, description="attributes of each kind, the most frequent ones of the train split; null: all"
    )


class AnnotationRules(Config):
    """What is known beyond an item's text: from columns of the table, from files, or both."""

    questions: tuple[ColumnQuestion, ...] = ()
    captions: tuple[Caption, ...] = Field(
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
        told = [column for caption in self.captions for _, column in caption_parts(caption) if column]
        asked = [question.column for question in self.questions]
        return tuple(dict.fromkeys((*asked, *told, *self.compared)))

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns of which the value matters, not how it is written: those asked about, and those of boxes."""
        asked = [question.column for question in self.questions]
        boxed = [] if self.regions is None else [self.regions.label, *self.regions.attributes]
        return tuple(dict.fromkeys((*asked, *boxed)))

    def problems(self, decided_by: Collection[str]) -> Iterator[str]:
        """A sentence for each column that would teach the labels of the pairs."""
        for column in self.columns:
            if column in decided_by and column not in self.may_tell:
                yield (
                    f"`{column}` decides which pairs match (pairs.decided_by), and annotations would teach it: take it "
                    f"out of `annotations`, or say `annotations.may_tell: [{column}]`"
                )


def caption_parts(caption: str) -> list[tuple[str, str | None]]:
    """What a caption is made of, in order: words, and the column after them; without braces it is a column's name."""
    parts = [(words, column) for words, column, _, _ in Formatter().parse(caption)]
    return parts if any(column for _, column in parts) else [("", caption)]
