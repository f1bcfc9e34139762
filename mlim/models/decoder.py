"""Blocks that read more than their own vectors: what an encoder made of an item, or vectors that come before theirs.

They are BERT's blocks with cross-attention (Vaswani et al. 2017) and, as in DETR (Carion et al. 2020), with positions
that every attention adds anew to its queries and keys. Nothing is packed: padding is left out by `visible`.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mlim.models.activation import activation
from mlim.models.attention import attend, attention_weights
from mlim.models.dropout import Dropout
from mlim.models.network import RecomputableBlock
from mlim.models.transformer import EncoderShape


class Memory(NamedTuple):
    """What cross-attention reads: `states` (B, K, H), `positions` that are added to its keys, or None.

    `visible` bool is False at padding, in a shape that (B, heads, queries, K) includes; None: all is read.
    """

    states: Tensor
    positions: Tensor | None = None
    visible: Tensor | None = None


class Attention(nn.Module):
    """Attention of some vectors to others, or to themselves."""

    def __init__(self, config: EncoderShape) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout)

    def weights(self, queries: Tensor, keys: Tensor, visible: Tensor | None = None) -> Tensor:
        """How each head weighs keys (B, K, H) for queries (B, Q, H): (B, heads, Q, K), rows sum to 1."""
        return attention_weights(self.query(queries), self.key(keys), self.heads, visible)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
        """Outputs (B, Q, H) for queries (B, Q, H), keys and values (B, K, H); `visible` as in `Memory`."""
        mixed = attend(self.query(queries), self.key(keys), self.value(values), self.heads, visible, self.dropout)
        return cast(Tensor, self.output(mixed))


class DecoderBlock(RecomputableBlock):
    """Self-attention, cross-attention if it `crosses`, two dense layers; a residual and a LayerNorm after each."""

    def __init__(self, config: EncoderShape, crosses: bool = True) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attention = Attention(config)
        self.self_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.cross_attention = Attention(config) if crosses else None
        self.cross_norm = nn.LayerNorm(width, eps=config.norm_eps) if crosses else None
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.activation = activation(config.activation)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        memory: Memory | None = None,
        before: Tensor | None = None,
    ) -> Tensor:
        """Outputs (B, T, H) for `hidden` (B, T, H); self-attention also reads the vectors `before` (B, P, H) them.

        `visible` bool, in a shape that (B, heads, T, P + T) includes, is False where self-attention must not look.
        """
        asking = _placed(hidden, positions)
        keys, values = asking, hidden
        if before is not None:
            keys, values = torch.cat([before, asking], dim=1), torch.cat([before, hidden], dim=1)
        hidden = self.self_norm(self.dropout.add(hidden, self.self_attention(asking, keys, values, visible)))
        if self.cross_attention is not None and self.cross_norm is not None:
            hidden = self.cross_norm(self.dropout.add(hidden, self._cross(hidden, positions, memory)))
        return cast(Tensor, self.output_norm(self.dropout.add(hidden, self.fc2(self.activation(self.fc1(hidden))))))

    def _cross(self, hidden: Tensor, positions: Tensor | None, memory: Memory | None) -> Tensor:
        if self.cross_attention is None or memory is None:
            raise ValueError("a block with cross-attention needs what it reads")
        keys = _placed(memory.states, memory.positions)
        attended: Tensor = self.cross_attention(_placed(hidden, positions), keys, memory.states, memory.visible)
        return attended


def _placed(vectors: Tensor, positions: Tensor | None) -> Tensor:
    return vectors if positions is None else vectors + positions


class Blocks(nn.Module):
    """Such blocks one after the other."""

    def __init__(self, config: EncoderShape, crosses: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(config, crosses) for _ in range(config.layers))

    def forward(
        self,
        hidden: Tensor,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        memory: Memory | None = None,
        before: Tensor | None = None,
    ) -> Tensor:
        """The outputs (L, B, T, H) of every block; `before` (B, L, P, H) has vectors for each, else as in a block."""
        outputs = []
        for number, block in enumerate(self.levels()):
            hidden = block.run(hidden, positions, visible, memory, None if before is None else before[:, number])
            outputs.append(hidden)
        return torch.stack(outputs)

    def inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What each block reads (B, L, T, H), and the outputs (B, T, H): what comes before other vectors."""
        read = []
        for block in self.levels():
            read.append(hidden)
            hidden = block.run(hidden)
        return torch.stack(read, dim=1), hidden

    def levels(self) -> list[DecoderBlock]:
        """The blocks from the inputs to the outputs."""
        return list(self._each())

    def _each(self) -> Iterator[DecoderBlock]:
        for block in self.blocks:
            yield cast(DecoderBlock, block)
