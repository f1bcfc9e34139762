"""Vectors of items on disk, as their producer writes them: values.npy, ids.parquet, origin.json.

`origin` names what made the vectors (the hash of a model, of an encoder): vectors of two origins are never compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.errors import InputError
from mlim.files import atomic_folder, read_json, write_json

VALUES_FILE, IDS_FILE, ORIGIN_FILE = "values.npy", "ids.parquet", "origin.json"
ROWS_AT_ONCE: Final = 1 << 16

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Vectors:
    """Vectors (n, d), float16 or float32 and perhaps memory-mapped, of the items `ids` (n,)."""

    ids: Sequence[str]
    values: Values
    origin: str

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The vectors from `start` to `stop` at length 1, in float32; a vector of zeros stays one."""
        return unit(np.asarray(self.values[start:stop], dtype=np.float32))


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at length 1; rows of zeros stay zeros."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), dtype=np.float32)


def save_vectors(folder: Path, ids: Sequence[str], blocks: Iterable[Values], dimensions: int, origin: str) -> Vectors:
    """Write vectors that come block by block, in the order of `ids`, as float16; memory holds one block.

    `ValueError` when there are not as many rows as ids.
    """
    with atomic_folder(folder) as made:
        shape = (len(ids), dimensions)
        written = 0
        values = np.lib.format.open_memmap(made / VALUES_FILE, mode="w+", dtype=np.float16, shape=shape)
        for block in blocks:
            values[written : written + len(block)] = block
            written += len(block)
        if written != len(ids):
            raise ValueError(f"{written} vectors for {len(ids)} ids")
        values.flush()
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), made / IDS_FILE)
        write_json(made / ORIGIN_FILE, {"origin": origin})
    return open_vectors(folder)


def open_vectors(folder: Path) -> Vectors:
    """Vectors as `save_vectors` wrote them, memory-mapped; `InputError` when a file is missing or does not fit."""
    missing = [name for name in (VALUES_FILE, IDS_FILE, ORIGIN_FILE) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: lacks {', '.join(missing)}; name a folder of vectors (docs/matching.md)")
    try:
        values = np.load(folder / VALUES_FILE, mmap_mode="r", allow_pickle=False)
        ids = pq.read_table(folder / IDS_FILE, columns=["id"])["id"].to_pylist()
        origin = str(read_json(folder / ORIGIN_FILE)["origin"])
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{folder}: cannot be read as vectors ({error})") from None
    _check(folder, ids, values)
    return Vectors(ids, values, origin)


def _check(folder: Path, ids: Sequence[str], values: Values) -> None:
    if values.ndim != 2 or values.dtype not in (np.float16, np.float32):
        raise InputError(f"{folder / VALUES_FILE}: must be a (items, dimensions) array of float16 or float32")
    if len(values) != len(ids):
        raise InputError(f"{folder}: {len(values)} vectors for {len(ids)} ids; make them again")
    if len(set(ids)) < len(ids):
        raise InputError(f"{folder / IDS_FILE}: names an item twice; make the vectors again")
    for start in range(0, len(values), ROWS_AT_ONCE):
        if not np.isfinite(values[start : start + ROWS_AT_ONCE]).all():
            raise InputError(f"{folder / VALUES_FILE}: holds numbers that are not finite; make the vectors again")
