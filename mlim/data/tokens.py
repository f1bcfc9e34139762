"""Token ids of all accepted texts, made once for a tokenizer and an index and read through a memory map."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray

from mlim.data.tokenize import TextTokenizer
from mlim.errors import MlimError
from mlim.files import atomic_file
from mlim.shards.items import ItemStore
from mlim.shards.mapped import MappedTable

FORMAT = 1  # of the file; another one makes every file again
MOST_OF_ALL = 0.5  # of the texts; to tokenise all of them is then worth it, as they are kept
TEXTS_AT_ONCE = 1 << 12
LARGEST_SHORT = np.iinfo(np.uint16).max  # vocabularies up to here take two bytes a token
COLUMN = "tokens"


Rows = NDArray[np.int64]


class TokenSource(Protocol):
    """Token ids by item."""

    def ids(self, item: str, max_tokens: int, /) -> Sequence[int]:
        """The first `max_tokens` ids of an item's text, without [CLS] and [SEP]."""


class PreparedTokens:
    """The token ids of an `ItemStore`'s texts; travels to another process as paths."""

    def __init__(self, store: ItemStore, path: Path, rows: Rows | None = None) -> None:
        """Prefer `prepare_tokens`; row n of the file at `path` belongs to row n of the index, or to `rows[n]`."""
        self._store, self._file, self._rows = store, MappedTable(path), rows

    def ids(self, item: str, max_tokens: int) -> Sequence[int]:
        """The first `max_tokens` ids of an item's text, as `TextTokenizer.encode` gives them."""
        row = self._store.row(item)
        place = row if self._rows is None else int(np.searchsorted(self._rows, row))
        ids: list[int] = self._file.table[COLUMN][place].values[:max_tokens].to_pylist()
        return ids

    def at(self, rows: Rows, max_tokens: int) -> list[list[int]]:
        """The first `max_tokens` ids of the texts at these rows of the index (n,)."""
        places = rows if self._rows is None else np.searchsorted(self._rows, rows)
        found = self._file.table[COLUMN].take(pa.array(places)).to_pylist()
        return [ids[:max_tokens] for ids in found]

    def lengths(self) -> NDArray[np.int64]:
        """How many tokens each text has (texts,), in the order of the index."""
        return np.asarray(pc.list_value_length(self._file.table[COLUMN]).to_numpy(), dtype=np.int64)


def prepare_tokens(store: ItemStore, tokenizer: TextTokenizer, cache: Path) -> PreparedTokens:
    """The token ids of all texts of `store`, tokenised now where `cache` does not hold them.

    `MlimError` when the cache cannot be written.
    """
    path = _path(store, tokenizer, cache)
    _make(path, store.texts(), tokenizer)
    return PreparedTokens(store, path)


def tokens_of(store: ItemStore, tokenizer: TextTokenizer, cache: Path, rows: Rows, passing: Path) -> PreparedTokens:
    """The token ids of the texts at these `rows` (n,) of the index, in order; errors as `prepare_tokens`.

    They are those of all texts where `cache` holds them or most are asked for, else made now in the folder `passing`.
    """
    whole = _path(store, tokenizer, cache)
    if whole.is_file() or len(rows) > MOST_OF_ALL * len(store):
        return prepare_tokens(store, tokenizer, cache)
    path = passing / whole.name
    starts = range(0, len(rows), TEXTS_AT_ONCE)
    _make(path, (store.texts_at(rows[start : start + TEXTS_AT_ONCE]) for start in starts), tokenizer)
    return PreparedTokens(store, path, rows)


def _path(store: ItemStore, tokenizer: TextTokenizer, folder: Path) -> Path:
    named = f"{FORMAT} {tokenizer.fingerprint} {store.fingerprint}"
    return folder / f"tokens-{hashlib.sha256(named.encode()).hexdigest()}.arrow"


def _make(path: Path, texts: Iterable[list[str]], tokenizer: TextTokenizer) -> None:
    """Write the file of these texts unless it is there; one process does, the others wait for it."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".tokens.lock"):
            if not path.is_file():
                _write(path, texts, tokenizer)
    except OSError as error:
        raise MlimError(f"{folder} cannot be written ({error}); free space or fix its permissions") from error


def _write(path: Path, texts: Iterable[list[str]], tokenizer: TextTokenizer) -> None:
    kind = np.dtype(np.uint16 if tokenizer.vocabulary_size <= LARGEST_SHORT else np.uint32)
    schema: Any = pa.schema([(COLUMN, pa.list_(pa.from_numpy_dtype(kind)))])
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        for rows in map(tokenizer.encode_all, texts):
            ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
            flat = np.fromiter((number for row in rows for number in row), kind, count=int(ends[-1]))
            out.write_batch(pa.record_batch([pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))], schema=schema))
