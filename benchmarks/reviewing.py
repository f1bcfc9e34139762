"""What do labels of the review queue teach, compared with labels of random pairs? A simulated reviewer answers.

    python benchmarks/reviewing.py --catalog data/catalog.yaml --work build/demo [--recipe demo] [--seeds 10]
                                   [--learner network]

The work folder holds the items and candidates of a catalog whose rule (`pairs.decided_by`, inside families) is the
reviewer's knowledge. A random forest over similarities of texts, attributes and pictures learns from the answers so
far and scores all candidates for the next round; or, with `--learner network`, the network of the recipe's main
variant, which is fine-tuned from the pre-training in the work folder each time. Half of the families, drawn anew for
each seed, are held out; the PR-AUC is of their candidates. All ways begin with the same labels: random candidates and
the most similar ones.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from measure import heading, table
from review_learners import Forest, Learner, Network
from sklearn.metrics import average_precision_score

from mlim.catalog.description import load_description
from mlim.console import SilentBar
from mlim.evaluation.baselines import similarities
from mlim.evaluation.label_cost import label_cost
from mlim.files import atomic_folder, write_json
from mlim.matching.review import QueueSettings, choose_queue, shortlist
from mlim.pairs.variation import EMPTY, value_numbers
from mlim.recipe import Recipe, load_recipe
from mlim.report.catalog_results import reviewing_part
from mlim.shards.items import open_items
from mlim.stacking.items import describe
from mlim.tracking import CATALOG_TAG, REVIEW_STAGE, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

PACKAGES = ("mlim", "scikit-learn")
WAYS = ("queue", "most doubtful", "random")
ROUND = 100  # labels
SUMMARY_FILE = "summary.json"


class Candidates(NamedTuple):
    """Candidates (n,) of a catalog: ids, similarities (n, k), the reviewer's answers; and the families of items."""

    pairs: pd.DataFrame
    features: np.ndarray
    truth: np.ndarray
    families: dict[str, str]


def read(catalog: Path, workspace: Workspace, recipe: Recipe) -> Candidates:
    """The candidates whose answer the catalog knows."""
    description = load_description(catalog)
    items = pd.read_parquet(workspace.valid / "index.parquet")
    pairs = pd.read_parquet(workspace.candidates / "candidates.parquet")[["item_a", "item_b"]]
    place = pd.Series(np.arange(len(items)), index=items["id"])
    first, second = (place[pairs[side]].to_numpy() for side in ("item_a", "item_b"))
    store = open_items(recipe.loader, workspace)
    described = describe(store, items["id"].tolist(), SilentBar())
    columns = similarities(described, np.ones(len(items), dtype=bool), first, second)
    numbers = value_numbers(items["facts"], description.pairs.decided_by, description.values)
    family = items["family"].to_numpy()
    one_family = family[first] == family[second]
    known = ~one_family | ((numbers[first] != EMPTY) & (numbers[second] != EMPTY)).all(axis=1)
    truth = one_family & (numbers[first] == numbers[second]).all(axis=1)
    features = np.nan_to_num(columns.to_numpy(dtype=np.float32), nan=0.5)
    families = dict(zip(items["id"], items["family"], strict=True))
    return Candidates(pairs[known].reset_index(drop=True), features[known], truth[known], families)


def asked(
    way: str, given: Candidates, probability: np.ndarray, left: np.ndarray, number: int, generator: np.random.Generator
) -> list:
    """The places of the next pairs that the reviewer is asked about, of those that are `left`."""
    if way == "random":
        return list(generator.choice(left, min(number, len(left)), replace=False))
    if way == "most doubtful":
        return list(left[np.argsort(np.abs(probability[left] - 0.5), kind="stable")[:number]])
    scored = given.pairs.iloc[left].assign(score=probability[left], probability=probability[left])
    settings = QueueSettings(pairs=number)
    queue = choose_queue(shortlist([scored], set(), set(), settings), given.families, {}, settings)
    place = dict(zip(zip(scored["item_a"], scored["item_b"], strict=True), left, strict=True))
    return [place[one.pair] for one in queue]


def learning_curve(
    way: str, given: Candidates, learner: Learner, labels: int, number: int, seed: int
) -> Iterator[tuple[int, int, float]]:
    """Labels, matches among them, and PR-AUC on the held-out families, after every `number` labels."""
    generator = np.random.default_rng(seed)
    names = sorted({str(family) for family in given.families.values()})
    held_out = set(generator.choice(names, len(names) // 2, replace=False))
    sides = [given.pairs[side].map(given.families).astype(str).isin(held_out).to_numpy() for side in given.pairs]
    pool, test = np.flatnonzero(~sides[0] & ~sides[1]), np.flatnonzero(sides[0] & sides[1])
    similar = generator.choice(
        pool[np.argsort(-given.features[pool, 0], kind="stable")[: 5 * number]], number // 2, False
    )
    others = generator.choice(np.setdiff1d(pool, similar), number - len(similar), replace=False)
    answered = [*map(int, similar), *map(int, others)]
    for last in range(number, labels + 1, number):
        probability = learner(answered, seed)
        found = int(given.truth[answered].sum())
        yield len(answered), found, float(average_precision_score(given.truth[test], probability[test]))
        if last + number <= labels:
            left = pool[~np.isin(pool, answered)]
            answered += map(int, asked(way, given, probability, left, number, generator))


Curves = dict[str, list[list[tuple[int, int, float]]]]  # of each way, seed by seed


def rows(curves: Curves, seeds: int) -> Iterator[list[str]]:
    """One row for each round and way: means over seeds, and the difference to random pairs seed by seed."""
    for number in range(len(curves["random"][0])):
        of_random = np.array([curve[number][2] for curve in curves["random"]])
        for way in curves if number else [*curves][:1]:
            matches = np.mean([curve[number][1] for curve in curves[way]])
            scores = np.array([curve[number][2] for curve in curves[way]])
            gain = scores - of_random
            spread = f"{gain.mean():+.3f} ({(gain > 0).sum()} of {seeds} seeds)" if number and way != "random" else ""
            yield [
                str(curves[way][0][number][0]),
                way if number else "start",
                f"{matches:.1f}",
                f"{scores.mean():.3f}",
                spread,
            ]


def summary(given: Candidates, curves: Curves, confidence: float, learner: str = Forest.name) -> dict:
    """What `mlim results` shows: PR-AUC by labels, and what of the random labels each other way needs."""
    labels = [answered for answered, _, _ in curves["random"][0]]
    scores = {way: np.array([[score for *_, score in curve] for curve in of]) for way, of in curves.items()}
    ways: dict[str, dict] = {way: {"pr_auc": of.mean(axis=0).tolist()} for way, of in scores.items()}
    for way in ways:
        if way != "random":
            ways[way]["cost"] = label_cost(labels, scores[way], scores["random"], confidence, seed=0)
    told = {"candidates": len(given.pairs), "matches": float(given.truth.mean()), "seeds": len(curves["random"])}
    return {**told, "learner": learner, "labels": labels, "ways": ways}


def keep(found: dict, recipe: Recipe, workspace: Workspace) -> None:
    """Write the summary into the work folder, and track it as a run, by which `mlim results` finds it."""
    origin = lineage(workspace)
    with atomic_folder(workspace.simulated_review) as folder:
        write_json(folder / SUMMARY_FILE, found)
        with stage_run(recipe.record, workspace, REVIEW_STAGE, REVIEW_STAGE, origin) as run:
            run.tag(CATALOG_TAG, origin.catalog)
            run.artifact(folder / SUMMARY_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a work folder after `mlim candidates`")
    parser.add_argument("--recipe", default="demo", help="whose results it belongs to")
    parser.add_argument("--labels", type=int, default=600)
    parser.add_argument("--round", type=int, default=ROUND, help="labels before the forest learns again")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS, help="beside random pairs")
    parser.add_argument("--learner", choices=("forest", "network"), default="forest")
    parser.add_argument("--steps", type=int, default=400, help="of a fine-tuning of the network")
    options = parser.parse_args()
    if options.labels < options.round:
        parser.error("--labels: at least those of one --round")
    recipe, workspace = load_recipe(options.recipe), Workspace(options.work)
    given = read(options.catalog, workspace, recipe)
    learner = Forest(given.features, given.truth)
    if options.learner == "network":
        learner = Network(recipe, workspace, given.pairs.assign(label=given.truth), options.steps)
    sizes = (options.labels, options.round)
    curves = {
        way: [list(learning_curve(way, given, learner, *sizes, seed)) for seed in range(options.seeds)]
        for way in dict.fromkeys([*options.ways, "random"])
    }
    found = summary(given, curves, recipe.evaluate.confidence, learner.name)
    keep(found, recipe, workspace)
    print(heading(PACKAGES))
    print(
        f"{len(given.pairs):,} candidates, {given.truth.mean():.1%} of them matches; means of {options.seeds} seeds\n"
    )
    columns = ("labels", "way", "matches among them", "PR-AUC", "gain over random pairs")
    print(table(columns, rows(curves, options.seeds)))
    print()
    print("\n".join(reviewing_part(found)[2:]).strip())


if __name__ == "__main__":
    main()
