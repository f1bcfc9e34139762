"""The stages of the pipeline as Prefect tasks: each a subprocess with its own log file, gone when the flow is.

What a stage prints is in the log of its run while it works. One that finds a server or the network away is tried again.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.children import Child, Children
from flows.job import Job
from flows.said import Said, level_of
from flows.slot import gpu_slot
from mlim.errors import UnavailableError
from mlim.processes import threads_of_each
from mlim.steps.plan import Stage, waves

RETRY_SECONDS = (10.0, 60.0)  # before the second and the third try


def run_stages(job: Job, stages: Iterable[Stage]) -> None:
    """Run stages in their order, trainings that need nothing of each other side by side as the recipe says.

    Stages run through `dvc repro` where DVC owns the results. The first failure ends those beside it and says why.
    """
    for wave in waves(stage for stage in stages if stage in job.todo):
        _run_wave(job, wave)


def _run_wave(job: Job, wave: Sequence[Stage]) -> None:
    """Threads wait for the processes: this one stays free to receive a cancellation, and ends them then."""
    at_once = min(job.recipe.compute.side_by_side, len(wave))
    threads: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(at_once)
    with _slot(wave), threads, Children() as children:
        common = {"logs": job.workspace.logs, "children": children, "quiet": job.quiet, "at_once": at_once}
        commands = [{"target": stage.target, "command": job.command(stage)} for stage in wave]
        for done in as_completed([threads.submit(run_command, {**each, **common}) for each in commands]):
            done.result()


def is_temporary(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Whether a task failed because a server or the network was away."""
    return isinstance(state.result(raise_on_failure=False), UnavailableError)


@task(
    task_run_name="{target}",
    persist_result=False,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=list(RETRY_SECONDS),
    retry_condition_fn=is_temporary,
)
def run_command(
    target: str, command: Sequence[str], logs: Path, children: Children, *, quiet: bool, at_once: int = 1
) -> None:
    """Run a command whose output goes to TARGET.log in `logs`, to the run's log and, unless `quiet`, to standard error.

    `at_once` of them share this machine's cores. `InputError`, `UnavailableError` or `MlimError` that says what the
    command said when it fails.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{target}.log"
    tell = _teller(quiet)
    if not quiet:
        print(f"[{target}]", file=sys.stderr, flush=True)
    interactive = at_once == 1 and not quiet and sys.stderr.isatty()  # the child draws its progress bars itself
    share = {} if at_once == 1 else threads_of_each(at_once)
    said = Said()
    with log.open("wb") as file, children.start(command, share, interactive) as child:
        for line in _copy_output(child, file):
            said.hear(line)
            tell(line)
        code = child.wait()
    if code != 0:
        raise said.failure(target, code, log)


def _has_server() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _slot(wave: Sequence[Stage]) -> AbstractContextManager[None]:
    """One pipeline's trainings at a time on one accelerator, where a server counts the slots."""
    return gpu_slot() if wave[0].trains and _has_server() else nullcontext()


def _copy_output(child: Child, log: IO[bytes]) -> Iterator[str]:
    """Line by line into the log file, and on to the caller."""
    for line in child.stdout or ():
        log.write(line)
        log.flush()
        yield line.decode(errors="replace").rstrip("\r\n")


def _teller(quiet: bool) -> Callable[[str], None]:
    """Where else a line goes: into the run's log, and to our own standard error unless Prefect's console is there."""
    log = get_run_logger()
    echo = not quiet and not any(handler.level <= logging.INFO for handler in logging.getLogger().handlers)

    def tell(line: str) -> None:
        if line.strip():
            log.log(level_of(line), line)
        if echo:
            with suppress(BrokenPipeError):  # of a worker that was killed: nobody reads any more
                print(line, file=sys.stderr, flush=True)

    return tell
