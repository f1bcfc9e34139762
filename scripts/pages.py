"""A server of pages on loopback, and photographs of its pages, for mlflow-pictures.py and prefect-pictures.py."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chromium import run_browser
from PIL import Image

COLOURS = 128
START_SECONDS, RENDER_MILLISECONDS = 600, 30_000


@contextmanager
def serving(
    command: Callable[[int], Sequence[str]], health: str, settings: Callable[[str], Mapping[str, str]], folder: Path
) -> Iterator[str]:
    """Run a Python module's server in `folder` at a free port until the block ends; yields its address.

    `command` has the words after `python -m` for a port, `settings` the environment for an address, and `health` is a
    path that answers once the server is up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", *command(port)]
    environment = {**os.environ, **settings(address)}
    server = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{address}/{health}") and server.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait()


def photograph(browser: str, address: str, picture: Path, size: tuple[int, int], cut: int = 0) -> None:
    """Write a PNG of few colours of a page in a window of this size, without `cut` pixels at its right."""
    width, height = size
    shown = (f"--screenshot={picture}", f"--window-size={width},{height}", address)
    run_browser(browser, *shown, milliseconds=RENDER_MILLISECONDS, seconds=START_SECONDS)
    with Image.open(picture) as photo:
        photo.crop((0, 0, width - cut, height)).convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    print(f"wrote {picture}: {picture.stat().st_size} bytes")


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()  # noqa: S310 - loopback
    except OSError:
        return False
    return True
