"""Runs a whole pipeline that is killed at random times, or has a disk that takes no more; tells what came out, as JSON.

    python whole_pipeline.py CATALOG RECIPE FOLDER (kills COUNT SEED | files BYTES ... | disk BYTES ...)

`files`: no file may be longer; `disk`: FOLDER is a disk of its own, on which so much is left. Each command runs in a
forked child of its own, in one process group that is killed as a whole (SIGKILL), with what the commands started
themselves. Forking a process that has imported everything saves most of the time.
"""

import atexit
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count as numbers_from
from itertools import islice
from pathlib import Path
from typing import NoReturn

from mlim.cli.main import main
from mlim.failures import exit_code_of
from mlim.local_store import address
from mlim.recipe import Recipe, load_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.registry import MODEL_SHA256, Registry, registered
from mlim.steps.plan import READ_THE_CATALOG, Stage, main_finetuning, main_pretraining, preparation

PRELOADED = (  # by the process that forks; not at import, for decoders of `mlim ingest` import this file again
    *("great_expectations", "mlflow.pyfunc", "skops.io", "torch", "transformers", "mlim.serving"),
    *(
        f"mlim.steps.{name}"
        for name in ("ingest", "pairs", "pretrain", "finetune", "stack", "evaluate", "register", "report")
    ),
)
RESULTS = (
    *("items/manifest.json", "items/quarantine.parquet", "valid/index.parquet", "pairs/pairs.parquet"),
    *("pairs/items.parquet", "stack/scores.parquet", "evaluation/metrics.json"),
)
FOLDERS = ("items", "valid", "pairs", "pretrain", "finetune", "stack", "evaluation", "registration", "report")
REGISTER, REPORT = Stage("register"), Stage("report")
MARK = "--- "  # before the name of a command in the log
KILLS = 8
POLL_SECONDS = 0.01
FAULT = 70  # <sysexits.h>: a fault of our own


def stages(recipe: Recipe) -> list[Stage]:
    """From the catalog to the registered main model and the report."""
    return [*preparation(recipe), *main_pretraining(recipe), *main_finetuning(recipe), REGISTER, REPORT]


def call(
    stage: Stage, catalog: Path, recipe: Path, work: Path, uri: str | None = None, limit: int | None = None
) -> int:
    """Exit code of one command, in a child of this process that may write no file of more than `limit` bytes."""
    child = os.fork()
    if child == 0:
        of_catalog = ["--catalog", str(catalog)] if stage.command in READ_THE_CATALOG else []
        tracked = [] if uri is None else ["--set", f"tracking.uri={uri}"]
        options = ["--recipe", str(recipe), "--work", str(work), "--quiet", *tracked]
        sys.argv = ["mlim", *stage.arguments, *of_catalog, *options]
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        leave(main)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(folder: Path, catalog: Path, recipe: Path, first: str = "") -> int:
    """The leader of a process group that runs all commands, or those from `first` on, in order until one fails."""
    leader = os.fork()
    with suppress(PermissionError, ProcessLookupError):  # whichever of the two comes first; the child may have ended
        os.setpgid(leader, leader)
    if leader:
        return leader
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["MLFLOW_TRACKING_URI"] = address(folder / "mlflow.db")
    ordered = stages(load_recipe(str(recipe)))
    names = [stage.target for stage in ordered]
    for stage in ordered[names.index(first) if first else 0 :]:
        os.write(log, f"{MARK}{stage.target}\n".encode())
        if code := call(stage, catalog, recipe, folder / "work"):
            os._exit(code)
    os._exit(0)


def leave(program: Callable[[], int]) -> NoReturn:
    """End a forked child with a program's exit code: nothing may lead it back into what its parent does."""
    code = FAULT
    try:
        code = program()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def ended(leader: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])


def outcome(folder: Path, recipe: Path) -> dict[str, object]:
    """The champion's model and the results that led to it, by their SHA-256; its files are compared with the record.

    And how many versions there are, and what was left of files and folders that were being written.
    """
    found = {name: hashlib.sha256((folder / "work" / name).read_bytes()).hexdigest() for name in RESULTS}
    registry = Registry(TrackingConfig(uri=address(folder / "mlflow.db")), load_recipe(str(recipe)).tracking.model_name)
    champion = registry.version_of("champion")
    registry.check(champion)
    tags = registry.tags(champion)
    return {**found, "model": tags[MODEL_SHA256], "champion": champion, "half-written": half_written(folder / "work")}


def half_written(work: Path) -> list[str]:
    """What is left in a work folder of files and folders that were not finished."""
    return sorted(str(path.relative_to(work)) for end in ("tmp", "old") for path in work.rglob(f".*.{end}"))


def killed(catalog: Path, recipe: Path, folder: Path, count: int, seed: int) -> Iterator[dict]:
    """The outcome of an undisturbed pipeline, then of killed ones until there were `count` kills; says what they hit.

    The first kill comes anywhere in a pipeline, all of which then begins again. The next ones come at random, KILLS in
    the time of a pipeline, and the killed command begins again, as in a flow. Each pipeline has a folder of its own:
    MLflow keeps connections to a database by its path, and children inherit them.
    """
    chance, left, whole = random.Random(seed), count, 0.0

    def waits() -> Iterator[float]:
        yield chance.uniform(0, whole)
        while True:
            yield chance.expovariate(KILLS / whole)

    for number in numbers_from():
        room, began = folder / str(number), time.perf_counter()
        room.mkdir(parents=True)
        hit = disturbed(room, catalog, recipe, islice(waits(), left if number else 0))
        seconds = time.perf_counter() - began
        whole = whole or seconds
        yield {"killed": hit, "seconds": round(seconds, 1), **outcome(room, recipe)}
        shutil.rmtree(room)
        left -= len(hit)
        if not left:
            return


def disturbed(room: Path, catalog: Path, recipe: Path, waits: Iterator[float]) -> list[str]:
    """Run a pipeline to its end, though it is killed after each of these times; gives the commands that this hit."""
    hit: list[str] = []
    code = None
    while code is None:
        leader = start(room, catalog, recipe, hit[-1] if len(hit) > 1 else "")
        code = ended_within(leader, next(waits, None))
        if code is None:
            os.killpg(leader, signal.SIGKILL)
            ended(leader)
            commands = begun(room / "log")
            hit.append(commands[-1] if commands else "")
    if code:
        raise SystemExit(f"killed in {hit}, and ended with {code}:\n{(room / 'log').read_text()}")
    return hit


def ended_within(leader: int, seconds: float | None) -> int | None:
    """The exit code of a leader; None when it still runs after so many seconds."""
    deadline = None if seconds is None else time.perf_counter() + seconds
    while not (found := os.waitpid(leader, os.WNOHANG))[0]:
        if deadline is not None and time.perf_counter() > deadline:
            return None
        time.sleep(POLL_SECONDS)
    return os.waitstatus_to_exitcode(found[1])


def begun(log: Path) -> list[str]:
    """The commands that were started."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


def results(work: Path) -> dict[str, str]:
    """All files of results by their SHA-256, and what is half-written."""
    files = [path for name in FOLDERS for path in (work / name).rglob("*") if path.is_file()]
    found = {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**found, **dict.fromkeys(half_written(work), "half-written")}


def with_short_files(catalog: Path, recipe: Path, folder: Path, limits: Sequence[int]) -> Iterator[dict]:
    """For each command and limit: how it ends, what it says, whether results changed; then it runs without a limit.

    Twice: without tracking, where results themselves meet the limit, and with a database that is larger than it.
    """
    folder.mkdir(parents=True)
    room = Room(folder, catalog, recipe)
    ordered = stages(load_recipe(str(recipe)))
    for uri, tried in (("none", [each for each in ordered if each != REGISTER]), (room.database, ordered)):
        for stage in tried:
            for limit in limits:
                yield {"uri": uri, "limit": limit, **room.outcome(stage, uri, limit)}
            room.run(stage, uri)
    outcome(folder, recipe)


def on_a_full_disk(catalog: Path, recipe: Path, folder: Path, limits: Sequence[int]) -> Iterator[dict]:
    """The same for the last two commands, tracked, while so many bytes are left on the disk of all that is written."""
    room = Room(folder, catalog, recipe)
    (folder / "tmp").mkdir()
    for stage in stages(load_recipe(str(recipe))):
        if stage in (REGISTER, REPORT):
            tempfile.tempdir = str(folder / "tmp")
            for limit in limits:
                with filled(folder, limit):
                    found = room.outcome(stage, room.database)
                yield {"limit": limit, **found, "whole": room.versions_are_whole()}
        room.run(stage, room.database)
    outcome(folder, recipe)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """A disk with no more than so many bytes left during the block."""
    filler = disk / "filler"
    with filler.open("wb") as target:
        os.posix_fallocate(target.fileno(), 0, max(shutil.disk_usage(disk).free - left, 1))
    try:
        yield
    finally:
        filler.unlink()


class Room:
    """A folder with a work folder and a database, in which one command after the other is tried."""

    def __init__(self, folder: Path, catalog: Path, recipe: Path) -> None:
        self.database = address(folder / "mlflow.db")
        self._work, self._catalog, self._recipe = folder / "work", catalog, recipe
        self._said = folder.parent / "said"

    def outcome(self, stage: Stage, uri: str, limit: int | None = None) -> dict:
        """How a command ends, what it says, and whether results stay the same."""
        before = results(self._work)
        code = self._told(lambda: call(stage, self._catalog, self._recipe, self._work, uri, limit))
        said = self._said.read_text()
        return {"stage": stage.target, "code": code, "said": said, "same": before == results(self._work)}

    def run(self, stage: Stage, uri: str) -> None:
        """Run a command that is to end well."""
        if code := self._told(lambda: call(stage, self._catalog, self._recipe, self._work, uri)):
            raise SystemExit(f"{stage.target} ended with {code} after the disk was full:\n{self._said.read_text()}")

    def versions_are_whole(self) -> bool:
        """Whether every registered version has its files; a child looks: others would inherit its connection."""

        def look() -> None:
            tracking = TrackingConfig(uri=self.database)
            for name, versions in registered(tracking).items():
                for version in versions:
                    Registry(tracking, name).check(version)

        return self._told(lambda: exit_code_of(look)) == 0

    def _told(self, program: Callable[[], int]) -> int:
        """Exit code of a program in a child, whose output goes into a file."""
        child = os.fork()
        if child == 0:
            target = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            leave(program)
        return ended(child)


if __name__ == "__main__":
    catalog, recipe, folder = map(Path, sys.argv[1:4])
    for name in PRELOADED:
        importlib.import_module(name)
    numbers = [int(word) for word in sys.argv[5:]]
    match sys.argv[4]:
        case "kills":
            run = killed(catalog, recipe, folder, *numbers)
        case "files":
            run = with_short_files(catalog, recipe, folder, numbers)
        case _:
            run = on_a_full_disk(catalog, recipe, folder, numbers)
    for found in run:
        print(json.dumps(found), flush=True)
