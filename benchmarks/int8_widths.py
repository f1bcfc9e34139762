"""From which width on do weights of 8 bits pay? Milliseconds per pair by width and blocks: torch, ONNX, ONNX in 8 bits.

    python benchmarks/int8_widths.py [--widths 128,256,384] [--blocks 2,12] [--tokens 16 --grid 4] [--rounds 5]

What is an item's own is computed before, as `mlim score` does once for an item: the times are of the sequence of both
items. Networks have the paper's shape at these sizes and random weights, which cost what trained ones cost; all take
turns in one process and one thread, and times are processor seconds. `mlim export --int8` says what 8 bits change in
the scores of a trained model.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from late_joining import sides
from measure import heading, median_ratio, table

from mlim.matching.batch import one_thread
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.onnx.export import export_matcher, quantized
from mlim.recipe import load_recipe

PACKAGES = ("mlim", "torch", "onnxruntime")
TORCH, ONNX, INT8 = "torch", "ONNX", "ONNX int8"
MILLISECONDS = 1000
Way = Callable[[], object]


def matcher_of(blocks: int, width: int, given: argparse.Namespace) -> Matcher:
    """A random network of heads as wide as the demo's."""
    settings = [
        f"model.layers={blocks}", f"model.hidden_size={width}", f"model.heads={width // 32}",
        f"model.intermediate_size={4 * width}", f"image.grid={given.grid}", f"image.size={16 * given.grid}",
        f"text.max_tokens={given.tokens}",
    ]  # fmt: skip
    config = MlimConfig.from_recipe(load_recipe("demo", settings), 800)
    return Matcher.from_mlim(Mlim.random(config, seed=0), 0.0, 0, "joint").eval()


def ways(matcher: Matcher, given: argparse.Namespace) -> dict[str, Way]:
    """What reads a batch of pairs whose items are embedded."""
    config = matcher.config.backbone
    states = [matcher.item_states(side, "both") for side in sides(config, given.pairs, given.tokens)]
    graphs = export_matcher(matcher, "both", given.tokens, config.image_size)
    networks = {TORCH: matcher, ONNX: graphs, INT8: quantized(graphs)}
    return {name: lambda network=network: network.join(*states, "both") for name, network in networks.items()}


def measured(chosen: dict[str, Way], rounds: int, pairs: int) -> dict[str, list[float]]:
    """Milliseconds per pair of each, by round; one round before is not counted."""
    found: dict[str, list[float]] = {name: [] for name in chosen}
    for number in range(rounds + 1):
        for name, way in chosen.items():
            started = time.process_time()
            way()
            if number:
                found[name].append((time.process_time() - started) / pairs * MILLISECONDS)
    return found


def row(blocks: int, width: int, found: dict[str, list[float]]) -> list[str]:
    times = [f"{statistics.median(each):.2f}" for each in found.values()]
    ratios = [f"{median_ratio(found[TORCH], found[name]):.2f}" for name in (ONNX, INT8)]
    return [str(blocks), str(width), *times, *ratios]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="128,256,384")
    parser.add_argument("--blocks", default="2,12")
    for name, default in (("tokens", 16), ("grid", 4), ("pairs", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    lines = []
    with one_thread(), torch.inference_mode():
        for blocks in map(int, given.blocks.split(",")):
            for width in map(int, given.widths.split(",")):
                chosen = ways(matcher_of(blocks, width, given), given)
                lines.append(row(blocks, width, measured(chosen, given.rounds, given.pairs)))
    print(heading(PACKAGES))
    print(f"{given.pairs} pairs at a time, {given.tokens} tokens and {given.grid**2} patches an item, one thread\n")
    columns = ["blocks", "width", *(f"{name}, ms per pair" for name in (TORCH, ONNX, INT8))]
    print(table([*columns, "ONNX x torch", "ONNX int8 x torch"], lines))


if __name__ == "__main__":
    main()
