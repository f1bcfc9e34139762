"""The stages of the pipeline as Prefect tasks: each a subprocess with its own log file, gone when the flow is.

What a stage prints is in the log of its run while it works. One that finds a server or the network away is tried again.
"""

import fcntl
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show
from flows.children import Child, Children
from flows.job import Job
from flows.said import Said, level_of
from flows.slot import gpu_slot
from mlim.errors import UnavailableError
from mlim.processes import threads_of_each
from mlim.steps.at_once import trainings_at_once
from mlim.steps.order import companions, needs
from mlim.steps.plan import MAIN_PIPELINE, MATCHING, Stage

RETRY_SECONDS = (10.0, 60.0)  # before the second and the third try
MANY = 4  # stages: loading the libraries once for all costs less than loading them for each


def run_stages(job: Job, stages: Iterable[Stage], then: Callable[[], None] = lambda: None) -> None:
    """Run stages, those that need nothing of each other side by side as the recipe says: first what is about the main
    model, else in their order.

    Stages run through `dvc repro` where DVC owns the results. The first failure ends those beside it and says why.
    After each stage its artifact is shown, and `then` is called.
    """
    ordered = list(stages)
    needed = needs(job.recipe, job.workspace, replace(MAIN_PIPELINE, catalog=job.catalog, matches=job.matches), ordered)
    beside, most = companions(needed), trainings_at_once(job.recipe)
    left = [stage for stage in ordered if stage in job.todo]
    done, running = set(ordered) - set(left), dict[PrefectFuture[None], Stage]()
    trainings = sum(stage.trains for stage in left)
    threads: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(most)
    with (
        ExitStack() as slot,
        threads,
        Children(many=len(left) >= MANY) as children,
    ):  # threads wait for processes: this one can be cancelled
        slot.enter_context(_slot(trainings))
        while left or running:
            ready = sorted((stage for stage in left if needed[stage] <= done), key=_about_variants)
            for stage in ready[: most - len(running)]:
                left.remove(stage)
                running[_submit(threads, job, stage, children, _share(most, beside[stage]))] = stage
            ended = next(as_completed([*running]))
            ended.result()
            done.add(stage := running.pop(ended))
            show(job, stage)
            then()
            trainings -= stage.trains
            if not trainings:
                slot.close()  # to another pipeline


def _about_variants(stage: Stage) -> bool:
    """What is about the main model goes first: its version and its matches are there before the others are trained."""
    return stage.command not in MATCHING


def _submit(
    threads: ThreadPoolTaskRunner[None], job: Job, stage: Stage, children: Children, share: Mapping[str, Any]
) -> PrefectFuture[None]:
    """Start a stage that shares the cores so."""
    asked = {"target": stage.target, "command": job.command(stage), "logs": job.workspace.logs, "children": children}
    return threads.submit(run_command, {**asked, **share, "quiet": job.quiet})


def _share(most: int, beside: Collection[Stage]) -> Mapping[str, Any]:
    """How a stage shares the cores when `most` run at once: the same whichever of those `beside` it do.

    Cores are shared among trainings: other stages are short.
    """
    return {"at_once": min(most, 1 + sum(each.trains for each in beside)), "alone": most == 1 or not beside}


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
    target: str,
    command: Sequence[str],
    logs: Path,
    children: Children,
    *,
    quiet: bool,
    at_once: int = 1,
    alone: bool = True,
) -> None:
    """Run a command whose output goes to TARGET.log in `logs`, to the run's log and, unless `quiet`, to standard error.

    `at_once` of them share this machine's cores; one that is `alone` draws its progress bars itself. `InputError`,
    `UnavailableError` or `MlimError` that says what the command said when it fails.
    """
    logs.mkdir(parents=True, exist_ok=True)
    tell = _teller(quiet)
    if not quiet:
        print(f"[{target}]", file=sys.stderr, flush=True)
    interactive = alone and not quiet and sys.stderr.isatty()
    share = {} if at_once == 1 else threads_of_each(at_once)
    said = Said()
    with _log_file(logs, target) as file, children.start(command, share, interactive) as child:
        for line in _copy_output(child, file):
            said.hear(line)
            tell(line)
        code = child.wait()
    if code != 0:
        raise said.failure(target, code, Path(file.name))


@contextmanager
def _log_file(logs: Path, target: str) -> Iterator[IO[bytes]]:
    """TARGET.log, emptied; a file of this process alone where another one is writing that, whose lines stay."""
    with (logs / f"{target}.log").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with (logs / f"{target}.{os.getpid()}.log").open("wb") as own:
                yield own
            return
        file.truncate(0)
        yield file


def _has_server() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _slot(trainings: int) -> AbstractContextManager[None]:
    """One pipeline's trainings at a time on one accelerator, where a server counts the slots."""
    return gpu_slot() if trainings and _has_server() else nullcontext()


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
