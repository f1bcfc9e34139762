"""What every pre-training task says of itself in a recipe."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from mlim.config import Config
from mlim.recipe.base import AnnotationTable

Reading = Literal["tokens", "pictures", "agreement", "vectors", "objects", "writing", "regions", "answers"]
"""What a system may offer: to predict hidden tokens, to reconstruct its picture, to match text and picture ..."""


class TaskConfig(Config):
    """What every pre-training task has."""

    weight: NonNegativeFloat | None = Field(
        default=None, description="of its loss in the total; null: that of `pretrain.weights`, else 1"
    )
    title: ClassVar[str]
    needs: ClassVar[Reading]
    hides: ClassVar[bool] = True  # is about what masking hides
    exchanges: ClassVar[bool] = False  # wants pictures of other items
    hides_regions: ClassVar[bool] = False  # hides regions of pictures, at a rate of their own
    needs_whole_batch: ClassVar[bool] = False  # its loss changes when a batch is cut
    reads_objects: ClassVar[bool] = False  # of the annotations
    labels_regions: ClassVar[bool] = False  # reads them of stored regions instead, where these have labels
    reads_questions: ClassVar[bool] = False  # of the annotations
    reads_captions: ClassVar[bool] = False  # of the annotations, where there are any

    @property
    def tables(self) -> tuple[AnnotationTable, ...]:
        """What it reads of the annotations."""
        wanted: dict[AnnotationTable, bool] = {
            "regions": self.reads_objects,
            "questions": self.reads_questions,
            "captions": self.reads_captions,
        }
        return tuple(table for table, reads in wanted.items() if reads)

    @property
    def also_saw(self) -> tuple[str, ...]:
        """What it learns from beside the items' texts and pictures."""
        return ()

    @property
    def losses(self) -> Mapping[str, float]:
        """Its losses by name, each with its weight beside the others; most tasks have one."""
        return {type(self).name(): 1.0}

    @classmethod
    def name(cls) -> str:
        """What it is called in recipes."""
        return str(cls.model_fields["task"].default)

    @classmethod
    def titles(cls) -> Mapping[str, str]:
        """What its losses are called in figures."""
        return {cls.name(): cls.title}
