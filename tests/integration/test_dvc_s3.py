"""Data and results in an S3-compatible store: one clone pushes, another one pulls and has nothing left to do."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import IDENTITY, free_port, make_checkout, run_in

pytestmark = [pytest.mark.integration, pytest.mark.slow]
pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

START_SECONDS = 120
KEYS = {"access_key_id": "mlim", "secret_access_key": "a secret of the store"}
MADE = ("data/catalog.yaml", "build/demo/items/manifest.json", "build/demo/pairs/pairs.parquet")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of a server on loopback that speaks S3, with the bucket `mlim`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not made_bucket(address):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def made_bucket(address: str) -> bool:
    asked = urllib.request.Request(f"{address}/mlim", method="PUT")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_clone_pulls_what_another_one_pushed(store: str, tmp_path: Path) -> None:
    """As docs/dvc.md has it: the address is committed, the keys are not."""
    here, clone = make_checkout(tmp_path / "here"), tmp_path / "clone"
    run_in(here, ["dvc", "remote", "add", "--default", "shared", "s3://mlim/catalog"])
    run_in(here, ["dvc", "remote", "modify", "shared", "endpointurl", store])
    log_in(here)
    run_in(here, ["dvc", "repro", "pairs"])
    run_in(here, ["git", "add", ".dvc/config", "data.dvc", "dvc.lock", "params.yaml"])
    run_in(here, ["git", *IDENTITY, "commit", "--quiet", "-m", "results"])
    assert KEYS["secret_access_key"] not in run_in(here, ["git", "show"]).stdout
    assert "pushed" in run_in(here, ["dvc", "push"]).stdout

    run_in(tmp_path, ["git", "clone", "--quiet", str(here), str(clone)])
    refused = run_in(clone, ["dvc", "pull", "data"], check=False, AWS_CONFIG_FILE="/dev/null")
    assert refused.returncode != 0
    log_in(clone)
    run_in(clone, ["dvc", "pull", "data", "ingest", "validate", "pairs"])
    for name in MADE:
        assert (clone / name).read_bytes() == (here / name).read_bytes()
    done = run_in(clone, ["dvc", "repro", "pairs"]).stdout
    assert "Running stage" not in done
    assert "up to date" in done


def log_in(folder: Path) -> None:
    for name, value in KEYS.items():
        run_in(folder, ["dvc", "remote", "modify", "--local", "shared", name, value])
