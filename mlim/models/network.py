"""What training, checkpoints and tables know of any network: its parts, its blocks, and how it is saved."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Part = Literal["embedder", "transformer", "decoder", "heads"]
COMPILED: tuple[Part, ...] = ("embedder", "decoder")  # as wholes, beside the blocks


class RecomputableBlock(nn.Module):
    """A block of a transformer; with `recompute` it keeps only its inputs for the backward pass.

    The rest is computed again there: about a third more time for much less memory; the gradients stay the same bit for
    bit.
    """

    recompute = False

    def run(self, *inputs: Any) -> Tensor:
        """What calling the block gives, recomputed in the backward pass where that is wanted."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self, *inputs, use_reentrant=False))
        return cast(Tensor, self(*inputs))


class Network(nn.Module, ABC):
    """A network that is trained, whatever it is made of and whatever it learns."""

    @abstractmethod
    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to; of two parts that share one, the first has it."""

    @abstractmethod
    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """Its blocks from the inputs to the outputs; those of one level (of two towers) work side by side."""

    @abstractmethod
    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""

    def blocks(self) -> Iterator[RecomputableBlock]:
        """What is compiled, recomputed and sharded one by one."""
        for level in self.levels():
            yield from level

    def shared_parameters(self) -> list[nn.Parameter]:
        """What every loss goes through: the parameters of all blocks."""
        return [parameter for block in self.blocks() for parameter in block.parameters()]

    def part_of_parameters(self) -> dict[str, Part]:
        """The part of every parameter by its name. `ValueError` for one that belongs to none."""
        owners: dict[nn.Parameter, Part] = {}
        for part, modules in self.parts().items():
            for module in modules:
                for parameter in module.parameters():
                    owners.setdefault(parameter, part)
        named = dict(self.named_parameters())
        if orphans := [name for name, parameter in named.items() if parameter not in owners]:
            raise ValueError(f"{type(self).__name__}.parts() leaves out {', '.join(orphans)}")
        return {name: owners[parameter] for name, parameter in named.items()}

    def compile_parts(self) -> None:
        """Compile blocks, embedders and decoders in place (torch.compile); names and values of weights stay.

        Every block by itself: they are alike, so that the compiler works once for all of them.
        """
        for block in self.blocks():
            block.compile(dynamic=True)
        for part in COMPILED:
            for module in self.parts().get(part, ()):
                module.compile(dynamic=True)
