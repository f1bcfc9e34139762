"""One writer for each work folder: one command, together with the stages that it starts itself.

The lock is the kernel's, so that it is released with its holder, also by kill -9. A command takes it alone, writes down
who it is, and from then on shares it; the stages that it starts know its token from the environment and share the lock
as well, so that the folder is free only when the last of them has ended. On a network file system `flock` must reach
the other machines, as it does on NFS since Linux 2.6.12.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from mlim.config import Config
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, claim, sha256_of_bytes
from mlim.recipe.record import RecipeRecord
from mlim.versions import dvc_outputs
from mlim.workspace import Workspace

TOKENS = "MLIM_WRITER"  # in the environment: the locks that this process and those it starts share
READ_BYTES = 10_000


class Holder(Config):
    """Who writes into a work folder, as its lock says, and the SHA-256 of the recipe that it writes by."""

    token: str
    recipe: str
    command: str
    process: int
    machine: str
    since: str


def claim_work(workspace: Workspace) -> None:
    """Make the work folder mlim's own; `InputError` before any change when it holds what mlim did not make."""
    claim(workspace.root, f"--work {workspace.root}", dvc_outputs(workspace.root))


@contextmanager
def only_writer(workspace: Workspace, recipe: RecipeRecord, command: str) -> Iterator[None]:
    """Have the work folder, which becomes mlim's own, to this command and what it starts; else as `locked` has it."""
    claim_work(workspace)
    with locked(workspace, recipe, command):
        yield


@contextmanager
def locked(workspace: Workspace, recipe: RecipeRecord, command: str) -> Iterator[None]:
    """Hold the lock of a work folder, or share that of the command that started this process.

    `MlimError` when another command holds it, `InputError` when ours works by another recipe or nothing can be written
    there. Nothing in the folder has changed then.
    """
    sha256 = content_sha256(recipe)
    descriptor = _open(workspace)
    try:
        holder = _share(descriptor, sha256) or _take(descriptor, sha256, command)
        if holder is None:
            raise MlimError(_busy(workspace, _read(descriptor)))
        if holder.recipe != sha256 and not _is_this_process(holder):
            raise InputError(
                f"the recipe is no longer the one that `{holder.command}` began with in {workspace.root}; leave it as "
                "it is while that runs, then run the command again"
            )
        with _known_to_children(holder.token):
            yield
    finally:
        os.close(descriptor)


def share_until_exit(workspace: Workspace) -> None:
    """Share the lock that the command which started this process holds, as long as this process lives."""
    fcntl.flock(_open(workspace), fcntl.LOCK_SH)


def content_sha256(recipe: RecipeRecord) -> str:
    """What names a recipe by its content."""
    return sha256_of_bytes(recipe.text.encode())


def fix_recipe(workspace: Workspace, recipe: RecipeRecord) -> Path:
    """A file of the work folder that holds this very recipe and no other ever: what the stages of a run are given."""
    path = workspace.recipes / f"{content_sha256(recipe)}.yaml"
    _write(path, recipe)
    return path


def record_recipe(workspace: Workspace, recipe: RecipeRecord) -> None:
    """Say in recipe.yaml what the results of the work folder are made with from now on."""
    _write(workspace.recipe, recipe)


@contextmanager
def recording(workspace: Workspace, recipe: RecipeRecord) -> Iterator[None]:
    """Say it when the block ends, unless its inputs were refused: then nothing was made."""
    try:
        yield
    except InputError:
        raise
    except BaseException:
        with suppress(OSError):  # a full disk is already being reported
            record_recipe(workspace, recipe)
        raise
    record_recipe(workspace, recipe)


def _write(path: Path, recipe: RecipeRecord) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(recipe.text, encoding="utf-8")


def _open(workspace: Workspace) -> int:
    try:
        return os.open(workspace.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(
            f"--work {workspace.root}: results cannot be written there ({error.strerror}); choose another"
        ) from None


def _write_whole(descriptor: int, content: bytes) -> None:
    """Write all of it, or raise what stands against it: a disk that is nearly full takes a part without an error."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], written)


def _take(descriptor: int, sha256: str, command: str) -> Holder | None:
    """The lock for ourselves, with our name in it; None when it is held.

    The kernel releases an exclusive lock for a moment before it shares it: the name in it afterwards is the holder's.
    """
    if not _flock(descriptor, fcntl.LOCK_EX):
        return None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ours = Holder(
        token=secrets.token_hex(16),
        recipe=sha256,
        command=command,
        process=os.getpid(),
        machine=socket.gethostname(),
        since=now,
    )
    os.truncate(descriptor, 0)
    _write_whole(descriptor, ours.model_dump_json().encode())
    shared = _flock(descriptor, fcntl.LOCK_SH)
    return ours if shared and _read(descriptor) == ours else None


def _share(descriptor: int, sha256: str) -> Holder | None:
    """The holder that started us, whose lock we share from now on; None when there is none."""
    holder = _read(descriptor)
    if holder is None or holder.token not in _tokens():
        return None
    # it may have ended; then the lock is free, and its name in it means nothing
    if _flock(descriptor, fcntl.LOCK_EX):
        return None
    return holder if _flock(descriptor, fcntl.LOCK_SH) and _read(descriptor) == holder else None


def _is_this_process(holder: Holder) -> bool:
    """A command may do parts of its work by a recipe that it derives, as `match` ingests for its model."""
    return (holder.process, holder.machine) == (os.getpid(), socket.gethostname())


def _flock(descriptor: int, kind: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise MlimError(
            f"the file system of the work folder cannot lock files ({error.strerror}); choose a folder on another one"
        ) from None
    return True


def _read(descriptor: int) -> Holder | None:
    """The name in the lock: of its holder, or of the last one."""
    try:
        return Holder.model_validate_json(os.pread(descriptor, READ_BYTES, 0))
    except ValidationError:
        return None


def _busy(workspace: Workspace, holder: Holder | None) -> str:
    who = "another command"
    if holder is not None:
        who = f"`{holder.command}` (process {holder.process} on {holder.machine}, since {holder.since})"
    return (
        f"--work {workspace.root}: {who} is writing there, and one command at a time may; wait until it has ended, "
        "stop it, or choose another folder"
    )


def _tokens() -> set[str]:
    return set(os.environ.get(TOKENS, "").split())


@contextmanager
def _known_to_children(token: str) -> Iterator[None]:
    """The processes that this one starts meanwhile know the token."""
    known = token in _tokens()
    os.environ[TOKENS] = " ".join(_tokens() | {token})
    try:
        yield
    finally:
        if not known:
            os.environ[TOKENS] = " ".join(_tokens() - {token})
