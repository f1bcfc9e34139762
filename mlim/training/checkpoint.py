"""Checkpoints: safetensors and JSON (no pickle), written atomically, verified before they are used.

A checkpoint is a folder `step-00000200` of tensors (`model.*`, `optimizer.*`, `best.*` when a best model is kept, ...),
state.json and manifest.json (size and SHA-256 of every other file). One process writes model.safetensors,
optimizer.safetensors and so on; where a training is sharded every rank writes its parts (mlim/training/shards.py).
Either is continued by any number of ranks. The state of random generators is not there: whatever is random is a pure
function of the seed and the step (mlim/data/seeds.py).
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file

from mlim.console import Terminal
from mlim.errors import MlimError
from mlim.files import atomic_folder, read_json, remove_folder, sha256_of, write_json
from mlim.models.storage import present_name
from mlim.models.weights import own_part
from mlim.training.ranks import broadcast_in_group
from mlim.training.shards import Stored, read_shards, stored_in, write_shards

PREFIX = "step-"
STATE = "state.json"
MANIFEST = "manifest.json"
TENSORS = ".safetensors"
UNFINISHED = (".*.tmp", ".*.old")  # what a killed process leaves beside its checkpoints (mlim/files.py)

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """Everything that continues a training: groups of named tensors and a JSON-able state."""

    step: int
    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Saved:
    """A checkpoint on the disk, whole and of this training; its tensors are read when they are asked for."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """After how many optimiser steps it was written."""
        return int(self.state["step"])

    def stored(self) -> Mapping[str, Mapping[str, Stored]]:
        """What it holds, by group and name."""
        groups: dict[str, dict[str, Stored]] = {}
        for full_name, each in stored_in(self.folder).items():
            group, _, name = present_name(full_name).partition(".")
            groups.setdefault(group, {})[name] = each
        return groups

    def read(self, targets: Mapping[str, Tensors]) -> None:
        """Fill groups of tensors, in place; of sharded ones each rank reads its part."""
        stored = {present_name(name): name for name in stored_in(self.folder)}
        read_shards(self.folder, {stored[name]: value for name, value in flat(targets).items()})


class Damaged(Exception):  # noqa: N818 - private to this module's readers and its tests
    """A checkpoint that cannot be used, and why."""


class Checkpoints:
    """The checkpoints of one training in `folder`; the last `keep` stay.

    `fingerprint` names the training: checkpoints of another one are never continued.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int, terminal: Terminal) -> None:
        self._folder, self.fingerprint, self._keep, self._terminal = folder, fingerprint, keep, terminal

    def save(self, snapshot: Snapshot, group: Any = None) -> Path:
        """Write a checkpoint and drop the oldest; `MlimError` when it cannot be written, earlier ones stay valid.

        Where tensors are sharded, all ranks of the process `group` call it and write their parts, and rank 0 the
        manifest.
        """
        path, is_main = self._path(snapshot.step), group is None or group.rank() == 0
        try:
            with _folder_of_all(path, group) as temporary:
                _write_tensors(temporary, snapshot.tensors, group)
                if is_main:
                    self._seal(temporary, snapshot)
        except (OSError, SafetensorError) as error:
            raise MlimError(self._write_problem(path, error)) from error
        for outdated in self._paths()[self._keep :] if is_main else ():
            remove_folder(outdated)
        return path

    def note(self, name: str, values: Any) -> Path:
        """Write JSON-able values beside the checkpoints, for a person; gives the file."""
        path = self._folder / name
        write_json(path, values)
        return path

    def newest(self) -> Saved | None:
        """The newest checkpoint that is whole and of this training; None to start from the beginning.

        Damaged ones are skipped with a warning; those of another training are removed.
        """
        for path in self._paths():
            try:
                saved = self._verified(path)
            except Damaged as damage:
                self._terminal.warn(f"checkpoint {path} cannot be used ({damage}); looking for an earlier one")
                remove_folder(path)
                continue
            if saved.state["fingerprint"] == self.fingerprint:
                return saved
            self._terminal.warn(f"{self._folder} holds checkpoints for another recipe or other data: starting anew")
            self.clear()
        return None

    def at(self, step: int) -> Saved:
        """The checkpoint of a step that another rank has found good."""
        path = self._path(step)
        return Saved(path, read_json(path / STATE))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to continue from."""
        return not self._paths()

    def clear(self) -> None:
        """Remove all checkpoints of this training."""
        remove_folder(self._folder)

    def _path(self, step: int) -> Path:
        return self._folder / f"{PREFIX}{step:08d}"

    def _paths(self) -> Sequence[Path]:
        """Newest first."""
        return sorted(self._folder.glob(f"{PREFIX}*"), reverse=True)

    def _seal(self, folder: Path, snapshot: Snapshot) -> None:
        """Write the state beside the tensors, and the manifest over all of them."""
        state = {**snapshot.state, "fingerprint": self.fingerprint, "step": snapshot.step}
        write_json(folder / STATE, state)
        files = sorted(folder.iterdir())
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        write_json(folder / MANIFEST, {file.name: _description(file) for file in files})

    def _verified(self, path: Path) -> Saved:
        try:
            for name, description in read_json(path / MANIFEST).items():
                if _description(path / name) != description:
                    raise Damaged(f"{name} is not what was written")
            return Saved(path, read_json(path / STATE))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(str(error)) from error
        except OSError as error:
            raise MlimError(
                f"checkpoint {path} cannot be read now ({error.strerror}); it stays: run the same command again"
            ) from error

    def _write_problem(self, path: Path, error: Exception) -> str:
        earlier = self._paths()
        left = f"{earlier[0].name} is still valid" if earlier else "there is no earlier one"
        return (
            f"checkpoint {path} could not be written ({error}); {left}; make room on the disk and run the same command "
            "again"
        )


class BackgroundSaver:
    """Saves checkpoints while the training goes on: copies what is to be saved, then writes the copy in a thread.

    One is written at a time. What goes wrong is raised by the next call. With a process `group`, which nothing else may
    use, every rank of it saves its parts of sharded tensors.
    """

    def __init__(self, checkpoints: Checkpoints, group: Any = None) -> None:
        self._checkpoints, self._group = checkpoints, group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlim-checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint when the one before is written; `MlimError` when that one failed."""
        self.wait()
        copies = {
            group: {name: value.to("cpu", copy=True) for name, value in tensors.items()}
            for group, tensors in snapshot.tensors.items()
        }
        copy = Snapshot(snapshot.step, copies, snapshot.state)
        self._writing = self._thread.submit(self._checkpoints.save, copy, self._group)

    def wait(self) -> None:
        """Until everything is written; `MlimError` when it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the thread end, whatever became of what it wrote."""
        self._thread.shutdown(wait=True)


@contextlib.contextmanager
def _folder_of_all(path: Path, group: Any) -> Iterator[Path]:
    """The temporary folder of `path`: the first rank of `group` makes and renames it, the others receive its name."""
    if group is None:
        with atomic_folder(path) as temporary:
            yield temporary
    elif group.rank() == 0:
        with atomic_folder(path) as temporary:
            broadcast_in_group(str(temporary), group)
            yield temporary
    else:
        yield Path(broadcast_in_group(None, group))


def _write_tensors(folder: Path, tensors: Mapping[str, Tensors], group: Any) -> None:
    if group is not None:
        write_shards(folder, flat(tensors), group)
        return
    for name, part in tensors.items():
        save_file({key: value.contiguous() for key, value in flat({name: part}).items()}, folder / f"{name}{TENSORS}")


def flat(groups: Mapping[str, Tensors]) -> dict[str, torch.Tensor]:
    """Groups of tensors as one: `GROUP.NAME`."""
    return {f"{group}.{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def _description(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for pattern in UNFINISHED:
        for path in folder.glob(pattern):
            remove_folder(path)


@contextlib.contextmanager
def only_trainer(folder: Path) -> Iterator[None]:
    """Hold the lock of one training; `MlimError` when another process holds it. The kernel drops it on any death."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise MlimError(
            f"another process is training {folder.name} in this work folder; wait for it or stop it"
        ) from None
    try:
        remove_unfinished(folder)
        yield
    finally:
        lock.release()


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON-able values: equal for equal trainings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def require_same(own: Tensors, stored: Mapping[str, Any]) -> None:
    """`MlimError` when a checkpoint does not hold exactly the tensors of this training."""
    if own.keys() != stored.keys():
        raise MlimError("the checkpoint is of another model; start with --resume never")


@torch.no_grad()
def copy_tensors(targets: Tensors, values: Tensors) -> None:
    """Copy tensors into others, sharded alike."""
    for name, target in targets.items():
        own_part(target).copy_(own_part(values[name]))


def like(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Tensors of the same kind on the CPU, to be filled."""
    return {name: torch.empty_like(value, device="cpu") for name, value in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's moments and step counts as `PARAMETER.KEY`; rates and decay come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, values in state.items() for key, value in values.items()}


def optimizer_like(optimizer: torch.optim.Optimizer, stored: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """Tensors for what `optimizer_tensors` gave, to be filled: moments are sharded as their parameters are."""
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {}
    for name, (shape, dtype) in stored.items():
        parameter = parameters[int(name.partition(".")[0])]
        moment = shape == parameter.shape  # the count of steps is no share of the weights
        tensors[name] = torch.empty_like(parameter) if moment else torch.empty(shape, dtype=dtype)
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore what `optimizer_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
