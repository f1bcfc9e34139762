"""The transformer: BERT's blocks over the real tokens of a batch (paper section 3.1).

Padding is taken out once before the first block and put back once after the last one; in between every linear layer,
norm and activation runs on the N real tokens alone. Only attention has to know where one item ends and the next one
starts: on a GPU in half precision a kernel for sequences of various lengths does; elsewhere queries, keys and values
are padded for the time of that one operation.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.models.activation import activation
from mlim.models.attention import attend
from mlim.models.dropout import Dropout
from mlim.models.network import RecomputableBlock
from mlim.recipe.base import Norm

QKV = 3
HALF = (torch.float16, torch.bfloat16)
FLASH_CAPABILITY = (8, 0)  # Ampere: the oldest GPUs with flash attention
FLASH_MULTIPLE = 8  # of the size of a head


class Packing(NamedTuple):
    """Where the real tokens of a padded batch lie.

    Build it with `pack` before the batch moves to its device, and move its tensors along with the batch: the host then
    never has to fetch the two numbers at the end from there.

    indices (N,) long: rows of the flattened (B * S) batch that hold real tokens; cu_seqlens (B + 1,) int32: where each
    sequence starts among the N; attention_mask (B, S) bool: False at padding; max_seqlen: tokens of the longest one.
    `masked`: padding stays where it is, and attention alone leaves it out. `visible` is the packing of the same batch
    without what is hidden, for blocks that do not read it; None where all blocks read all.
    """

    indices: Tensor
    cu_seqlens: Tensor
    attention_mask: Tensor
    max_seqlen: int
    padded: bool
    masked: bool = False
    visible: "Packing | None" = None


class Sight(NamedTuple):
    """What vectors (B, T, H) read by attention: those `before` (B, P, H) them, and each other, as far as `visible`.

    `visible` bool, in a shape that (B, heads, T, P + T) includes, is False where a vector must not look.
    """

    before: Tensor
    visible: Tensor


def pack(attention: Tensor) -> Packing:
    """The packing of a batch with `attention` (B, S) bool, False at padding; waits for the device where that lies.

    A graph that is exported keeps padding: its shapes must not depend on values.
    """
    if torch.compiler.is_exporting():
        return _keep_padding(attention, masked=True)
    lengths = attention.sum(dim=1)
    indices = attention.flatten().nonzero().squeeze(1)
    cu_seqlens = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Packing(indices, cu_seqlens, attention, int(lengths.max()), indices.numel() < attention.numel())


def without_padding(batch: int, length: int) -> Packing:
    """The packing of `batch` sequences that are all `length` long; on the CPU, without a synchronisation."""
    attention = torch.ones(batch, length, dtype=torch.bool)
    return _keep_padding(attention, masked=False) if torch.compiler.is_exporting() else pack(attention)


def _keep_padding(attention: Tensor, masked: bool) -> Packing:
    nowhere = torch.empty(0, dtype=torch.long)
    return Packing(nowhere, nowhere, attention, attention.shape[1], padded=False, masked=masked)


def take_tokens(vectors: Tensor, packing: Packing) -> Tensor:
    """The real tokens (N, H) of `vectors` (B, S, H); without padding `vectors` as they are."""
    return vectors.flatten(0, 1).index_select(0, packing.indices) if packing.padded else vectors


def put_tokens(tokens: Tensor, packing: Packing) -> Tensor:
    """The tokens (N, H) at their places of (B, S, H), zeros at padding; undoes `take_tokens`."""
    if not packing.padded:
        return tokens
    batch, length = packing.attention_mask.shape
    spread = tokens.new_zeros(batch * length, tokens.shape[-1]).index_copy(0, packing.indices, tokens)
    return spread.view(batch, length, -1)


def extended(packing: Packing, more: int) -> Packing:
    """The packing of the same sequences with `more` real tokens behind the padding of each; waits for no device."""
    attention = functional.pad(packing.attention_mask, (0, more), value=1)
    if not len(packing.indices):  # of a graph that is exported
        return _keep_padding(attention, packing.masked)
    batch, length = packing.attention_mask.shape
    rows = torch.arange(batch + 1, device=packing.indices.device)
    before = packing.indices + more * (packing.indices // length)
    added = rows[:-1, None] * (length + more) + torch.arange(length, length + more, device=rows.device)
    indices = torch.cat([before, added.flatten()]).sort().values
    cu_seqlens = packing.cu_seqlens + (more * rows).to(torch.int32)
    return Packing(indices, cu_seqlens, attention, packing.max_seqlen + more, packing.padded)


class EncoderShape(Protocol):
    """The numbers that an encoder is built from; every configuration of a network that has one holds them."""

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""

    @property
    def layers(self) -> int:
        """Blocks."""

    @property
    def heads(self) -> int:
        """Of the attention, in each block."""

    @property
    def intermediate_size(self) -> int:
        """Numbers between the two dense layers of a block."""

    @property
    def dropout(self) -> float:
        """Probability that a number becomes 0 in training."""

    @property
    def activation(self) -> str:
        """Between the two dense layers, by its name in Hugging Face configurations."""

    @property
    def norm_eps(self) -> float:
        """Of the layer norms."""


class WordShape(Protocol):
    """The numbers of a head that predicts words."""

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""

    @property
    def vocabulary_size(self) -> int:
        """Words."""

    @property
    def activation(self) -> str:
        """Between the two dense layers, by its name in Hugging Face configurations."""

    @property
    def norm_eps(self) -> float:
        """Of the layer norm."""

    @property
    def tied_words(self) -> bool:
        """Whether they are predicted by the vectors that they are read as."""


class Block(RecomputableBlock):
    """One block: attention, then two dense layers, a residual and a LayerNorm with each of both.

    As in BERT the norm comes after the residual, with `norm` pre before what is added to it (Xiong et al. 2020).
    """

    def __init__(self, config: EncoderShape, norm: Norm = "post") -> None:
        super().__init__()
        self.norm_first = norm == "pre"
        width = config.hidden_size
        self.heads = config.heads
        self.qkv = nn.Linear(width, QKV * width)  # one matrix product instead of three
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.activation = activation(config.activation)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, reads: Packing | Sight, flash: bool = False) -> Tensor:
        """Outputs like `hidden`: (N, H), or (B, S, H) where nothing is padded; `flash`: use the GPU's kernel.

        `reads` says what attention reads: all of the item, or what a `Sight` lets it.
        """
        if self.norm_first:
            hidden = self.dropout.add(hidden, self._mix(self.attention_norm(hidden), reads, flash))
            return self.dropout.add(hidden, self._widen(self.output_norm(hidden)))
        hidden = self.attention_norm(self.dropout.add(hidden, self._mix(hidden, reads, flash)))
        return cast(Tensor, self.output_norm(self.dropout.add(hidden, self._widen(hidden))))

    def _mix(self, hidden: Tensor, reads: Packing | Sight, flash: bool) -> Tensor:
        qkv = self.qkv(hidden)
        mixed = self._look(qkv, reads) if isinstance(reads, Sight) else self._attend(qkv, reads, flash)
        return cast(Tensor, self.attention_output(mixed))

    def _look(self, qkv: Tensor, sight: Sight) -> Tensor:
        before = self.attention_norm(sight.before) if self.norm_first else sight.before
        _, key, value = torch.cat([self.qkv(before), qkv], dim=1).chunk(QKV, dim=-1)
        return attend(qkv.chunk(QKV, dim=-1)[0], key, value, self.heads, sight.visible, self.dropout)

    def _widen(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(self.activation(self.fc1(hidden))))

    def _attend(self, qkv: Tensor, packing: Packing, flash: bool) -> Tensor:
        if not packing.padded:
            mask = packing.attention_mask if packing.masked else None
            return attend_padded(qkv, self.heads, mask, self.dropout)
        if flash:
            return attend_packed(qkv, self.heads, packing, self.dropout.rate if self.training else 0.0)
        attended = attend_padded(put_tokens(qkv, packing), self.heads, packing.attention_mask, self.dropout)
        return take_tokens(attended, packing)


class Encoder(nn.Module):
    """Blocks one after the other, and with `norm` pre one LayerNorm more after the last."""

    def __init__(self, config: EncoderShape, norm: Norm = "post") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, norm) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if norm == "pre" else nn.Identity()
        self._head_size = config.hidden_size // config.heads

    def forward(self, hidden: Tensor, packing: Packing, first: int = 0, end: int | None = None) -> Tensor:
        """Outputs like `hidden`: the tokens as `take_tokens` gives them, (N, H) or (B, S, H).

        `first` and `end` choose some of the blocks, as a slice does; None: up to the last one.
        """
        flash = packing.padded and self._may_flash(hidden)
        for block in self.levels()[first:end]:
            hidden = block.run(hidden, packing, flash)
        return cast(Tensor, self.last_norm(hidden)) if end is None else hidden

    def inputs(self, hidden: Tensor, packing: Packing) -> Tensor:
        """What each block reads (B, L, S, H) of vectors (B, S, H) without padding, for those that come after them."""
        read = []
        for block in self.levels():
            read.append(hidden)
            hidden = block.run(hidden, packing)
        return torch.stack(read, dim=1)

    def after(self, hidden: Tensor, before: Tensor, visible: Tensor) -> Tensor:
        """Outputs (B, T, H) of vectors that come after others, of which `before` (B, L, P, H) is what blocks read."""
        for number, block in enumerate(self.levels()):
            hidden = block.run(hidden, Sight(before[:, number], visible))
        return cast(Tensor, self.last_norm(hidden))

    def levels(self) -> list[Block]:
        """The blocks from the inputs to the outputs."""
        return [cast(Block, block) for block in self.blocks]

    def _may_flash(self, hidden: Tensor) -> bool:
        if not hidden.is_cuda or self._head_size % FLASH_MULTIPLE or varlen_attention() is None:
            return False
        autocast = torch.is_autocast_enabled("cuda")
        dtype = torch.get_autocast_dtype("cuda") if autocast else hidden.dtype
        return dtype in HALF and _has_flash(hidden.device)


def attend_padded(qkv: Tensor, heads: int, attention_mask: Tensor | None, dropout: Dropout) -> Tensor:
    """Attention over `qkv` (B, S, 3 * H) -> (B, S, H); `attention_mask` (B, S) bool, None where everything is.

    Without a mask the fast kernels of every device are open. `dropout` falls on the attention's weights, as in BERT.
    """
    apart = qkv.view(*qkv.shape[:2], QKV, heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, heads, S, size)
    if dropout.draws_cheaply(qkv):
        mixed = _attend_step_by_step(apart, attention_mask, dropout)
    else:
        query, key, value = apart.unbind(0)
        mask = None if attention_mask is None else attention_mask[:, None, None, :]
        if mask is not None and torch.compiler.is_exporting():  # a graph of bool looks for rows that read nothing
            mask = query.new_zeros(()).masked_fill(~mask, torch.finfo(query.dtype).min)
        rate = dropout.rate if dropout.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
    return mixed.transpose(1, 2).flatten(2)


def _attend_step_by_step(apart: Tensor, attention_mask: Tensor | None, dropout: Dropout) -> Tensor:
    """(3, B, heads, S, size) -> (B, heads, S, size): in fewer passes what torch does on a CPU when weights are dropped.

    No kernel there can drop weights, and the general way draws its numbers slowly.
    """
    _, batch, heads, length, size = apart.shape
    query, key, value = apart.flatten(1, 2).unbind(0)
    bias = query.new_zeros(1, 1, 1)
    if attention_mask is not None:  # the least number, not infinity: a row that reads nothing stays finite
        bias = query.new_zeros(batch, 1, length).masked_fill_(~attention_mask[:, None], torch.finfo(query.dtype).min)
        bias = bias.repeat_interleave(heads, 0)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(dropout(scores.softmax(-1)), value).view(batch, heads, length, size)


def attend_packed(qkv: Tensor, heads: int, packing: Packing, dropout: float) -> Tensor:
    """Attention within each sequence of the packed `qkv` (N, 3 * H) -> (N, H), by the GPU's flash kernel."""
    query, key, value = qkv.view(len(qkv), QKV, heads, -1).unbind(1)
    lengths, longest = packing.cu_seqlens, packing.max_seqlen
    if dropout == 0.0:
        attend = varlen_attention()
        if attend is None:
            raise ValueError("this torch has no attention over packed sequences")
        mixed = cast(Tensor, attend(query, key, value, lengths, lengths, longest, longest))
    else:  # the same kernel; the public function above has no dropout
        flash = torch.ops.aten._flash_attention_forward
        mixed = flash(query, key, value, lengths, lengths, longest, longest, dropout, False, False)[0]
    return mixed.flatten(1)


@functools.cache
def varlen_attention() -> Callable[..., Any] | None:
    """torch's attention over sequences of various lengths, from 2.10 on; it takes a second to import."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
