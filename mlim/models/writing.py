"""What systems offer that write: a text from left to right about a picture."""

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.models.system import Shown
from mlim.models.write import Writing, write


class WritingHead(nn.Module):
    """Logits over the vocabulary: the word embedding, transposed, and a bias."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits (N, V) from outputs `hidden` (N, H) and the word embedding matrix `words` (V, H)."""
        return functional.linear(hidden, words, self.bias)


class WritesByHead:
    """A system whose words are predicted by the vectors that they are read as."""

    word_embeddings: nn.Embedding
    writing: WritingHead

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""
        return cast(Tensor, self.writing(hidden, self.word_embeddings.weight))


@runtime_checkable
class Writes(Protocol):
    """A system that writes about a picture."""

    @property
    def writing_modules(self) -> list[nn.Module]:
        """What only writing trains; its head comes last."""

    def look(self, shown: Shown) -> Tensor:
        """What writing reads of the pictures alone (B, ...); without pictures there is nothing to be seen."""

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) that predict the token after each of `ids` (B, T), from what `look` gave of B pictures."""

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (N, V) from outputs (N, H)."""

    def writing_operations(self, tokens: float) -> float:
        """Operations of `look` and of writing a text of so many tokens in training, for one picture."""


def write_texts(system: Writes, shown: Shown, settings: Writing) -> list[list[int]]:
    """For each picture the tokens of a text, without [CLS] and [SEP]."""

    def next_logits(texts: Tensor, seen: Tensor) -> Tensor:
        return system.write_logits(system.write(seen, texts)[:, -1])

    with torch.no_grad():
        return write(next_logits, system.look(shown), settings)


def write_further(system: Writes, shown: Shown, begun: Tensor, lengths: Tensor, settings: Writing) -> list[list[int]]:
    """For each picture the tokens of a text that goes on where `begun` (B, P) ends: its first `lengths` (B,) tokens.

    `settings.first` comes between both. Padding lies behind the words that are written, where none of them looks.
    """

    def next_logits(texts: Tensor, rows: Tensor) -> Tensor:
        places = lengths[rows][:, None] + torch.arange(texts.shape[1], device=texts.device)
        ids = functional.pad(begun[rows], (0, texts.shape[1])).scatter(1, places, texts)
        outputs = system.write(seen[rows], ids)
        return system.write_logits(outputs[torch.arange(len(rows), device=rows.device), places[:, -1]])

    with torch.no_grad():
        seen = system.look(shown)
        return write(next_logits, torch.arange(len(begun), device=begun.device), settings)


def embed_in_order(words: nn.Embedding, positions: nn.Embedding, ids: Tensor) -> Tensor:
    """Word and position vectors (B, T, H) of `ids` (B, T)."""
    return cast(Tensor, words(ids)) + positions.weight[: ids.shape[1]]
