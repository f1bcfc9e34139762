"""Commands that a person types, as processes: started, waited for, and told to train on several processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlim.cli.main import main
from mlim.workspace import Workspace

PATIENCE = 120.0  # seconds until a checkpoint must be there
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# before a line of a shell that mounts what no other process sees; fails where user namespaces are not for everybody
PRIVATE_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def start(workspace: Workspace, *words: str, processes: int = 1, restarts: int = 0) -> "subprocess.Popen[str]":
    """`mlim WORDS` with the recipe given.yaml of the work folder, under torchrun for several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    options = ["--recipe", str(workspace.root / "given.yaml"), "--work", str(workspace.root)]
    several = [*launcher, f"--max-restarts={restarts}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *several, "-m", "mlim", *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and everything that was said."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def run(workspace: Workspace, *words: str, processes: int = 1) -> str:
    """What a command said that ended well."""
    code, said = finish(start(workspace, *words, processes=processes))
    assert code == 0, said
    return said


def wait_for_checkpoint(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    """Until the running training has saved `step` or a later one."""
    until = time.monotonic() + PATIENCE
    while not any(int(path.name.removeprefix("step-")) >= step for path in folder.glob("step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.005)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the command `mlim WORDS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["mlim", *words])
    try:
        return main()
    except SystemExit as done:
        return int(done.code or 0)
