"""The shape of a network whose blocks all have one width: what such a system stores of itself."""

from dataclasses import dataclass

from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, Inputs
from mlim.recipe.system import BlocksSystem, SidedSystem

WIDENING = 4  # of the vectors between the two dense layers of a block, as in BERT


@dataclass(frozen=True)
class BlocksShape:
    """`layers` blocks."""

    hidden_size: int
    layers: int
    heads: int
    dropout: float
    activation: str = BERT_ACTIVATION
    norm_eps: float = BERT_NORM_EPS

    @property
    def intermediate_size(self) -> int:
        """Numbers between the two dense layers of a block."""
        return WIDENING * self.hidden_size


class ShapedInputs(Inputs):
    """What a network reads, and its shape; stored beside the weights as JSON."""

    shape: BlocksSystem

    @property
    def patches(self) -> int:
        """Vectors of a picture, at most."""
        raise NotImplementedError

    def blocks(self, depth: int) -> BlocksShape:
        """So many of its blocks."""
        return BlocksShape(self.shape.width, depth, self.shape.heads, self.shape.dropout)

    @property
    def hidden_size(self) -> int:
        """Numbers in a vector."""
        return self.shape.width

    @property
    def activation(self) -> str:
        """Between two dense layers."""
        return BERT_ACTIVATION

    @property
    def norm_eps(self) -> float:
        """Of the layer norms."""
        return BERT_NORM_EPS

    @property
    def tied_words(self) -> bool:
        """Words are predicted by the vectors that they are read as."""
        return True


class SidedInputs(ShapedInputs):
    """What one reads that has an image side."""

    shape: SidedSystem

    @property
    def grid(self) -> int:
        """Vectors along a side of a picture."""
        return self.shape.image.cells(self.image_size)

    @property
    def patches(self) -> int:
        """Vectors of a picture."""
        return self.grid**2
