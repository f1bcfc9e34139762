"""Runs a whole pipeline that is killed at random times, or has a disk that takes no more; tells what came out, as JSON.

    python whole_pipeline.py CATALOG RECIPE FOLDER (kills COUNT SEED | disk BYTES ...)

Each command runs in a forked child of its own, in one process group that is killed as a whole (SIGKILL), with what the
commands started themselves. Forking a process that has imported everything saves most of the time.
"""

import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlim.cli.main import main
from mlim.local_store import address
from mlim.recipe import Recipe, load_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.registry import MODEL_SHA256, Registry
from mlim.steps.plan import READ_THE_CATALOG, Stage, main_finetuning, main_pretraining, preparation

PRELOADED = (  # by the process that forks; not at import, for decoders of `mlim ingest` import this file again
    *("great_expectations", "mlflow.pyfunc", "skops.io", "torch", "transformers", "mlim.serving"),
    *(f"mlim.steps.{name}" for name in ("ingest", "pairs", "pretrain", "finetune", "stack", "evaluate", "register")),
)
RESULTS = (
    *("items/manifest.json", "items/quarantine.parquet", "valid/index.parquet", "pairs/pairs.parquet"),
    *("pairs/items.parquet", "stack/scores.parquet", "evaluation/metrics.json"),
)
FOLDERS = ("items", "valid", "pairs", "pretrain", "finetune", "stack", "evaluation", "registration")
REGISTER = Stage("register")


def stages(recipe: Recipe) -> list[Stage]:
    """From the catalog to the registered main model."""
    return [*preparation(recipe), *main_pretraining(recipe), *main_finetuning(recipe), REGISTER]


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
        os._exit(main())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(folder: Path, catalog: Path, recipe: Path) -> int:
    """The leader of a process group that runs all commands, one after another, until one fails."""
    leader = os.fork()
    if leader:
        return leader
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["MLFLOW_TRACKING_URI"] = address(folder / "mlflow.db")
    for stage in stages(load_recipe(str(recipe))):
        os.write(log, f"--- {stage.target}\n".encode())
        if code := call(stage, catalog, recipe, folder / "work"):
            os._exit(code)
    os._exit(0)


def ended(leader: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])


def outcome(folder: Path, recipe: Path) -> dict[str, str]:
    """The champion's model and the results that led to it, by their SHA-256; its files are compared with the record."""
    found = {name: hashlib.sha256((folder / "work" / name).read_bytes()).hexdigest() for name in RESULTS}
    registry = Registry(TrackingConfig(uri=address(folder / "mlflow.db")), load_recipe(str(recipe)).tracking.model_name)
    champion = registry.version_of("champion")
    registry.check(champion)
    return {**found, "model": registry.tags(champion)[MODEL_SHA256]}


def killed(catalog: Path, recipe: Path, folder: Path, count: int, seed: int) -> Iterator[dict]:
    """The outcome of an undisturbed pipeline, then of `count` killed ones with the last command before the kill.

    Each has a folder of its own: MLflow keeps connections to a database by its path, and children inherit them.
    """
    chance, whole = random.Random(seed), 0.0
    for number in range(count + 1):
        room, where = folder / str(number), ""
        room.mkdir(parents=True)
        leader, started = start(room, catalog, recipe), time.perf_counter()
        if number:
            time.sleep(chance.uniform(0, whole))
            os.killpg(leader, signal.SIGKILL)
            ended(leader)
            where = last_stage(room / "log")
            leader = start(room, catalog, recipe)
        if code := ended(leader):
            raise SystemExit(f"pipeline {number}, killed in {where}, ended with {code}:\n{(room / 'log').read_text()}")
        whole = whole or time.perf_counter() - started
        yield {"killed": where, **outcome(room, recipe)}
        shutil.rmtree(room)


def last_stage(log: Path) -> str:
    """The last command that was started; empty when none was."""
    started = [line for line in log.read_text().splitlines() if line.startswith("---")] if log.is_file() else []
    return started[-1].removeprefix("--- ") if started else ""


def results(work: Path) -> dict[str, str]:
    """All files of results by their SHA-256."""
    files = [path for name in FOLDERS for path in (work / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on_a_full_disk(catalog: Path, recipe: Path, folder: Path, limits: Sequence[int]) -> Iterator[dict]:
    """For each command and limit: how it ends, what it says, whether results changed; then it runs without a limit.

    Twice: without tracking, where results themselves meet the limit, and with a database that is larger than it.
    """
    work, database = folder / "work", address(folder / "mlflow.db")
    folder.mkdir(parents=True)
    ordered = stages(load_recipe(str(recipe)))
    for uri, tried in (("none", [each for each in ordered if each != REGISTER]), (database, ordered)):
        for stage in tried:
            for limit in limits:
                before, log = results(work), folder / "said"
                code = _told(log, stage, catalog, recipe, work, uri, limit)
                same = before == results(work)
                yield {
                    "stage": stage.target,
                    "uri": uri,
                    "limit": limit,
                    "code": code,
                    "said": log.read_text(),
                    "same": same,
                }
            if code := _told(log, stage, catalog, recipe, work, uri, None):
                raise SystemExit(f"{stage.target} ended with {code} after the disk was full:\n{log.read_text()}")
    outcome(folder, recipe)


def _told(log: Path, stage: Stage, catalog: Path, recipe: Path, work: Path, uri: str, limit: int | None) -> int:
    """Exit code of a command whose output goes into `log`."""
    child = os.fork()
    if child == 0:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os._exit(call(stage, catalog, recipe, work, uri, limit))
    return ended(child)


if __name__ == "__main__":
    catalog, recipe, folder = map(Path, sys.argv[1:4])
    for name in PRELOADED:
        importlib.import_module(name)
    numbers = [int(word) for word in sys.argv[5:]]
    run = (
        killed(catalog, recipe, folder, *numbers)
        if sys.argv[4] == "kills"
        else on_a_full_disk(catalog, recipe, folder, numbers)
    )
    for found in run:
        print(json.dumps(found), flush=True)
