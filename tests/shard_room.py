"""One rank of a training in the room; what it saw lies in FOLDER/rank-N.json.

    torchrun --nproc-per-node 2 shard_room.py WORK RECIPE FOLDER [crash STEP | kill RANK FILE | measure RECIPE]

`crash`: every rank fails before that step; `kill`: that rank dies (SIGKILL) at its FILE-th file of the checkpoint of
step 10; `measure`: the memory that the process holds beyond what it held after a training of the other, small recipe.
"""

import json
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor
from kill_points import at_file_event
from training_room import Room

from mlim.models.weights import own_part
from mlim.recipe import load_recipe
from mlim.shards.items import ItemStore
from mlim.training.ranks import join_ranks
from mlim.workspace import Workspace

PAUSE = 0.001  # seconds between two looks at the memory


class Watcher:
    """The most memory that the process has held beyond what it held at the start, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start, self.most = self._process.memory_info().rss, 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._process.memory_info().rss - self._start)
            time.sleep(PAUSE)


def crash() -> None:
    raise RuntimeError("pulled the plug")


def main() -> None:
    work, recipe, folder, *how = sys.argv[1:]
    torch.set_num_threads(1)
    workspace, place = Workspace(Path(work)), Path(folder)
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    with join_ranks("cpu") as ranks:
        if how[:1] == ["measure"]:
            Room(load_recipe(how[1]), store, place / "warm", ranks).start()
        room = Room(load_recipe(recipe), store, place / "checkpoints", ranks)
        seen: dict = {}
        watcher = Watcher()
        happens = {"at": 0, "what": lambda: seen.setdefault("building", watcher.most)}
        if how[:1] == ["crash"]:
            happens = {"at": int(how[1]), "what": crash}
        if how[:2] == ["kill", str(ranks.rank)]:
            at_file_event(int(how[2]))(room)
        weights, result = room.start(**happens)
        seen |= {
            "most": watcher.most,
            "own_bytes": sum(own_part(value).numel() for value in weights.values()) * 4,
            "bytes": sum(value.numel() for value in weights.values()) * 4,
            "losses": [[row["step"], row["kind"], row["mode"], row["total"]] for row in result.history],
        }
        (place / f"rank-{ranks.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
