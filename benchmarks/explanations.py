"""Which regions of a picture decide? The deletion test of occlusion and of attention, on test pairs of a work folder.

    python benchmarks/explanations.py --work build/demo [--pairs 60] [--grids 4,8]

The tenth of the regions of both pictures that a method names first is hidden with the picture's mean colour, and the
score moves; so it does for random tenths (Samek et al. 2017, with one step). A method that finds what decides moves the
score further. Occlusion asks the scorer about hidden regions: about each alone, or about those that are hidden besides
the ones found before (what `mlim explain` shows). Attention rollout (Abnar and Zuidema 2020) asks the matcher's
attention alone, whatever decides. Intervals are of pairs (bootstrap, 95 %).
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import heading, table

import mlim
from mlim.data.collate import Pair, PairCollator
from mlim.data.images import as_floats
from mlim.evaluation.interaction import attention_weights
from mlim.matching.explain import (
    Cell,
    Question,
    region_effects,
    strongest_cells,
    strongest_regions,
    without,
)
from mlim.matching.item_parts import parts_of
from mlim.matching.items import ItemsInMemory
from mlim.matching.model_scorer import ModelScorer
from mlim.models.matcher import Matcher
from mlim.recipe import stored_recipe
from mlim.shards.items import open_items
from mlim.workspace import Workspace

PACKAGES = ("mlim", "torch")
SHARE = 0.1  # of the regions
RANDOM_SETS = 10
RESAMPLES = 2000


@contextmanager
def inputs_of(blocks: list) -> Iterator[list[torch.Tensor]]:
    """What each of the blocks is given while the context is open."""
    given: list[torch.Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])) for block in blocks]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def rolled_out(blocks: list, run: Callable[[], object]) -> torch.Tensor:
    """How much of the mean output of a sequence comes from each of its inputs (S,)."""
    with torch.inference_mode(), inputs_of(blocks) as given:
        run()
        flow = None
        for block, hidden in zip(blocks, given, strict=True):
            attention = attention_weights(block, hidden.reshape(-1, hidden.shape[-1])).mean(dim=0)
            step = (attention + torch.eye(len(attention))) / 2  # the residual
            flow = step if flow is None else step @ flow
    return flow.mean(dim=0)


def attended(matcher: Matcher, collator: PairCollator) -> np.ndarray:
    """Attention rollout at the patches of both pictures (2, grid, grid)."""
    blocks, grid = matcher.backbone.encoder.levels(), matcher.grid
    if matcher.config.blocks_alone:
        raise SystemExit(
            "attention rollout needs a model whose blocks all read both items (finetune.joint_blocks: null)"
        )
    if matcher.read_out == "separate":
        sides = [collator.side([name]) for name in ("a", "b")]
        shares = [
            rolled_out(
                blocks, lambda side=side: matcher.item_vectors(side._replace(pixels=as_floats(side.pixels)), "both")
            )
            for side in sides
        ]
        found = [share[-(grid * grid) :] for share in shares]
    else:
        batch = collator([Pair("a", "b", 0)])
        first, second = (side._replace(pixels=as_floats(side.pixels)) for side in (batch.first, batch.second))
        share = rolled_out(blocks, lambda: matcher(first, second, "both"))
        start = 1 + int(first.attention.sum())  # after [CLS] and the first text
        found = [share[start : start + grid * grid], share[-(grid * grid) :]]
    return np.stack([part.reshape(grid, grid).double().numpy() for part in found])


def moves(
    scorer: ModelScorer, question: Question, chosen: dict[str, list[Cell]], generator: np.random.Generator
) -> dict:
    """How far the score moves when the chosen regions are hidden, and the mean of random ones."""
    number, every = max(map(len, chosen.values())), list(np.ndindex(2, question.grid, question.grid))
    drawn = [[every[at] for at in generator.choice(len(every), number, replace=False)] for _ in range(RANDOM_SETS)]
    pairs = [without(question.shown, cells, question.grid) for cells in ([], *chosen.values(), *drawn)]
    score, *hidden = scorer(pairs)
    moved = np.abs(np.array(hidden) - score)
    return dict(zip(chosen, moved, strict=False)) | {"random": moved[len(chosen) :].mean()}


def test_pairs(workspace: Workspace, number: int) -> pd.DataFrame:
    """Random test pairs, half of them matches."""
    pairs = pd.read_parquet(workspace.pairs / "pairs.parquet")
    test = pairs[pairs["split"] == "test"]
    halves = [test[test["label"] == label] for label in (0, 1)]
    return pd.concat([half.sample(min(number // 2, len(half)), random_state=0) for half in halves])


def measure(model: mlim.MatchingModel, workspace: Workspace, grid: int, number: int) -> pd.DataFrame:
    """How far scores move, one row for each pair and one column for each method."""
    store = open_items(stored_recipe(workspace.recipe).loader, workspace)
    scorer, matcher = ModelScorer(model, "both"), model._matcher
    generator, rows = np.random.default_rng(0), []
    for one in test_pairs(workspace, number).itertuples():
        items = [parts_of(store.text(item), {}, store.image(item)) for item in (one.item_a, one.item_b)]
        question = Question.about(*items, "both", grid)
        effects, score = region_effects(scorer, question.shown, grid)
        together = strongest_regions(scorer, question.shown, effects, score, SHARE)
        number = max(1, round(SHARE * effects.size))
        chosen = {
            "occlusion, one after the other": [tuple(region[:3]) for region in together],
            "occlusion, each alone": strongest_cells(np.abs(effects), number),
        }
        if grid == matcher.grid and isinstance(matcher, Matcher):
            source = ItemsInMemory()
            for name, item in zip("ab", items, strict=True):
                source.add(name, item.text, item.picture)
            shares = attended(matcher, PairCollator(source, model.tokenizer, model.settings.max_tokens))
            chosen["attention rollout"] = strongest_cells(shares, number)
        rows.append(moves(scorer, question, chosen, generator))
    return pd.DataFrame(rows)


def rows_of(grid: int, found: pd.DataFrame) -> Iterator[list[str]]:
    """The mean move of each method and its ratio to that of random regions."""
    generator = np.random.default_rng(1)
    drawn = generator.integers(len(found), size=(RESAMPLES, len(found)))
    random = found["random"].to_numpy()
    for name in found:
        values = found[name].to_numpy()
        low, high = np.quantile(values[drawn].mean(axis=1) / random[drawn].mean(axis=1), [0.025, 0.975])
        ratio = f"{values.mean() / random.mean():.2f} [{low:.2f}, {high:.2f}]"
        yield [f"{grid} x {grid}", str(name), f"{values.mean():.4f}", "1" if name == "random" else ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a work folder in which a model was evaluated")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--grids", default="", help="regions per side; default: the model's patches")
    options = parser.parse_args()
    workspace, model = Workspace(options.work), mlim.load(options.work, device="cpu")
    grids = [int(grid) for grid in options.grids.split(",") if grid] or [model._matcher.grid]
    measured = [(grid, measure(model, workspace, grid, options.pairs)) for grid in grids]
    print(heading(PACKAGES))
    print(f"{len(measured[0][1])} test pairs, scored by the {model.settings.scorer}; the mean move of the score\n")
    rows = [row for grid, found in measured for row in rows_of(grid, found)]
    print(table(("regions", "method", "score moves by", "times random"), rows))


if __name__ == "__main__":
    main()
