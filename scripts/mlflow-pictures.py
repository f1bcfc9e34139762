"""Draw the pictures of docs/operations.md: MLflow's pages of a project's runs, photographed in headless Chromium.

    python scripts/mlflow-pictures.py PROJECT docs/images

PROJECT is a folder in which `mlim run` has ended. Writes mlflow-pipeline.png and
mlflow-model.png.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chromium import BROWSERS, find_browser, run_browser
from PIL import Image

from mlim.recipe.tracking import TrackingConfig
from mlim.tracking import all_runs, client

WIDTH, ASSISTANT = 1584, 384  # MLflow opens a panel of an assistant, which is cut off
HEIGHTS = {"pipeline": 1490, "model": 600}
COLOURS = 64
START_SECONDS, RENDER_MILLISECONDS = 600, 30_000


def main() -> int:
    """Photograph the pages; 2 when there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    options = parser.parse_args()
    browser = find_browser()
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is on PATH", file=sys.stderr)
        return 2
    with _pages(options.project) as address:
        for name, place in _places(options.project).items():
            picture = options.out / f"mlflow-{name}.png"
            window = f"--window-size={WIDTH},{HEIGHTS[name]}"
            shown = (f"--screenshot={picture}", window, f"{address}/{place}")
            run_browser(browser, *shown, milliseconds=RENDER_MILLISECONDS, seconds=START_SECONDS)
            with Image.open(picture) as photo:
                photo.crop((0, 0, WIDTH - ASSISTANT, HEIGHTS[name])).convert("RGB").quantize(COLOURS).save(
                    picture, optimize=True
                )
            print(f"wrote {picture}: {picture.stat().st_size} bytes")
    return 0


def _places(project: Path) -> dict[str, str]:
    """The latest pipeline's page and that of the registered model."""
    tracking = TrackingConfig(uri=f"sqlite:///{project.absolute() / 'mlflow.db'}")
    store = client(tracking)
    experiment = store.get_experiment_by_name(tracking.experiment).experiment_id
    pipeline = next(all_runs(store, [experiment], "tags.`mlim.stage` = 'pipeline'")).info.run_id
    return {
        "pipeline": f"#/experiments/{experiment}/runs/{pipeline}",
        "model": f"#/models/{tracking.model_name}",
    }


@contextmanager
def _pages(project: Path) -> Iterator[str]:
    """`mlim ui` in the project; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "mlim", "ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, env={**os.environ, "PYTHONPATH": root})  # noqa: S603 - ours
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
        urllib.request.urlopen(f"{address}/health", timeout=5).close()  # noqa: S310 - loopback
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
