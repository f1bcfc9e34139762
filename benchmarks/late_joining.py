"""What joining items late saves: seconds per pair, by how many blocks read both items and by the pairs of an item.

    python benchmarks/late_joining.py [--blocks 12 --width 256 --tokens 48 --grid 6] [--joint 1,6] [--pairs 64]

A pair costs the joint blocks over both items and, once for each item, the blocks below them: with P pairs per item
seconds = joining + 2 * item / P. Both are timed on random weights, in turn with the plain path (all blocks read both
items), one thread. The same is counted in operations at this shape and at the recipe `paper`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measure import heading, table

from mlim.data.batches import PairSide
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher, MatcherConfig
from mlim.models.mlim import Mlim
from mlim.models.pair_network import PAIR
from mlim.models.weights import on_meta
from mlim.recipe import load_recipe

PACKAGES = ("mlim", "torch")
PAIRS_PER_ITEM = (1, 10, 100)
Sides = tuple[PairSide, PairSide]


def shape(blocks: int, width: int, tokens: int, grid: int) -> MlimConfig:
    """The paper's network at another size."""
    settings = [
        f"model.layers={blocks}", f"model.hidden_size={width}", f"model.heads={width // 64}",
        f"model.intermediate_size={4 * width}", f"image.grid={grid}", f"image.size={16 * grid}",
        f"text.max_tokens={tokens}",
    ]  # fmt: skip
    return MlimConfig.from_recipe(load_recipe("demo", settings), 8000)


def sides(config: MlimConfig, pairs: int, tokens: int) -> Sides:
    """Random pairs whose texts are all `tokens` long."""
    source, whole = torch.Generator().manual_seed(0), torch.ones(pairs, tokens, dtype=torch.bool)

    def side() -> PairSide:
        ids = torch.randint(5, config.vocabulary_size, (pairs, tokens), generator=source)
        return PairSide(ids, whole, torch.rand(pairs, 3, config.image_size, config.image_size, generator=source))

    return side(), side()


def matcher_of(config: MlimConfig, joint_blocks: int | None) -> Matcher:
    """A random network."""
    return Matcher.from_mlim(Mlim.random(config, seed=0), 0.0, 0, "joint", joint_blocks=joint_blocks).eval()


def operations(config: MlimConfig, joint_blocks: int | None, tokens: int, pairs_per_item: int) -> float:
    """Counted operations of a pair, when what is an item's own is computed once."""
    shape_of = MatcherConfig(backbone=config, head_dropout=0.0, read_out="joint", joint_blocks=joint_blocks)
    matcher = on_meta(lambda: Matcher(shape_of))
    text = torch.ones(1, tokens, dtype=torch.bool)
    packing = matcher.pack_pairs(text, text, "both")
    whole = matcher.operations(packing, "both")
    if packing.items is None:
        return whole
    joining = matcher.operations(packing._replace(items=None), "text")
    return joining + (whole - joining) / pairs_per_item


def timed(work: Callable[[], object], amount: int) -> float:
    """Seconds for one of `amount`."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / amount


def measured(config: MlimConfig, joint: list[int], given: argparse.Namespace) -> list[list[str]]:
    """Rows of the table: plain first, then each number of joint blocks."""
    first, second = sides(config, given.pairs, given.tokens)
    plain, late = matcher_of(config, None), {blocks: matcher_of(config, blocks) for blocks in joint}
    whole: list[float] = []
    parts: dict[int, list[tuple[float, float]]] = {blocks: [] for blocks in joint}
    for _ in range(given.rounds):
        whole.append(timed(lambda: plain(first, second, "both"), given.pairs))
        for blocks, matcher in late.items():
            states = [matcher.item_states(side, "both") for side in (first, second)]
            item = timed(lambda matcher=matcher: matcher.item_states(first, "both"), given.pairs)
            joining = timed(lambda matcher=matcher, of=states: matcher.join(*of, "both"), given.pairs)
            parts[blocks].append((item, joining))
    rows = [[str(given.blocks), "all", f"{statistics.median(whole) * 1000:.2f}", *["1.00"] * len(PAIRS_PER_ITEM)]]
    for blocks, each in parts.items():
        rounds = list(zip(whole, each, strict=True))
        ratios = [
            statistics.median(all_of / (joining + PAIR * item / per) for all_of, (item, joining) in rounds)
            for per in PAIRS_PER_ITEM
        ]
        joining = statistics.median(joining for _, joining in each)
        rows.append([str(given.blocks), str(blocks), f"{joining * 1000:.2f}", *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def counted(name: str, config: MlimConfig, joint: list[int], tokens: int) -> list[list[str]]:
    """Rows of the table of operations."""
    rows = []
    for blocks in [None, *joint]:
        each = [operations(config, blocks, tokens, per) for per in PAIRS_PER_ITEM]
        plain = operations(config, None, tokens, 1)
        ratios = [f"{plain / one:.2f}" for one in each]
        rows.append([name, "all" if blocks is None else str(blocks), f"{each[-1] / 1e9:.2f}", *ratios])
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 12), ("width", 256), ("tokens", 48), ("grid", 6), ("pairs", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--joint", default="1,6")
    given = parser.parse_args()
    joint = [int(blocks) for blocks in given.joint.split(",")]
    torch.set_num_threads(1)
    config = shape(given.blocks, given.width, given.tokens, given.grid)
    ratios = [f"x plain, {per} pairs per item" for per in PAIRS_PER_ITEM]
    print(heading(PACKAGES))
    with torch.inference_mode():
        print(table(["blocks", "joint blocks", "ms per pair, joining", *ratios], measured(config, joint, given)))
    paper = MlimConfig.from_recipe(recipe := load_recipe("paper"), 30522)
    rows = counted("this shape", config, joint, given.tokens)
    rows += counted("recipe paper", paper, [1, paper.layers // 2], recipe.text.max_tokens)
    print("\nCounted operations:\n")
    print(table(["shape", "joint blocks", f"GFLOP per pair, {PAIRS_PER_ITEM[-1]} pairs per item", *ratios], rows))


if __name__ == "__main__":
    main()
