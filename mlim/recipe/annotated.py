"""Which recipes are about annotations: their trainings read them, and their tokenizers learn the texts in them.

What a recipe declares counts, even if no variant uses it: so its parts that are trained by themselves, as the runs of
experiments are, have the tokens of the whole.
"""

from collections.abc import Iterable, Iterator

from mlim.recipe.base import AnnotationTable
from mlim.recipe.image_sides import ANNOTATED
from mlim.recipe.pretrain import Pretraining
from mlim.recipe.systems import SystemConfig, region_side
from mlim.recipe.tasks import TasksConfig


def tables_read(
    tasks: TasksConfig, pretrainings: Iterable[Pretraining], systems: Iterable[SystemConfig]
) -> frozenset[AnnotationTable]:
    """The tables of annotations that tasks and systems of a recipe read; captions where there are any."""
    return frozenset((*_asked(tasks), *_taught(pretrainings), *_shown(systems)))


def _asked(tasks: TasksConfig) -> Iterator[AnnotationTable]:
    yield from (section.table for _, section in tasks if section is not None and section.table is not None)


def _taught(pretrainings: Iterable[Pretraining]) -> Iterator[AnnotationTable]:
    yield from (table for each in pretrainings for task in each.all_tasks for table in task.tables)


def _shown(systems: Iterable[SystemConfig]) -> Iterator[AnnotationTable]:
    sides = map(region_side, systems)
    if any(side is not None and side.source == ANNOTATED for side in sides):
        yield "regions"
