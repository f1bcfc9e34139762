"""Fixtures for all tests: a recipe small enough for seconds, and a work folder as `mlim pairs` leaves it.

The little catalog has something to learn: the picture shows the item's pattern (what decides a pair's label), the text
names kind and colour, and the colour is also in the picture.
"""

import gc
import hashlib
import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA, ROW_LOG_SCHEMA
from mlim.console import Terminal
from mlim.files import sha256_of, write_json
from mlim.local_store import address
from mlim.processes import COLLECT_AFTER
from mlim.recipe import Recipe, load_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.shards.shard import ShardEntry, shard_name, write_manifest, write_shard
from mlim.workspace import Workspace
from mlim.writer import claim_work
from tests.reaper import start_reaper

FAMILIES = 10
FAMILY_SIZE = 4
ROWS_PER_SHARD = 25
KINDS = ("shirt", "skirt", "dress", "scarf", "bag")
COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 200), "yellow": (220, 200, 50)}
PATTERNS = ("solid", "striped")
SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2  # of families

TINY_SETTINGS = (
    "name=tiny",
    "device=cpu",
    "image.size=16",
    "image.grid=4",
    "text.max_tokens=12",
    "text.vocabulary_size=128",
    "model.hidden_size=32",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=64",
    "model.embedder={strides: [2, 2], channels: [8, 16]}",
    "model.decoder={strides: [2, 2], channels: [16, 8]}",
    "pretrain.steps=6",
    "pretrain.batch_size=8",
    "pretrain.optim.warmup_steps=2",
    "pretrain.validate_every=3",
    "pretrain.validation_items=8",
    "pretrain.checkpoint={every_steps: 2, every_minutes: 10, keep: 2}",
    "finetune.steps=6",
    "finetune.batch_size=8",
    "finetune.optim.warmup_steps=2",
    "finetune.validate_every=3",
    "finetune.checkpoint={every_steps: 2, every_minutes: 10, keep: 2}",
    "evaluate.batch_size=8",
    "evaluate.bootstrap_samples=50",
    "evaluate.hardest=2",
    *(f"gate.{key}=false" for key in ("above_chance", "above_baselines", "unrelated_lowers")),  # models learn nothing
    *("gate.max_one_answer=1", "gate.min_kind_right=0", "gate.max_swap_difference=1", "gate.min_identical_right=0"),
    "gate.sampled_pairs=8",
    "promotion={max_calibration_error: 1, max_category_drop: 1, timed_requests: 2}",
    "probe.probabilities=[0.2, 0.8]",
    "probe.items=8",
    "probe.reconstructions=2",
)


QUICK = "quick"  # how property tests are run by default


def pytest_configure(config: pytest.Config) -> None:
    """Nothing that the tests start outlives them; property tests draw few examples, `make test-slow` many."""
    start_reaper()
    settings.register_profile(QUICK, deadline=None, max_examples=30)
    settings.register_profile("thorough", deadline=None, max_examples=400)
    settings.load_profile(config.getoption("--hypothesis-profile") or QUICK)


def pytest_collection_finish() -> None:
    """What is imported by now stays: without this, some test pays when the collector looks through all of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)  # as every command does


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A complete recipe (16-pixel pictures, 4 x 4 cells, hidden 32, 6 steps) that tracks into a folder of its own."""
    database = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    return load_recipe("demo", [*TINY_SETTINGS, f"tracking.uri=sqlite:///{database}"])


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts a store without runs at a path and gives its address: a copy, for making its tables takes over a second."""
    from mlim.tracking import client

    empty = tmp_path_factory.mktemp("store") / "mlflow.db"
    client(TrackingConfig(uri=address(empty))).search_experiments()

    def copy(path: Path) -> str:
        shutil.copy(empty, path)
        return address(path)

    return copy


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe) -> Workspace:
    """Forty items in ten families and all their pairs, ready for training; read-only by agreement."""
    workspace = Workspace(tmp_path_factory.mktemp("tiny") / "work")
    claim_work(workspace)
    items = [_item(number, tiny_recipe.image.size) for number in range(FAMILIES * FAMILY_SIZE)]
    _write_items(workspace, items)
    _write_valid(workspace, items)
    _write_pairs(workspace, items)
    return workspace


@pytest.fixture
def own_workspace(tiny_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of `tiny_workspace` that one test may write to."""
    shutil.copytree(tiny_workspace.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


@pytest.fixture
def quiet() -> Terminal:
    """A terminal that says nothing."""
    return Terminal(quiet=True)


def _item(number: int, size: int) -> dict[str, Any]:
    family, member = divmod(number, FAMILY_SIZE)
    kind, colour = KINDS[family % len(KINDS)], list(COLOURS)[(family + member) % len(COLOURS)]
    pattern = PATTERNS[(family + member // 2) % len(PATTERNS)]
    jpeg = _jpeg(colour, pattern, number, size)
    return {
        "id": f"item-{number:03d}",
        "family": f"family-{family}",
        "category": kind,
        "text": f"kind: {kind}, colour: {colour}",
        "attributes": json.dumps({"kind": kind, "colour": colour}),
        "facts": json.dumps({"pattern": pattern, "colour": colour}),
        "image": jpeg,
        "image_sha256": hashlib.sha256(jpeg).hexdigest(),
        "image_hash": hashlib.sha256(jpeg).hexdigest()[:16],
        "image_width": size,
        "image_height": size,
        "image_brightness": 0.5,
        "image_contrast": 0.2,
    }


def _jpeg(colour: str, pattern: str, number: int, size: int) -> bytes:
    pixels = np.empty((size, size, 3), dtype=np.int16)
    pixels[:] = COLOURS[colour]
    if pattern == "striped":
        pixels[::4] = pixels[1::4] = 250
    pixels += np.random.default_rng(number).integers(-8, 9, pixels.shape, dtype=np.int16)
    target = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=95)
    return target.getvalue()


PAIR_TYPES = {
    "item_a": pa.string(),
    "item_b": pa.string(),
    "label": pa.int8(),
    "split": pa.string(),
    "component": pa.int64(),
    "kind": pa.string(),
}


def _shards(items: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for number, start in enumerate(range(0, len(items), ROWS_PER_SHARD)):
        yield shard_name(number), items[start : start + ROWS_PER_SHARD]


def _placed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every item with the shard and position it is stored at."""
    return [
        {"shard": name, "position": position, **item}
        for name, shard in _shards(items)
        for position, item in enumerate(shard)
    ]


def _write_items(workspace: Workspace, items: list[dict[str, Any]]) -> None:
    workspace.items.mkdir(parents=True)
    manifest = []
    for name, shard in _shards(items):
        path = workspace.items / name
        write_shard(path, shard)
        manifest.append(ShardEntry(name, len(shard), path.stat().st_size, sha256_of(path)))
    version = write_manifest(workspace.items, manifest)
    pq.write_table(pa.Table.from_pylist([], schema=QUARANTINE_SCHEMA), workspace.items / "quarantine.parquet")
    row_log = [
        {"source": "tiny.csv", "row": row, **{key: item[key] for key in ("id", "shard", "position")}, "reason": None}
        for row, item in enumerate(_placed(items), start=1)
    ]
    pq.write_table(pa.Table.from_pylist(row_log, schema=ROW_LOG_SCHEMA), workspace.items / "ledger.parquet")
    summary = {
        "rows_in": len(items),
        "ingested": len(items),
        "quarantined": {},
        "data_version": version,
        "catalog": "tiny",
    }
    write_json(workspace.items / "summary.json", summary)


def _write_valid(workspace: Workspace, items: list[dict[str, Any]]) -> None:
    workspace.valid.mkdir()
    schema = pa.schema(
        [
            *(field for field in ITEM_SCHEMA if field.name != "image"),
            pa.field("shard", pa.string()),
            pa.field("position", pa.int64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(_placed(items), schema=schema), workspace.valid / "index.parquet")
    pq.write_table(pa.Table.from_pylist([], schema=QUARANTINE_SCHEMA), workspace.valid / "quarantine.parquet")
    summary = {"checked": len(items), "accepted": len(items), "quarantined": {}, "expectations": [], "success": True}
    write_json(workspace.valid / "summary.json", summary)


def _write_pairs(workspace: Workspace, items: list[dict[str, Any]]) -> None:
    workspace.pairs.mkdir()
    patterns = ["", *sorted({json.loads(item["facts"])["pattern"] for item in items})]
    members = [
        {
            "id": item["id"],
            "component": number // FAMILY_SIZE,
            "split": SPLITS[number // FAMILY_SIZE],
            "deciding": [patterns.index(json.loads(item["facts"])["pattern"])],
        }
        for number, item in enumerate(items)
    ]
    kinds = {"id": pa.string(), "component": pa.int64(), "split": pa.string(), "deciding": pa.list_(pa.int32())}
    pq.write_table(pa.Table.from_pylist(members, schema=pa.schema(kinds)), workspace.pairs / "items.parquet")
    rows = [
        _pair(items, a, b)
        for a, b in itertools.combinations(range(len(items)), 2)
        if a // FAMILY_SIZE == b // FAMILY_SIZE
    ]
    schema = pa.schema([(name, PAIR_TYPES[name]) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), workspace.pairs / "pairs.parquet")
    write_json(workspace.pairs / "summary.json", _pairs_summary(rows))


def _pair(items: list[dict[str, Any]], a: int, b: int) -> dict[str, Any]:
    same = json.loads(items[a]["facts"])["pattern"] == json.loads(items[b]["facts"])["pattern"]
    return {
        "item_a": items[a]["id"],
        "item_b": items[b]["id"],
        "label": int(same),
        "split": SPLITS[a // FAMILY_SIZE],
        "component": a // FAMILY_SIZE,
        "kind": "same pattern" if same else "pattern differs",
    }


def _pairs_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter((row["split"], str(row["label"])) for row in rows)
    splits = sorted({row["split"] for row in rows})
    test = [row for row in rows if row["split"] == "test"]
    named = "\n".join(f"{row['item_a']} {row['item_b']} {row['label']}" for row in test)
    return {
        "counts": {split: {label: counts[split, label] for label in ("0", "1")} for split in splits},
        "prevalence": sum(row["label"] for row in test) / len(test),
        "leak_audit": [],
        "test_pairs_sha256": hashlib.sha256(named.encode()).hexdigest(),
    }
