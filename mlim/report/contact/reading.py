"""How far into an item's text the model reads: as many tokens as the recipe says."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlim.data.lengths import choose_limit
from mlim.data.tokenize import TextTokenizer
from mlim.recipe.data import TextConfig
from mlim.shards.shard import read_manifest, read_shard
from mlim.workspace import Workspace

MOST_CHARACTERS = 1_000_000  # of the texts that a tokenizer is learned from: a second

MakeTokenizer = Callable[[Sequence[str]], TextTokenizer]


@dataclass(frozen=True)
class Reader:
    """Reads the first `max_tokens` tokens of a text."""

    tokenizer: TextTokenizer
    max_tokens: int

    def read(self, text: str) -> tuple[str, str]:
        """What is read of a text, and the rest."""
        end = self.tokenizer.end_of(text, self.max_tokens)
        return text[:end], text[end:]


def make_reader(texts: Sequence[str], text: TextConfig, make: MakeTokenizer) -> Reader:
    """A reader of a catalog with these texts, or a sample of them; `make` gives a tokenizer for them."""
    tokenizer = make(texts)
    lengths = np.array([len(ids) for ids in tokenizer.encode_all(texts)], dtype=np.int64)
    return Reader(tokenizer, choose_limit(text, lengths))


def texts_of(workspace: Workspace) -> list[str]:
    """The first texts of the ingested items, a million characters of them; empty before `mlim ingest`."""
    if not (workspace.items / "manifest.json").is_file():
        return []
    tables = (read_shard(workspace.items / entry.file, ["text"]) for entry in read_manifest(workspace.items))
    return first_texts(text for table in tables for text in _values(table))


def first_texts(texts: Iterable[str], characters: int = MOST_CHARACTERS) -> list[str]:
    """The first texts with at most so many characters together."""
    kept, left = list[str](), characters
    for text in texts:
        left -= len(text)
        if left < 0:
            break
        kept.append(text)
    return kept


def _values(table: Any) -> Iterator[str]:
    yield from (value for chunk in table["text"].chunks for value in chunk.to_pylist())
