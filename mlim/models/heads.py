"""The heads on the transformer's outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlim.models.activation import activation
from mlim.models.config import BERT_NORM_EPS
from mlim.models.transformer import WordShape

COMPARISONS = 2  # of two vectors: their difference and their product


class MlmHead(nn.Module):
    """BERT's two-layer head over the vocabulary (section 3.2); its second layer is the word embedding, transposed.

    With `tied_words` false it has vectors of its own for the words.
    """

    def __init__(self, config: WordShape) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.activation)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.words = None if config.tied_words else nn.Embedding(config.vocabulary_size, config.hidden_size)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits (N, V) from outputs `hidden` (N, H) and the word embedding matrix `words` (V, H), if it is tied."""
        known = words if self.words is None else self.words.weight
        return nn.functional.linear(self.norm(self.activation(self.dense(hidden))), known, self.bias)


class BinaryHead(nn.Module):
    """One logit from the output at [CLS]: a dense layer with tanh, as BERT's pooler, dropout, a linear layer."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, cls: Tensor) -> Tensor:
        """Logits (B,) from `cls` (B, H)."""
        logits: Tensor = self.score(self.dropout(torch.tanh(self.dense(cls)))).squeeze(-1)
        return logits


class CompareHead(nn.Module):
    """One logit from what two items have become: a dense layer over their differences and products.

    |a - b| and a * b do not change when the two items are exchanged, so neither does the logit. `shared` vectors say
    something of the pair as a whole (the output at [CLS]); `parts` vectors describe each item.
    """

    def __init__(self, hidden_size: int, shared: int, parts: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear((shared + COMPARISONS * parts) * hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, first: Tensor, second: Tensor, shared: Tensor | None = None) -> Tensor:
        """Logits (B,) from the items' vectors (B, parts * H) and what they share (B, shared * H)."""
        compared = [(first - second).abs(), first * second]
        known = compared if shared is None else [shared, *compared]
        hidden = self.activation(self.dense(torch.cat(known, dim=1)))
        logits: Tensor = self.score(self.dropout(hidden)).squeeze(-1)
        return logits


class ClassHead(nn.Module):
    """One of several classes from what was encoded, with a hidden layer of twice the width (LXMERT)."""

    def __init__(self, entering: int, width: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(entering, 2 * width)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(2 * width, eps=BERT_NORM_EPS)
        self.classes = nn.Linear(2 * width, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (B, classes) from vectors (B, entering)."""
        logits: Tensor = self.classes(self.norm(self.activation(self.dense(vectors))))
        return logits


class AttributeHeads(nn.Module):
    """Which value an item has in each of several attributes: one linear layer for each of them."""

    def __init__(self, width: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, count) for count in classes)

    def forward(self, items: Tensor) -> list[Tensor]:
        """Logits (N, classes) of every attribute from the items' vectors (N, width)."""
        return [layer(items) for layer in self.layers]
