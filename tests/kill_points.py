"""Trains in forked children that are killed where asked, then in one that is not; tells what came out, as JSON.

    python kill_points.py WORK RECIPE FOLDER (times COUNT SEED | steps COUNT SEED | saves EVERY)

`times`: after random times; `steps`: before random micro-batches; `saves`: at every EVERY-th file that is opened,
renamed or removed while the second checkpoint is written. Forking a process that has imported everything saves most of
the time.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from training_room import STEPS, Room

from mlim.recipe import load_recipe
from mlim.shards.items import ItemStore
from mlim.workspace import Workspace

FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
SECOND_SAVE = "step-00000010"
OUTCOME = "outcome.json"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, how: Callable[[Room], dict]) -> int:
    """Exit status of a child that trains in `folder`; its outcome lies there."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        workspace = Workspace(Path(sys.argv[1]))
        store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
        room = Room(load_recipe(sys.argv[2]), store, folder / "checkpoints")
        weights, result = room.start(**how(room))
        digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
        losses = [[row["step"], row["kind"], row["mode"], row["total"]] for row in result.history]
        outcome = {"weights": digest, "losses": losses, "items": room.seen[-8:]}
        (folder / OUTCOME).write_text(json.dumps(outcome))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_then_continued(folder: Path, how: Callable[[Room], dict]) -> dict:
    """What came out in the end, and whether the first child was killed at all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    killed = os.WIFSIGNALED(train(folder, how))
    if killed and (status := train(folder, lambda room: {})):
        raise SystemExit(f"the second child ended with {status}")
    return {"killed": killed, **json.loads((folder / OUTCOME).read_text())}


def after(seconds: float) -> Callable[[Room], dict]:
    def how(room: Room) -> dict:
        threading.Timer(seconds, die).start()
        return {}

    return how


def before_batch(step: int, first: int) -> Callable[[Room], dict]:
    return lambda room: {"at": step, "first": first, "what": die}


def at_file_event(number: int) -> Callable[[Room], dict]:
    def how(room: Room) -> dict:
        left = [number]

        def watch(event: str, arguments: tuple) -> None:
            if event in FILE_EVENTS and SECOND_SAVE in str(arguments):
                left[0] -= 1
                if left[0] < 0:
                    die()

        sys.addaudithook(watch)
        return {}

    return how


def outcomes(folder: Path, kind: str, count: int, seed: int) -> list[dict]:
    chance = random.Random(seed)
    started = time.perf_counter()
    found = [killed_then_continued(folder, lambda room: {})]
    whole = time.perf_counter() - started
    if kind == "saves":
        while len(found) == 1 or found[-1]["killed"]:
            found.append(killed_then_continued(folder, at_file_event(count * (len(found) - 1))))
        return found
    for _ in range(count):
        moment = after(chance.uniform(0, whole))
        place = before_batch(chance.randrange(STEPS), 4 * chance.randrange(2))
        found.append(killed_then_continued(folder, moment if kind == "times" else place))
    return found


if __name__ == "__main__":
    count, seed = (int(word) for word in [*sys.argv[5:], 0, 0][:2])
    print(json.dumps(outcomes(Path(sys.argv[3]), sys.argv[4], count, seed)))
