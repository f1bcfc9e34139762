"""Checkpoints: safetensors and JSON (no pickle), written atomically, verified before they are used.

A checkpoint is a folder `step-00000200` of model.safetensors, optimizer.safetensors, best.safetensors (when a best
model is kept), state.json and manifest.json (size and SHA-256 of every other file). The state of random generators is
not among them: whatever is random is a pure function of the seed and the step (mlim/data/seeds.py).
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mlim.console import Terminal
from mlim.errors import MlimError
from mlim.files import atomic_folder, read_json, sha256_of, write_json

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


class Damaged(Exception):  # noqa: N818 - private to this module's readers and its tests
    """A checkpoint that cannot be used, and why."""


class Checkpoints:
    """The checkpoints of one training in `folder`; the last `keep` stay.

    `fingerprint` names the training: checkpoints of another one are never continued.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int, terminal: Terminal) -> None:
        self._folder, self._fingerprint, self._keep, self._terminal = folder, fingerprint, keep, terminal

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint and drop the oldest; `MlimError` when it cannot be written, earlier ones stay valid."""
        path = self._folder / f"{PREFIX}{snapshot.step:08d}"
        try:
            with atomic_folder(path) as temporary:
                self._write(temporary, snapshot)
        except (OSError, SafetensorError) as error:
            raise MlimError(self._write_problem(path, error)) from error
        for outdated in self._paths()[self._keep :]:
            shutil.rmtree(outdated, ignore_errors=True)
        return path

    def note(self, name: str, values: Any) -> Path:
        """Write JSON-able values beside the checkpoints, for a person; gives the file."""
        path = self._folder / name
        write_json(path, values)
        return path

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that is whole and of this training; None to start from the beginning.

        Damaged ones are skipped with a warning; those of another training are removed.
        """
        for path in self._paths():
            try:
                snapshot = self._read(path)
            except Damaged as damage:
                self._terminal.warn(f"checkpoint {path} cannot be used ({damage}); looking for an earlier one")
                shutil.rmtree(path, ignore_errors=True)
                continue
            if snapshot.state["fingerprint"] == self._fingerprint:
                return snapshot
            self._terminal.warn(f"{self._folder} holds checkpoints for another recipe or other data: starting anew")
            self.clear()
        return None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to continue from."""
        return not self._paths()

    def clear(self) -> None:
        """Remove all checkpoints of this training."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self) -> Sequence[Path]:
        """Newest first."""
        return sorted(self._folder.glob(f"{PREFIX}*"), reverse=True)

    def _write(self, folder: Path, snapshot: Snapshot) -> None:
        for group, tensors in snapshot.tensors.items():
            save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"{group}{TENSORS}")
        state = {**snapshot.state, "fingerprint": self._fingerprint, "step": snapshot.step}
        write_json(folder / STATE, state)
        files = sorted(folder.iterdir())
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        write_json(folder / MANIFEST, {file.name: _description(file) for file in files})

    def _read(self, path: Path) -> Snapshot:
        try:
            for name, description in read_json(path / MANIFEST).items():
                if _description(path / name) != description:
                    raise Damaged(f"{name} is not what was written")
            state = read_json(path / STATE)
            tensors = {file.stem: load_file(file) for file in sorted(path.glob(f"*{TENSORS}"))}
        except (OSError, ValueError, SafetensorError) as error:
            raise Damaged(str(error)) from error
        return Snapshot(state["step"], tensors, state)

    def _write_problem(self, path: Path, error: Exception) -> str:
        earlier = self._paths()
        left = f"{earlier[0].name} is still valid" if earlier else "there is no earlier one"
        return (
            f"checkpoint {path} could not be written ({error}); {left}; make room on the disk and run the same command "
            "again"
        )


class BackgroundSaver:
    """Saves checkpoints while the training goes on: copies what is to be saved, then writes the copy in a thread.

    One is written at a time. What goes wrong is raised by the next call.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlim-checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint when the one before is written; `MlimError` when that one failed."""
        self.wait()
        copies = {
            group: {name: value.to("cpu", copy=True) for name, value in tensors.items()}
            for group, tensors in snapshot.tensors.items()
        }
        self._writing = self._thread.submit(self._checkpoints.save, Snapshot(snapshot.step, copies, snapshot.state))

    def wait(self) -> None:
        """Until everything is written; `MlimError` when it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the thread end, whatever became of what it wrote."""
        self._thread.shutdown(wait=True)


def _description(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for pattern in UNFINISHED:
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


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


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, shared ones once; of a sharded model this rank's parts."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach() for name, value in named.items()}


def whole(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same tensors, gathered from all ranks where they are sharded; every rank must ask."""
    return {name: value.full_tensor() if is_sharded(value) else value for name, value in tensors.items()}  # type: ignore[attr-defined]


def is_sharded(value: torch.Tensor) -> bool:
    """Whether a tensor is dealt out over ranks: a DTensor (whose module takes half a second to import)."""
    return hasattr(value, "full_tensor")


def copy_whole(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    target.copy_(sharded_like(target, value))


def sharded_like(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor, dealt out over ranks as `target` is."""
    if not is_sharded(target):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    like = cast(DTensor, target)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def load_model_tensors(model: nn.Module, tensors: Tensors) -> None:
    """Copy tensors into the model they came from, in place; `MlimError` when they are of another model."""
    own = model_tensors(model)
    if own.keys() != tensors.keys():
        raise MlimError("the checkpoint is of another model; start with --resume never")
    with torch.no_grad():
        for name, value in own.items():
            copy_whole(value, tensors[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's moments and step counts as `PARAMETER.KEY`; rates and decay come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, values in state.items() for key, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore what `optimizer_tensors` gave, whole."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        like = parameters[int(number)].detach()
        whole_step = value.shape != like.shape  # the count of steps is no share of the weights
        state.setdefault(int(number), {})[key] = value if whole_step else sharded_like(like, value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
