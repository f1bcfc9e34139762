"""Is EfficientNet-Lite0 faster with its norms in the weights and channels last? Beside the plain layers, side by side.

    python benchmarks/lite0.py [--sizes 64,128] [--rounds 10]

Both networks have the weights of the package and read the same pictures in turn, on one thread. Medians of processor
time; the largest difference of their grids is printed, too.
"""

import argparse
import statistics
import time

import torch
from measure import heading, table
from torch import Tensor
from torch.nn import functional

from mlim.models.images.lite import BRIGHTEST, GRAY, SPREAD, Layer, Lite0, LiteReader
from mlim.recipe.image_sides import LiteSide

BATCHES = (1, 32)


class PlainLayer(Layer):
    """Padding, convolution, norm and ReLU6 one after the other."""

    def forward(self, grid: Tensor) -> Tensor:
        before, after = self._padding(grid.shape[-1])
        grid = self.norm(self.conv(functional.pad(grid, (before, after, before, after))))
        return functional.relu6(grid) if self.active else grid


class PlainLite0(Lite0):
    """Such layers, with channels first."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.blocks(self.stem((BRIGHTEST * pixels - GRAY) / SPREAD))


def network(size: int, plain: bool) -> Lite0:
    """The network that reads pictures of `size` pixels in 16 patches."""
    reader = LiteReader(LiteSide(stride=size // 4), 1)
    reader.load_state_dict(dict(reader.start()), strict=False)  # the projection stays random and is not read
    for module in reader.modules() if plain else ():
        module.__class__ = {Layer: PlainLayer, Lite0: PlainLite0}.get(type(module), type(module))
    return reader.network.eval()


def milliseconds(network: Lite0, pictures: Tensor) -> float:
    """Processor time for one of the pictures (B, 3, S, S)."""
    started = time.process_time()
    network(pictures)
    return 1000 * (time.process_time() - started) / len(pictures)


def row(size: int, batch: int, rounds: int) -> list[str]:
    pictures = torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(0))
    plain, ours = network(size, plain=True), network(size, plain=False)
    apart = (plain(pictures) - ours(pictures)).abs().max().item()
    spent = [(milliseconds(plain, pictures), milliseconds(ours, pictures)) for _ in range(rounds)]
    first, second = (statistics.median(each) for each in zip(*spent, strict=True))
    return [str(size), str(batch), f"{first:.1f}", f"{second:.1f}", f"{first / second:.2f}", f"{apart:.1g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,128", help="pixels per side: 64 (stride 16) and 128 (stride 32)")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = [row(int(size), batch, options.rounds) for size in options.sizes.split(",") for batch in BATCHES]
    print(heading(("torch",)))
    print(table(("pixels", "batch", "plain, ms a picture", "ours", "ratio", "largest difference"), found))


if __name__ == "__main__":
    main()
