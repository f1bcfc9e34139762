"""How many pairs a second does a model score on a CPU: as the server does it, by `mlim score`, as ONNX, in 8 bits?

    python benchmarks/scoring_runtimes.py --work build/demo [--items 256] [--per-item 10] [--rounds 3]

Items are those of a work folder; the networks have the shape that the recipe trains and random weights, which cost what
trained ones cost. Every way does its whole work: the server decodes both pictures and tokenises both texts of every
pair (MLflow's model in this process, without HTTP and JSON), `mlim score` reads a table and writes one, without what an
earlier run computed of the items. All take turns in one process and one thread; times are processor seconds, so that
rates are of one core. Below the table is what the products of matrices of a joint sequence allow at most, counted and
timed.
"""

import argparse
import base64
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from measure import heading, median_ratio, table

from mlim.console import Terminal
from mlim.data.collate import attention_of
from mlim.data.lengths import choose_limit
from mlim.data.tokenize import TextTokenizer
from mlim.manifest import ARTIFACT
from mlim.matching.batch import ScoringRun, one_thread, score_table
from mlim.matching.model import MatchingModel
from mlim.matching.pairs_table import PairsTable
from mlim.matching.settings import ServingSettings
from mlim.models.config import MlimConfig
from mlim.models.costs import linear
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.onnx.export import export_matcher, quantized
from mlim.recipe import Recipe, load_recipe
from mlim.shards.items import ItemStore, open_items
from mlim.workspace import Workspace

PACKAGES = ("mlim", "torch", "onnxruntime")
SERVER, BATCH, ONNX, INT8 = "server, batches of 64", "mlim score", "mlim score, ONNX", "mlim score, ONNX int8"
SINGLE = "server, one by one"
SEPARATE_PAIRS = 100  # for each item, where items are encoded once
SERVED, SERVED_SINGLY = 128, 32  # pairs that the server is asked for in a round
PRODUCT_ROWS, PRODUCTS = 1024, 200  # of what is timed, to know how fast this core multiplies matrices
Way = Callable[[], int]  # does its work and says how many pairs that were


def model_of(recipe: Recipe, store: ItemStore, read_out: str) -> MatchingModel:
    """A model of random weights, with a vocabulary of its own."""
    texts = [text for part in store.texts() for text in part]
    tokenizer = TextTokenizer.learn(texts, recipe.text.vocabulary_size)
    longest = choose_limit(recipe.text, np.array([len(ids) for ids in tokenizer.encode_all(texts)]))
    config = MlimConfig.from_recipe(recipe.reading(longest), tokenizer.vocabulary_size)
    network = Mlim.random(config, seed=0)
    matcher = Matcher.from_mlim(network, recipe.finetune.head_dropout, 0, read_out)
    settings = ServingSettings(
        modality="both",
        max_tokens=longest,
        image_size=store.image(store.ids[0]).shape[0],
        image_formats=("JPEG",),
        image_megapixels=recipe.ingest.max_megapixels,
        jpeg_quality=recipe.image.jpeg_quality,
        batch_size=recipe.evaluate.batch_size,
        threshold=0.5,
        calibration=(1.0, 0.0),
    )
    return MatchingModel(matcher, tokenizer, settings, device="cpu")


def some_pairs(store: ItemStore, items: int, per_item: int) -> pd.DataFrame:
    """Pairs of the first `items` items, each of which is in `per_item` of them."""
    ids, steps = np.array(store.ids[:items]), range(1, per_item // 2 + 1)
    return pd.concat([pd.DataFrame({"item_a": ids, "item_b": np.roll(ids, step)}) for step in steps])


def request_of(store: ItemStore, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs as the server is sent them."""
    sides = {"a": pairs["item_a"], "b": pairs["item_b"]}
    texts = {f"text_{side}": [store.text(item) for item in ids] for side, ids in sides.items()}
    images = {
        f"image_{side}": [base64.b64encode(store.jpeg(item)).decode() for item in ids] for side, ids in sides.items()
    }
    return pd.DataFrame(texts | images)


def server_ways(model: MatchingModel, requests: pd.DataFrame, folder: Path) -> dict[str, Way]:
    """The served model, asked for one pair at a time, and for batches."""
    from mlim.serving import MatcherModel

    model.save(folder)
    served = MatcherModel()
    served.load_context(SimpleNamespace(artifacts={ARTIFACT: folder}))

    def ask(rows: int, size: int) -> int:
        for start in range(0, rows, size):
            served.predict(None, requests.iloc[start : start + size])
        return rows

    return {SINGLE: lambda: ask(SERVED_SINGLY, 1), SERVER: lambda: ask(len(requests), 64)}


def score_way(model: MatchingModel, store: ItemStore, pairs: Path, cache: Path) -> Way:
    """`mlim score` in this process; nothing but the catalog's token ids is left of a run before."""

    def score() -> int:
        shutil.rmtree(cache / "items", ignore_errors=True)
        run = ScoringRun(model, "both", store, {}, cache, 0.5)
        return score_table(run, PairsTable(pairs), cache / "out.parquet", 1, Terminal(quiet=True))["scored"]

    return score


def ways(recipe: Recipe, store: ItemStore, read_out: str, items: int, per_item: int, folder: Path) -> dict[str, Way]:
    model = model_of(recipe, store, read_out)
    pairs = some_pairs(store, items, per_item)
    path = folder / f"{read_out}.parquet"
    pairs.to_parquet(path)
    settings = model.settings
    graphs = export_matcher(model.network, "both", settings.max_tokens, settings.image_size)
    models = {BATCH: model, ONNX: model.with_network(graphs), INT8: model.with_network(quantized(graphs))}
    for one in models.values():
        assert one.sha256  # computed once, as for a model that was loaded
    served = server_ways(model, request_of(store, pairs.iloc[:SERVED]), folder / f"{read_out}-model")
    return served | {name: score_way(one, store, path, folder / "cache") for name, one in models.items()}


def floor(recipe: Recipe, store: ItemStore, pairs: pd.DataFrame, server: float) -> str:
    """What the products of matrices allow in full precision, beside the server's pairs per second."""
    model = model_of(recipe, store, "joint")
    config, network = model.settings, model.network
    assert isinstance(network, Matcher)
    texts = [[store.text(item) for item in pairs[side]] for side in ("item_a", "item_b")]
    lengths = [[len(model.tokenizer.encode(text, config.max_tokens)) for text in side] for side in texts]
    packing = network.pack_pairs(*(attention_of(torch.tensor(side)) for side in lengths), "both")
    operations = network.operations(packing, "text") / len(pairs)  # pictures are embedded once for an item
    rate = product_rate(network.config.backbone.hidden_size)
    most = rate / operations
    return (
        f"joint: {operations / 1e6:.1f} million operations a pair in products of matrices, of which this core does "
        f"{rate / 1e9:.0f} billion a second: at most {most:,.0f} pairs/s in full precision, {most / server:.1f} times "
        f"the {SERVER}"
    )


def product_rate(width: int) -> float:
    """Operations per processor second of products as a block of this width has."""
    rows, weights = torch.rand(PRODUCT_ROWS, width), torch.rand(4 * width, width)
    times = []
    with one_thread(), torch.inference_mode():
        for _ in range(PRODUCTS):
            started = time.process_time()
            torch.nn.functional.linear(rows, weights)
            times.append(time.process_time() - started)
    return linear(PRODUCT_ROWS, width, 4 * width).operations / float(np.median(times))


def measured(chosen: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Pairs per processor second of every way, in each round; one round before is not counted."""
    found: dict[str, list[float]] = {name: [] for name in chosen}
    with one_thread():
        for number in range(rounds + 1):
            for name, way in chosen.items():
                started = time.process_time()
                pairs = way()
                if number:
                    found[name].append(pairs / (time.process_time() - started))
    return found


def rows(read_out: str, per_item: int, found: Mapping[str, list[float]]) -> list[list[str]]:
    return [
        [
            read_out,
            str(per_item),
            name,
            f"{np.median(rates):,.0f}",
            f"{median_ratio(rates, found[SERVER]):.1f}",
            f"{median_ratio(rates, found[BATCH]):.2f}",
        ]
        for name, rates in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--per-item", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recipe, workspace = load_recipe(options.recipe), Workspace(options.work)
    store = open_items(recipe.loader, workspace)
    lines, server = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for read_out, per_item in (("joint", options.per_item), ("separate", SEPARATE_PAIRS)):
            chosen = ways(recipe, store, read_out, options.items, per_item, Path(folder))
            found = measured(chosen, options.rounds)
            server[read_out] = float(np.median(found[SERVER]))
            lines += rows(read_out, per_item, found)
    print(heading(PACKAGES))
    print(f"recipe {options.recipe}, {options.items} items, {options.rounds} rounds in turn, medians; one thread\n")
    print(table(["read-out", "pairs per item", "way", "pairs/s", "server = 1", "mlim score = 1"], lines))
    print("\n" + floor(recipe, store, some_pairs(store, options.items, options.per_item), server["joint"]))


if __name__ == "__main__":
    main()
