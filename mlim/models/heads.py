"""The heads on the transformer's outputs."""

import torch
from torch import Tensor, nn

from mlim.models.activation import activation
from mlim.models.config import MlimConfig


class MlmHead(nn.Module):
    """BERT's two-layer head over the vocabulary (section 3.2); its second layer is the word embedding, transposed."""

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.activation)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits (N, V) from outputs `hidden` (N, H) and the word embedding matrix `words` (V, H)."""
        return nn.functional.linear(self.norm(self.activation(self.dense(hidden))), words, self.bias)


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
