"""Features of pictures by a frozen network that has seen ImageNet, for the classifiers of attributes.

The network is EfficientNet-Lite0 (`mlim/models/images/lite.py`); of a picture its mean cell at each stride is read.
Pictures are read one by one, so that features, and what trees make of them, do not depend on which pictures are read
together: a served pair has the score that it had when it was judged.
"""

from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.data.images import as_floats, to_pixels
from mlim.errors import InputError
from mlim.models.images.lite import Lite0
from mlim.models.storage import stored_shapes, stored_tensors, write_tensors
from mlim.models.weights import NamedTensors, fill, named_shapes, named_tensors, on_meta
from mlim.pairs.similarities import Vector
from mlim.stacking.pictures import Picture, picture_of

LITE0: Final = "lite0"  # as in the recipe (`stack.features`)
COARSEST: Final = 32  # stride of the last grid


class LiteFeatures:
    """The mean cells of a picture in the grids of EfficientNet-Lite0, on the CPU."""

    def __init__(self, network: Lite0) -> None:
        self._network = network.eval().requires_grad_(False)

    @classmethod
    def from_package(cls) -> Self:
        """With the weights that a package carries; `InputError` where it is missing."""
        network = Lite0(COARSEST)
        return cls(_filled(network, network.start()))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """With the weights that `save` wrote; `InputError` where they cannot be read or are others."""
        network = on_meta(lambda: Lite0(COARSEST))
        wanted = named_shapes(network)
        if stored_shapes(path) != wanted:
            raise InputError(f"{path}: holds other weights than those of EfficientNet-Lite0; run `mlim stack`")
        return cls(_filled(network.to_empty(device="cpu"), stored_tensors(path, wanted)))

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, so that a model needs no package when it is used."""
        write_tensors(path, named_tensors(self._network))

    def of(self, pixels: NDArray[np.uint8]) -> Vector:
        """The features (432,) of a picture (S, S, 3)."""
        with torch.inference_mode():
            grids = self._network.grids(as_floats(to_pixels([pixels], 1)))
            return torch.cat([grid.mean(dim=(2, 3))[0] for grid in grids]).numpy()

    def measure(self, pixels: NDArray[np.uint8]) -> Picture:
        """Everything that is measured on a picture (S, S, 3), with its features."""
        return picture_of(pixels, self.of(pixels))


def _filled(network: Lite0, weights: NamedTensors) -> Lite0:
    fill(network, weights)
    return network
