"""Random access to accepted items: texts from the index, pictures from the shards."""

import io
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from mlim.errors import InputError


class ItemStore:
    """The items of an index by id. JPEG bytes stay in memory (a shard is read when it is first needed)."""

    def __init__(self, items_dir: Path, index: Any) -> None:
        """Prefer `ItemStore.open`; `index` is a table with the columns id, text, shard and position."""
        self._folder = items_dir
        self.ids: list[str] = index["id"].to_pylist()
        self._texts: list[str] = index["text"].to_pylist()
        self._shards: list[str] = index["shard"].to_pylist()
        self._positions: list[int] = index["position"].to_pylist()
        self._places = {item: place for place, item in enumerate(self.ids)}
        self._pictures: dict[str, Any] = {}

    @classmethod
    def open(cls, items_dir: Path, index: Path) -> Self:
        """The accepted items listed in `index` (valid/index.parquet), with pictures from `items_dir`."""
        if not index.is_file():
            raise InputError(f"{index} is missing; run `mlim validate` first")
        if not items_dir.is_dir():
            raise InputError(f"{items_dir} is missing; run `mlim ingest` first")
        return cls(items_dir, pq.read_table(index, columns=["id", "text", "shard", "position"]))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item: object) -> bool:
        return item in self._places

    def text(self, item: str) -> str:
        """What the model reads of an item; `KeyError` for an id that is not in the index."""
        return self._texts[self._places[item]]

    def jpeg(self, item: str) -> bytes:
        """The square picture of an item as JPEG bytes."""
        place = self._places[item]
        data: bytes = self._shard(self._shards[place])[self._positions[place]].as_py()
        return data

    def image(self, item: str) -> NDArray[np.uint8]:
        """The picture of an item as a (size, size, 3) uint8 array, decoded now."""
        with Image.open(io.BytesIO(self.jpeg(item)), formats=["JPEG"]) as picture:
            return np.asarray(picture.convert("RGB"))

    def _shard(self, name: str) -> Any:
        if name not in self._pictures:
            self._pictures[name] = pq.read_table(self._folder / name, columns=["image"])["image"]
        return self._pictures[name]
