"""What a pre-training reads of the annotations."""

from collections.abc import Mapping

from mlim.data.annotated import AnnotationTables
from mlim.data.objects import NO_OBJECTS, Beside, ObjectNames
from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.recipe.pretrain import Pretraining
from mlim.workspace import Workspace


def annotations_for(pretraining: Pretraining, workspace: Workspace) -> Beside | None:
    """What its batches hold beside items; None: nothing. Captions where there are any.

    `InputError` when a task needs objects and none are annotated.
    """
    tables = AnnotationTables(workspace.annotations)
    objects = [task.task for task in pretraining.all_tasks if task.reads_objects]
    captions = tables.has_captions and any(task.reads_captions for task in pretraining.all_tasks)
    if objects and not tables.names.labels:
        raise InputError(
            f"{workspace.annotations}: no objects are annotated, which task {', '.join(objects)} learns from; run "
            "`mlim annotate`, or choose other tasks"
        )
    return Beside(tables, bool(objects), captions) if objects or captions else None


def names_in(beside: Beside | None) -> ObjectNames:
    """What the objects in batches are called."""
    return beside.source.names if beside is not None and beside.objects else NO_OBJECTS


def hashes_of(beside: Beside | None, workspace: Workspace) -> Mapping[str, str]:
    """The content of what is read, by file."""
    files = [] if beside is None else AnnotationTables(workspace.annotations).files
    return {f"{workspace.annotations.name}/{path.name}": sha256_of(path) for path in files}
