"""Draw the pictures of docs/operations/first-night.md: Prefect's pages of a nightly match, in headless Chromium.

    python scripts/prefect-pictures.py ~/.prefect docs/images

The folder is that of a service (`make serve-prefect`) whose deployment `match/nightly` has run; it may be running. Its
database is copied, and a server of the copy, which starts nothing, shows the pages without a login. Writes
prefect-run.png and prefect-match.png.
"""

import argparse
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from chromium import BROWSERS, find_browser, run_browser
from PIL import Image

DATABASE = "prefect.db"
SIZES = {"run": "1400,1250", "match": "1400,800"}
COLOURS = 64
START_SECONDS, RENDER_MILLISECONDS = 600, 30_000
NIGHTLY = """
    SELECT run.id, deployment.id FROM flow_run AS run JOIN deployment ON deployment.id = run.deployment_id
    JOIN flow ON flow.id = run.flow_id
    WHERE flow.name = 'match' AND deployment.name = 'nightly' AND run.state_type = 'COMPLETED'
    ORDER BY run.created DESC
"""


def main() -> int:
    """Photograph the pages; 2 when there is no browser or no nightly match to show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Prefect's folder, PREFECT_HOME")
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    options = parser.parse_args()
    browser = find_browser()
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is on PATH", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        database = Path(folder) / DATABASE
        with closing(sqlite3.connect(options.home / DATABASE)) as source, closing(sqlite3.connect(database)) as copy:
            source.backup(copy)
            found = copy.execute(NIGHTLY).fetchone()
        if found is None:
            print(f"{options.home}: no run of match/nightly has completed there", file=sys.stderr)
            return 2
        with _server(database) as address:
            for name, place in _places(*map(UUID, found)).items():
                _photograph(browser, f"{address}/{place}", options.out / f"prefect-{name}.png", SIZES[name])
    return 0


def _places(run: UUID, deployment: UUID) -> dict[str, str]:
    """A run with its log, and the deployment with its schedule."""
    return {"run": f"runs/flow-run/{run}", "match": f"deployments/deployment/{deployment}"}


def _photograph(browser: str, address: str, picture: Path, size: str) -> None:
    shown = (f"--screenshot={picture}", f"--window-size={size}", address)
    run_browser(browser, *shown, milliseconds=RENDER_MILLISECONDS, seconds=START_SECONDS)
    with Image.open(picture) as photo:
        photo.convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    print(f"wrote {picture}: {picture.stat().st_size} bytes")


@contextmanager
def _server(database: Path) -> Iterator[str]:
    """A server of the database on loopback, without the services that would start runs; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {
        "PREFECT_HOME": str(database.parent),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-services"]
    server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address) and server.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/health", timeout=5).close()  # noqa: S310 - loopback
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
