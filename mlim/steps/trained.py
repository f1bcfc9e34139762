"""What the two training steps have in common: the data they read, their checkpoints, and the folder they leave."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from safetensors import SafetensorError
from torch import nn

from mlim.catalog.items import ItemStore
from mlim.config import nearest
from mlim.console import Terminal
from mlim.data.collate import Pair
from mlim.data.images import check_size
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError, MlimError
from mlim.files import atomic_folder, sha256_of, write_csv, write_json
from mlim.models.hub import RANDOM, load_tokenizer
from mlim.recipe import FinetuneConfig, PretrainConfig, Recipe
from mlim.training.checkpoint import Checkpoints, fingerprint_of
from mlim.training.loop import HISTORY_COLUMNS, TrainResult
from mlim.workspace import Workspace

Resume = Literal["auto", "never"]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
MODEL_FOLDER = "model"
HISTORY_FILE = "history.csv"
SUMMARY_FILE = "summary.json"
READ_BY_TRAINING = ("items/manifest.json", "valid/index.parquet", "pairs/items.parquet", "pairs/pairs.parquet")


@dataclass(frozen=True)
class TrainingData:
    """The accepted items and which split each belongs to; `hashes` tell whether they are still the same."""

    store: ItemStore
    items: Mapping[str, list[str]]
    pairs: Mapping[str, list[Pair]]
    hashes: Mapping[str, str]


def open_training_data(recipe: Recipe, workspace: Workspace) -> TrainingData:
    """What `ingest`, `validate` and `pairs` left; `InputError` when it is missing or does not belong together."""
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    tables = {name: workspace.pairs / name for name in ("items.parquet", "pairs.parquet")}
    missing = [f"{path} is missing; run `mlim pairs` first" for path in tables.values() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    items = {str(name): list(part["id"]) for name, part in pd.read_parquet(tables["items.parquet"]).groupby("split")}
    unknown = [item for part in items.values() for item in part if item not in store]
    if unknown:
        raise InputError(
            f"{tables['items.parquet']} names {len(unknown)} items that are not in {workspace.valid} "
            f"(the first: {unknown[0]}); run `mlim pairs` again"
        )
    if not items.get(TRAIN):
        raise InputError(f"{tables['items.parquet']}: the train split is empty; run `mlim pairs` again with more items")
    check_size(store.image(items[TRAIN][0]), recipe.image.size)
    hashes = {name: sha256_of(workspace.root / name) for name in READ_BY_TRAINING}
    return TrainingData(store, items, _read_pairs(tables["pairs.parquet"]), hashes)


def _read_pairs(path: Path) -> dict[str, list[Pair]]:
    frame = pd.read_parquet(path, columns=["item_a", "item_b", "label", "split"])
    return {
        str(split): [Pair(a, b, int(label)) for a, b, label in zip(part.item_a, part.item_b, part.label, strict=True)]
        for split, part in frame.groupby("split")
    }


def make_tokenizer(recipe: Recipe, data: TrainingData) -> TextTokenizer:
    """The pre-trained start's own tokenizer, else one learned from the texts of the train split."""
    if recipe.model.start != RANDOM:
        return load_tokenizer(recipe)
    texts = (data.store.text(item) for item in data.items[TRAIN])
    return TextTokenizer.learn(texts, recipe.text.vocabulary_size)


def named(section: str, entries: Mapping[str, Any], name: str) -> Any:
    """The entry `name` of a section of the recipe; `InputError` with the nearest name when there is none."""
    if name not in entries:
        raise InputError(f"{section}: no `{name}`{nearest(name, list(entries))}")
    return entries[name]


def open_checkpoints(
    folder: Path,
    config: PretrainConfig | FinetuneConfig,
    decisive: Mapping[str, Any],
    resume: Resume,
    terminal: Terminal,
) -> Checkpoints:
    """The checkpoints of a training; `decisive` is all that makes a continued training the same training."""
    settings = config.model_dump(mode="json", exclude={"checkpoint"})
    checkpoints = Checkpoints(
        folder, fingerprint_of({**decisive, "settings": settings}), config.checkpoint.keep, terminal
    )
    if resume == "never":
        checkpoints.clear()
    return checkpoints


def model_sections(recipe: Recipe) -> dict[str, Any]:
    """The sections of the recipe that shape the network and what it reads."""
    return recipe.model_dump(mode="json", include={"image", "text", "model"})


def training_summary(result: TrainResult, model: nn.Module) -> dict[str, Any]:
    """What both steps say about a training."""
    parameters = {name: _count_parameters(child) for name, child in model.named_children()}
    return {
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "samples_per_second": round(result.samples_per_second, 2),
        "parameters": {"total": _count_parameters(model), **parameters},
    }


def training_size(model: nn.Module, examples: str) -> str:
    """What is about to be trained on what, in a few words."""
    return f"{_count_parameters(model):,} parameters, {examples} to train on"


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """An empty folder that becomes `out`; `MlimError` when the disk does not take it (the checkpoint stays)."""
    try:
        with atomic_folder(out) as folder:
            yield folder
    except (OSError, SafetensorError) as error:
        raise MlimError(
            f"{out} could not be written ({error}); the trained model is safe in its checkpoint: make room on the disk "
            "and run the same command again"
        ) from error


def write_training(folder: Path, tokenizer: TextTokenizer, result: TrainResult, summary: Mapping[str, Any]) -> None:
    """The tokenizer beside the model, history.csv and summary.json of a training, into `folder`."""
    tokenizer.save(folder / MODEL_FOLDER)
    write_csv(folder / HISTORY_FILE, result.history, HISTORY_COLUMNS)
    write_json(folder / SUMMARY_FILE, summary)
