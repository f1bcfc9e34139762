"""What systems offer that put texts and pictures into one space."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from mlim.models.system import Shown


class Vectors(NamedTuple):
    """Unit vectors of texts and pictures (B, D), and the temperature (1,) that divides their inner products."""

    text: Tensor
    image: Tensor
    temperature: Tensor


@runtime_checkable
class Compares(Protocol):
    """A system that gives comparable vectors."""

    projection: nn.Module

    def vectors(self, shown: Shown) -> Vectors:
        """Vectors of the items; nothing is hidden, and text and picture do not see each other."""
