"""One stage of the pipeline as a Prefect task: a subprocess with its own log file, gone when the task is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.concurrency.sync import concurrency

from flows.job import Job
from mlim.errors import InputError, MlimError
from mlim.processes import die_with_parent
from mlim.steps.plan import Stage

GPU_LIMIT = "gpu"  # the name of the server's global concurrency limit
GRACE_SECONDS = 30
QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@task(task_run_name="{stage.target}", persist_result=False)
def run_stage(job: Job, stage: Stage) -> None:
    """Run one stage (through `dvc repro` where DVC owns the results); a failure says where its log is.

    Called, not submitted: it runs in the flow's main thread, so that cancelling the flow run ends the child in seconds.
    """
    if stage not in job.todo:
        return
    log = job.workspace.logs / f"{stage.target}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if not job.quiet:
        print(f"[{stage.target}]", file=sys.stderr, flush=True)
    with _slot(stage), log.open("wb") as target, _child(job, stage) as child:
        _copy_output(child, target, echo=not job.quiet)
        code = child.wait()
    if _has_server():
        create_link_artifact(key="log-file", link=log.resolve().as_uri(), link_text=f"log of {stage.target}")
    if code != 0:
        kind = InputError if code == InputError.exit_code else MlimError
        raise kind(f"stage {stage.target} failed (exit {code}); what it said is in {_account(log)}")


def _account(log: Path) -> str:
    """Where to read what a stage said: on the terminal it was drawn there, and the file is empty."""
    return str(log) if log.stat().st_size else "the lines above"


def _has_server() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _slot(stage: Stage) -> AbstractContextManager[None]:
    """One training at a time on one accelerator, where a server counts the slots."""
    return concurrency(GPU_LIMIT, occupy=1) if stage.trains and _has_server() else nullcontext()


@contextmanager
def _child(job: Job, stage: Stage) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a stage in its own process group; the whole group is ended when the block is left early."""
    live = sys.stderr.isatty() and not job.quiet  # a person is watching: the child draws its progress bars itself
    child = subprocess.Popen(  # noqa: S603 - our own command line
        job.command(stage),
        stdout=sys.stderr if live else subprocess.PIPE,  # standard output belongs to the summary
        stderr=None if live else subprocess.STDOUT,
        preexec_fn=die_with_parent,
        process_group=0,
        env=_environment(),
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            _end_group(child)


def _environment() -> dict[str, str]:
    """Ours, quiet, with this interpreter's commands first on the path (DVC's stages call `mlim` by name)."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **QUIET, "PATH": path, "MLIM_DIE_WITH_PARENT": "1"}


def _copy_output(child: "subprocess.Popen[bytes]", log: IO[bytes], echo: bool) -> None:
    """Line by line into the log file and, with `echo`, on to our own standard error (a worker keeps that)."""
    for line in child.stdout or ():
        log.write(line)
        log.flush()
        if echo:
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
