"""The stages of the pipeline as Prefect tasks: each a subprocess with its own log file, gone when the flow is."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.concurrency.sync import concurrency
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.children import Child, Children
from flows.job import Job
from mlim.errors import InputError, MlimError
from mlim.processes import threads_of_each
from mlim.steps.plan import Stage, waves

GPU_LIMIT = "gpu"  # the name of the server's global concurrency limit


def run_stages(job: Job, stages: Iterable[Stage]) -> None:
    """Run stages in their order, trainings that need nothing of each other side by side as the recipe says.

    Stages run through `dvc repro` where DVC owns the results. The first failure ends those beside it and says where
    its log is.
    """
    for wave in waves(stage for stage in stages if stage in job.todo):
        _run_wave(job, wave)


def _run_wave(job: Job, wave: Sequence[Stage]) -> None:
    """Threads wait for the processes: this one stays free to receive a cancellation, and ends them then."""
    at_once = min(job.recipe.compute.side_by_side, len(wave))
    threads: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(at_once)
    with _slot(wave), threads, Children() as children:
        common = {"job": job, "children": children, "at_once": at_once}
        for done in as_completed([threads.submit(run_stage, {"stage": stage, **common}) for stage in wave]):
            done.result()


@task(task_run_name="{stage.target}", persist_result=False)
def run_stage(job: Job, stage: Stage, children: Children, at_once: int) -> None:
    """Run one stage, `at_once` of which share this machine's cores; a failure says where its log is."""
    run_command(stage.target, job.command(stage), job.workspace.logs, children, quiet=job.quiet, at_once=at_once)


def run_command(
    target: str, command: Sequence[str], logs: Path, children: Children, *, quiet: bool, at_once: int = 1
) -> None:
    """Run a command whose output goes to TARGET.log in `logs` and, unless `quiet`, to standard error too.

    `at_once` of them share this machine's cores. `InputError` or `MlimError` that names the log when it fails.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{target}.log"
    if not quiet:
        print(f"[{target}]", file=sys.stderr, flush=True)
    interactive = at_once == 1 and not quiet and sys.stderr.isatty()  # the child draws its progress bars itself
    share = {} if at_once == 1 else threads_of_each(at_once)
    with log.open("wb") as file, children.start(command, share, interactive) as child:
        _copy_output(child, file, echo=not quiet)
        code = child.wait()
    if _has_server():
        create_link_artifact(key="log-file", link=log.resolve().as_uri(), link_text=f"log of {target}")
    if code != 0:
        kind = InputError if code == InputError.exit_code else MlimError
        raise kind(f"stage {target} failed (exit {code}); what it said is in {_account(log)}")


def _account(log: Path) -> str:
    """Where to read what a stage said: on the terminal it was drawn there, and the file is empty."""
    return str(log) if log.stat().st_size else "the lines above"


def _has_server() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _slot(wave: Sequence[Stage]) -> AbstractContextManager[None]:
    """One pipeline's trainings at a time on one accelerator, where a server counts the slots."""
    return concurrency(GPU_LIMIT, occupy=1) if wave[0].trains and _has_server() else nullcontext()


def _copy_output(child: Child, log: IO[bytes], echo: bool) -> None:
    """Line by line into the log file and, with `echo`, on to our own standard error (a worker keeps that)."""
    for line in child.stdout or ():
        log.write(line)
        log.flush()
        if echo:
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()
