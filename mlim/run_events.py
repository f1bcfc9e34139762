"""Stages as OpenLineage events (https://openlineage.io), for a catalog of data beside this project.

Its client reads the usual variables, of which one has to name where events go: OPENLINEAGE_URL, OPENLINEAGE_CONFIG or
OPENLINEAGE__TRANSPORT__TYPE with its options. Without one nothing is loaded or sent. A stage sends START, and COMPLETE,
FAIL or ABORT; a receiver that is away costs events and never a stage.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlim.errors import MlimError
from mlim.workspace import Workspace

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Job, Run

CHOSEN_BY: Final = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__TYPE")
DISABLED, NAMESPACE, PARENT = "OPENLINEAGE_DISABLED", "OPENLINEAGE_NAMESPACE", "OPENLINEAGE_PARENT_ID"
INTEGRATION: Final = "MLIM"
PRODUCER: Final = "https://pypi.org/project/mlim"
FILES: Final = "file"  # OpenLineage's namespace of paths on a machine
PLACEHOLDER: Final = "${"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class StageFiles:
    """A stage for the events: its name, what it does, what it reads and writes, and tags of its run."""

    name: str
    what: str
    reads: Sequence[Path]
    writes: Sequence[Path]
    tags: Callable[[], Mapping[str, str]]


def wanted() -> bool:
    """Whether the environment says where events go."""
    return any(os.environ.get(name) for name in CHOSEN_BY) and os.environ.get(DISABLED, "").lower() != "true"


@contextmanager
def told(stage: StageFiles, workspace: Workspace, warn: Warn) -> Iterator[None]:
    """Send the events of a stage that runs in the block; `warn` hears what keeps them from being sent."""
    sender = _Sender.create(stage, workspace, warn)
    sender.send("START")
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit)) or getattr(error, "interrupted", False)
        sender.send("ABORT" if interrupted else "FAIL", error)
        raise
    sender.send("COMPLETE")


@dataclass(frozen=True)
class _Sender:
    """Sends the events of one run; without a client none."""

    stage: StageFiles
    client: "OpenLineageClient | None"
    run: str
    workspace: Workspace
    warn: Warn

    @classmethod
    def create(cls, stage: StageFiles, workspace: Workspace, warn: Warn) -> "_Sender":
        client = None
        try:
            from openlineage.client import OpenLineageClient

            client = OpenLineageClient()
        except ImportError:
            warn("OpenLineage events are asked for and not sent: `pip install 'mlim[openlineage]'`")
        except Exception as error:
            warn(f"OpenLineage events are not sent: {error}")
        return cls(stage, client, str(uuid.uuid4()), workspace, warn)

    def send(self, kind: str, error: BaseException | None = None) -> None:
        """Send one event, if there is somebody to send it."""
        if self.client is None:
            return
        from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState

        try:
            self.client.emit(
                RunEvent(
                    eventType=RunState(kind),
                    eventTime=datetime.now(UTC).isoformat(),
                    run=self._run(error),
                    job=self._job(),
                    inputs=[InputDataset(FILES, name) for name in _names(self.stage.reads)],
                    outputs=[OutputDataset(FILES, name) for name in _names(self.stage.writes)],
                    producer=PRODUCER,
                )
            )
        except Exception as problem:  # of any transport: a stage does not fail for want of a listener
            self.warn(f"the OpenLineage event {kind} was not sent: {str(problem).splitlines()[0]}")

    def _run(self, error: BaseException | None) -> "Run":
        from openlineage.client.event_v2 import Run
        from openlineage.client.facet_v2 import error_message_run, processing_engine_run, tags_run

        tags = [tags_run.TagsRunFacetFields(key, value, INTEGRATION) for key, value in self.stage.tags().items()]
        facets: dict[str, Any] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(metadata.version("mlim"), "mlim"),
            "tags": tags_run.TagsRunFacet(tags),
            **_parent(),
        }
        if error is not None:
            message = str(error) if isinstance(error, MlimError) else f"{type(error).__name__}: {error}"
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "PYTHON")
        return Run(self.run, facets)

    def _job(self) -> "Job":
        from openlineage.client.event_v2 import Job
        from openlineage.client.facet_v2 import documentation_job, job_type_job

        facets: dict[str, Any] = {
            "jobType": job_type_job.JobTypeJobFacet("BATCH", INTEGRATION, "JOB"),
            "documentation": documentation_job.DocumentationJobFacet(self.stage.what),
        }
        return Job(os.environ.get(NAMESPACE, "mlim"), f"{self.workspace.root.name}.{self.stage.name}", facets)


def _parent() -> dict[str, Any]:
    """The run that started this one, where OPENLINEAGE_PARENT_ID names it as NAMESPACE/JOB/RUN."""
    namespace, _, rest = os.environ.get(PARENT, "").partition("/")
    job, _, run = rest.rpartition("/")
    if not (namespace and job and run):
        return {}
    from openlineage.client.facet_v2 import parent_run

    return {"parent": parent_run.ParentRunFacet(parent_run.Run(run), parent_run.Job(namespace, job))}


def _names(paths: Sequence[Path]) -> list[str]:
    """The absolute path of each data set; of the runs of one kind, the folder that holds them all."""
    return list(dict.fromkeys(str(_of_all_runs(path).absolute()) for path in paths))


def _of_all_runs(path: Path) -> Path:
    holders = [folder for folder in path.parents if PLACEHOLDER not in str(folder)]
    return holders[0] if PLACEHOLDER in str(path) else path
