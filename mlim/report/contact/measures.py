"""What is known of every item, small enough to hold for millions of them: numbers and codes, no texts or pictures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.shards.shard import read_manifest, read_shard
from mlim.workspace import Workspace

INDEX_FILE = "index.parquet"
NUMBERS = ("image_width", "image_height", "image_brightness", "image_contrast")
READ = ("family", "category", "text", "image_sha256", *NUMBERS)
DIGITS_OF_HASH = 16  # enough to tell the pictures of one catalog apart
HEXADECIMAL = 16


@dataclass(frozen=True)
class Codes:
    """A text column: `codes` (n,) are places in `names`, -1 where there is no value."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How often each value occurs."""
        counted = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        return dict(zip(self.names, counted.tolist(), strict=True))


@dataclass(frozen=True)
class Measures:
    """All items of a work folder, in the order of the shards; arrays are (n,).

    `accepted` tells whether these are the items that validation accepted, or all that were ingested.
    """

    accepted: bool
    shard: Codes
    position: NDArray[np.int64]
    family: Codes
    category: Codes
    characters: NDArray[np.int64]
    picture: NDArray[np.uint64]  # equal for equal pictures
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.position)

    def places(self, items: Iterable[int]) -> list[tuple[str, int]]:
        """Shard and position of items."""
        return [(self.shard.names[self.shard.codes[item]], int(self.position[item])) for item in items]


def read_measures(workspace: Workspace, accepted: bool = True) -> Measures | None:
    """The accepted items; the ingested ones before `mlim validate` or if so asked; None before `mlim ingest`.

    Only small columns are read, a shard at a time. `InputError` for a shard that cannot be read.
    """
    index = workspace.valid / INDEX_FILE
    if accepted and index.is_file():
        return _collect(True, _from_index(index))
    if (workspace.items / "manifest.json").is_file():
        return _collect(False, _from_shards(workspace.items))
    return None


def _from_index(index: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(index).iter_batches(columns=[*READ, "shard", "position"]):
        shard = pc.dictionary_encode(batch["shard"])
        yield {**_small(batch), "shard": shard, "position": batch["position"].to_numpy(zero_copy_only=False)}


def _from_shards(folder: Path) -> Iterator[dict[str, Any]]:
    for entry in read_manifest(folder):
        for batch in read_shard(folder / entry.file, READ).combine_chunks().to_batches():
            shard = pc.dictionary_encode(pa.array([entry.file] * len(batch)))
            yield {**_small(batch), "shard": shard, "position": np.arange(len(batch), dtype=np.int64)}


def _small(batch: Any) -> dict[str, Any]:
    """Copies: nothing of them keeps a shard's memory map open."""
    hashes = pc.utf8_slice_codeunits(batch["image_sha256"], 0, DIGITS_OF_HASH)
    return {
        "family": pc.dictionary_encode(batch["family"]),
        "category": pc.dictionary_encode(batch["category"]),
        "characters": pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64),
        "picture": np.array([int(digits, HEXADECIMAL) for digits in hashes.to_pylist()], dtype=np.uint64),
        **{name: batch[name].to_numpy(zero_copy_only=False).copy() for name in NUMBERS},
    }


def _collect(accepted: bool, parts: Iterable[dict[str, Any]]) -> Measures:
    gathered: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.items():
            gathered.setdefault(name, []).append(values)
    return Measures(
        accepted=accepted,
        shard=_codes(gathered.get("shard", [])),
        position=_joined(gathered, "position", np.int64),
        family=_codes(gathered.get("family", [])),
        category=_codes(gathered.get("category", [])),
        characters=_joined(gathered, "characters", np.int64),
        picture=_joined(gathered, "picture", np.uint64),
        width=_joined(gathered, "image_width", np.int32),
        height=_joined(gathered, "image_height", np.int32),
        brightness=_joined(gathered, "image_brightness", np.float32),
        contrast=_joined(gathered, "image_contrast", np.float32),
    )


def _joined(gathered: dict[str, list[Any]], name: str, kind: Any) -> NDArray[Any]:
    return np.concatenate(gathered.get(name) or [np.empty(0)]).astype(kind)


def _codes(chunks: list[Any]) -> Codes:
    kind = pa.dictionary(pa.int32(), pa.string())
    whole = pa.chunked_array(chunks, type=kind).unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no chunks
        return Codes(np.empty(0, dtype=np.int32), ())
    codes = pc.fill_null(whole.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Codes(codes, tuple(whole.dictionary.to_pylist()))


def sides_ratio(measures: Measures) -> NDArray[np.float64]:
    """Longer side by shorter side of every item's source picture, 1 for a square; (n,)."""
    long = np.maximum(measures.width, measures.height)
    short = np.maximum(np.minimum(measures.width, measures.height), 1)
    ratio: NDArray[np.float64] = long / short
    return ratio


def copied(measures: Measures) -> int:
    """How many items have a picture that another item has too."""
    _, counts = np.unique(measures.picture, return_counts=True)
    return int(counts[counts > 1].sum())
