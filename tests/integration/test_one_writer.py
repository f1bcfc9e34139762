"""Two commands that are really started on one work folder: the second is refused, and changes nothing."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlim.files import read_json
from mlim.recipe import load_recipe
from mlim.workspace import Workspace
from tests.integration.conftest import environment, run_in
from tests.small_catalog import small_catalog

pytestmark = pytest.mark.integration

PATIENCE = 120.0  # seconds
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from mlim.recipe import load_recipe
from mlim.workspace import Workspace
from mlim.writer import only_writer
with only_writer(Workspace(Path("w")), load_recipe("demo").record, "a holder"):
    if len(sys.argv) > 1:
        print(subprocess.Popen([sys.executable, *sys.orig_argv[1:-1]]).pid, flush=True)
    else:
        Path("held").touch()
    time.sleep(600)
"""
FLOW = """
import sys
from flows.ingest import ingest
ingest(recipe="demo", overrides=["pairs.test_share=0.2", "image.size=32", "model.embedder.strides=[2,2,2]",
       "model.decoder.strides=[2,2,2]"], catalog="data/catalog.yaml", work="w")
"""


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a folder with the SHA-256 of its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def started(folder: Path, code: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Python running `code` in a folder, in a session of its own, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=environment(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ingest(folder: Path) -> "subprocess.CompletedProcess[str]":
    words = ["ingest", "--catalog", "shop/catalog.yaml", "--work", "w", "--quiet", "--set", "tracking.uri=none"]
    return run_in(folder, ["mlim", *words], check=False)


def test_kill_9_of_the_last_one_who_writes_frees_the_folder(tmp_path: Path) -> None:
    """Point 20: the kernel drops the lock, and not before the stages of a command that was killed have ended."""
    small_catalog(tmp_path / "shop").write()
    with started(tmp_path, HOLDER, "with a stage") as holder:
        assert holder.stdout is not None
        stage = int(holder.stdout.readline())
        wait_for(tmp_path / "held", holder)
        before = hashes(tmp_path)
        refused = ingest(tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: --work w: `a holder` (process {holder.pid} on ")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert ingest(tmp_path).returncode == 1
        assert hashes(tmp_path) == before
        os.kill(stage, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while (done := ingest(tmp_path)).returncode == 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr


def test_a_run_ends_with_the_recipe_that_it_began_with(tmp_path: Path) -> None:
    """Point 20: asked for test_share 0.2, it is 0.2, though another command asks for 0.4 meanwhile."""
    run_in(tmp_path, ["mlim", "catalog", "synthesize", "--items", "240", "--image-size", "32", "--quiet"])
    work = Workspace(tmp_path / "w")
    with started(tmp_path, FLOW) as flow:
        wait_for(work.logs / "ingest.log", flow)
        second = ["mlim", "pairs", "--set", "pairs.test_share=0.4", "--work", "w", "--quiet"]
        assert run_in(tmp_path, second, check=False).returncode == 1
        assert load_recipe(str(work.recipe)).pairs.test_share == 0.2
        said = flow.communicate(timeout=600)
        assert flow.returncode == 0, said
    items = read_json(work.pairs / "summary.json")["items"]
    assert items["test"] / sum(items.values()) == pytest.approx(0.2, abs=0.07)
    assert load_recipe(str(work.recipe)).pairs.test_share == 0.2
