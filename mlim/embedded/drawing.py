"""Pictures drawn into files, by several processes where that helps, and the names of what is drawn."""

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mlim.embedded.look import Look
from mlim.embedded.render import render_all

SMALLEST_IMAGE = 16
ID_DIGITS = 10
FOLDER_DIGITS = 2
JPEG_QUALITY = 92
CHUNK = 16  # pictures per message to a worker


class Order(NamedTuple):
    """One picture to be drawn: its file, the looks in the order in which they are painted, its side in pixels."""

    path: Path
    looks: tuple[Look, ...]
    size: int


def name_of(*parts: object) -> str:
    """Ten hexadecimal digits that tell nothing of the parts they are made from."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:ID_DIGITS]


def drawn(orders: Sequence[Order], workers: int) -> Iterator[None]:
    """Draw every picture; yields once for each, in order."""
    if workers == 1:
        yield from map(_draw, orders)
        return
    # Fresh processes, not forks: the caller may hold threads (progress bar, torch) that must not be copied.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw, orders, chunksize=CHUNK)


def _draw(order: Order) -> None:
    order.path.parent.mkdir(parents=True, exist_ok=True)
    render_all(order.looks, order.size).save(order.path, "JPEG", quality=JPEG_QUALITY, subsampling=0)
