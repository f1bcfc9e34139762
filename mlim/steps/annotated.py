"""What a pre-training reads of the annotations."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlim.data.annotated import AnnotationTables
from mlim.data.objects import NO_OBJECTS, Beside, Known
from mlim.data.regions import StoredRegions
from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.recipe.answer import AnswerTask
from mlim.recipe.pretrain import Pretraining
from mlim.workspace import Workspace


def annotations_for(
    pretraining: Pretraining, workspace: Workspace, regions: StoredRegions | None = None
) -> Beside | None:
    """What its batches hold beside items; None: nothing. Captions where there are any.

    `regions` are those that its system reads. `InputError` when a task needs objects and none are annotated, or labels
    that its regions have not.
    """
    tables, tasks = AnnotationTables(workspace.annotations), pretraining.all_tasks
    labelled = regions if regions is not None and regions.facts.names.labels else None
    of_regions = [task.task for task in tasks if task.labels_regions and labelled is not None]
    objects = [task.task for task in tasks if task.reads_objects and task.task not in of_regions]
    captions = tables.has_captions and any(task.reads_captions for task in tasks)
    if objects and not tables.names.labels:
        raise InputError(
            f"{workspace.annotations}: no objects are annotated, which task {', '.join(objects)} learns from; run "
            "`mlim annotate`, or choose other tasks"
        )
    if "region-attribute" in of_regions and labelled is not None and not labelled.facts.names.attributes:
        raise InputError(
            f"the regions of source {labelled.facts.settings['source']} have no attributes, which region-attribute "
            "learns from; choose other tasks"
        )
    answers = _answers(pretraining, tables, workspace)
    if not (objects or captions or of_regions or answers):
        return None
    return Beside(tables, bool(objects), captions, labelled if of_regions else None, answers)


def _answers(pretraining: Pretraining, tables: AnnotationTables, workspace: Workspace) -> tuple[str, ...]:
    """The answers that a pre-training chooses among; none where no task is about questions."""
    asks = next((task for task in pretraining.all_tasks if isinstance(task, AnswerTask)), None)
    if asks is None:
        return ()
    if not tables.answers:
        raise InputError(
            f"{workspace.annotations}: no questions are annotated, which task answer needs; run `mlim annotate` on "
            "a catalog whose section `annotations` has questions, or choose other tasks"
        )
    return tables.answers[: asks.answers]


def known_from(beside: Beside | None, regions: StoredRegions | None) -> Known:
    """What shapes the network: what its batches call objects, the size of stored features, and which answers."""
    size = None if regions is None else regions.facts.feature_size
    answers = () if beside is None else beside.answers
    if regions is not None and beside is not None and beside.regions is not None:
        return Known(regions.facts.names, size, answers)
    return Known(beside.source.names if beside is not None and beside.objects else NO_OBJECTS, size, answers)


def hashes_of(beside: Beside | None, workspace: Workspace) -> Mapping[str, str]:
    """The content of what is read, by file."""
    if beside is None:
        return {}
    tables, files = AnnotationTables(workspace.annotations), list[Path]()
    for read, those in (
        (beside.objects, tables.object_files),
        (beside.captions, tables.caption_files),
        (beside.answers, tables.question_files),
    ):
        files += those if read else []
    return hashed(files, workspace)


def hashed(files: Iterable[Path], workspace: Workspace) -> Mapping[str, str]:
    """The content of files of the annotations, by their place in the work folder."""
    return {f"{workspace.annotations.name}/{path.name}": sha256_of(path) for path in dict.fromkeys(files)}
