"""What the two training steps have in common: the data they read, their checkpoints, and the folder they leave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from mlim.annotations.tables import TEXT_TABLES, read_texts, table_file
from mlim.config import nearest
from mlim.console import Terminal
from mlim.data.attributes import DecidingValues
from mlim.data.collate import GallerySource, Pair
from mlim.data.image_cache import ImageCache
from mlim.data.images import check_size
from mlim.data.lengths import choose_limit
from mlim.data.loader import BatchLoader, EpochExamples
from mlim.data.regions import StoredRegions, open_regions
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import PreparedTokens, prepare_tokens
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, atomic_folder, read_json, remove_folder, sha256_of, write_csv, write_json
from mlim.models.hub import RANDOM, load_tokenizer
from mlim.pairs.fewer import first_pairs
from mlim.recipe import AUTO, PretrainConfig, Pretraining, Recipe, TuningConfig, Variant
from mlim.recipe.record import RecipeRecord
from mlim.recipe.systems import MLIM, region_side
from mlim.shards.items import ItemStore, open_items
from mlim.shards.mapped import Strings
from mlim.steps.annotated import hashed
from mlim.tracking import is_kept
from mlim.training.checkpoint import Checkpoints, fingerprint_of, only_trainer
from mlim.training.device import DeviceContext, allow_fast_fp32, choose_device, hardware_of
from mlim.training.metric_logger import history_columns
from mlim.training.protocols import TrainResult
from mlim.training.ranks import join_ranks
from mlim.workspace import Workspace

Resume = Literal["auto", "never", "keep"]
PACKAGE = Path(__file__).parents[1]
MADE_BY = "made_by"  # in a summary: what `--resume keep` compares
Example = TypeVar("Example")
Batch = TypeVar("Batch")
Collating = tuple[GallerySource, TextTokenizer, int, PreparedTokens]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
MODEL_FOLDER = "model"
HISTORY_FILE = "history.csv"
SUMMARY_FILE = "summary.json"
TRACE_FILE = "trace.json.gz"
RECONSTRUCTIONS = "reconstructions"  # the folder of pictures among the samples
SAMPLES = "samples"  # the folder of a run's artifacts
READ_BY_TRAINING = ("valid/index.parquet", "pairs/items.parquet", "pairs/pairs.parquet")


@dataclass(frozen=True)
class TrainingData:
    """The accepted items and which split each belongs to; `hashes` tell whether they are still the same."""

    store: ItemStore
    items: Mapping[str, Sequence[str]]
    pairs: Mapping[str, list[Pair]]
    hashes: Mapping[str, str]


def open_training_data(recipe: Recipe, workspace: Workspace) -> TrainingData:
    """What `ingest`, `validate` and `pairs` left; `InputError` when it is missing or does not belong together."""
    store = open_items(recipe.loader, workspace)
    tables = {name: workspace.pairs / name for name in ("items.parquet", "pairs.parquet")}
    missing = [f"{path} is missing; run `mlim pairs` first" for path in tables.values() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    items = _read_items(tables["items.parquet"], store, workspace)
    if not items.get(TRAIN):
        raise InputError(f"{tables['items.parquet']}: the train split is empty; run `mlim pairs` again with more items")
    check_size(store.image(items[TRAIN][0]), recipe.image.size)
    hashes = {"items": store.version, **{name: sha256_of(workspace.root / name) for name in READ_BY_TRAINING}}
    return TrainingData(store, items, _read_pairs(tables["pairs.parquet"]), hashes)


def _read_items(path: Path, store: ItemStore, workspace: Workspace) -> dict[str, Strings]:
    """The ids of every split; millions of them stay Arrow strings."""
    table = pq.read_table(path, columns=["id", "split"])
    unknown = store.missing(table["id"])
    if len(unknown):
        raise InputError(
            f"{path} names {len(unknown)} items that are not in {workspace.valid} "
            f"(the first: {unknown[0].as_py()}); run `mlim pairs` again"
        )
    return {
        split: Strings(table["id"].filter(pc.equal(table["split"], split)).combine_chunks())
        for split in pc.unique(table["split"]).to_pylist()
    }


def read_deciding(data: TrainingData, workspace: Workspace) -> DecidingValues | None:
    """The values that decide, of the items in training pairs; None where none is known (pairs of the user's own)."""
    path = workspace.pairs / "items.parquet"
    if "deciding" not in pq.read_schema(path).names:
        raise InputError(f"{path} is of an earlier version of mlim; run `mlim pairs` again")
    table = pq.read_table(path, columns=["id", "deciding"])
    paired = pa.array({item for pair in data.pairs[TRAIN] for item in (pair.item_a, pair.item_b)}, pa.string())
    table = table.filter(pc.is_in(table["id"], value_set=paired))
    numbers = table["deciding"].to_pylist()
    return DecidingValues.learn(table["id"].to_pylist(), np.array(numbers, dtype=np.int64).reshape(len(numbers), -1))


def with_pairs(data: TrainingData, most: int | None, workspace: Workspace) -> TrainingData:
    """The data with at most `most` of the training pairs (`first_pairs`); None: all of them."""
    if most is None:
        return data
    table = pq.read_table(workspace.pairs / "pairs.parquet", columns=["label", "split", "component"])
    table = table.filter(pc.equal(table["split"], TRAIN))  # in the order of data.pairs
    places = first_pairs(table["component"].to_numpy(), table["label"].to_numpy(), most)
    fewer = [data.pairs[TRAIN][place] for place in places]
    return replace(data, pairs={**data.pairs, TRAIN: fewer})


def _read_pairs(path: Path) -> dict[str, list[Pair]]:
    columns = pq.read_table(path, columns=["item_a", "item_b", "label", "split"]).to_pydict()
    pairs: dict[str, list[Pair]] = {}
    for split, *pair in zip(columns["split"], columns["item_a"], columns["item_b"], columns["label"], strict=True):
        pairs.setdefault(split, []).append(Pair(*pair))
    return pairs


def prepare_collating(
    recipe: Recipe,
    data: TrainingData,
    tokenizer: TextTokenizer,
    workspace: Workspace,
    regions: StoredRegions | None = None,
) -> Collating:
    """What a collator of training is made of; the texts are tokenised now unless the work folder's cache has them."""
    tokens = prepare_tokens(data.store, tokenizer, workspace.cache)
    return pictures_of(recipe, data, regions), tokenizer, recipe.text.limit, tokens


def pictures_of(recipe: Recipe, data: TrainingData, regions: StoredRegions | None) -> GallerySource:
    """What a system is shown of the items: their pictures, or stored regions of these."""
    return ImageCache(data.store, recipe.loader.image_cache_mb) if regions is None else regions


def regions_for(
    recipe: Recipe, entry: Pretraining | Variant, workspace: Workspace, data: TrainingData
) -> StoredRegions | None:
    """The stored regions that the system of a pre-training or a variant reads; None: it reads pictures.

    `InputError` when they were not made, or made of other items or with other settings.
    """
    side = region_side(recipe.system_of(entry))
    if side is None or not side.is_stored:
        return None
    return open_regions(workspace.regions(side.source), data.store, side.most, side.store)


def with_regions(data: TrainingData, regions: StoredRegions | None) -> TrainingData:
    """The data, with stored regions among what is hashed."""
    return data if regions is None else replace(data, hashes={**data.hashes, **regions.hashes})


def with_limit(recipe: Recipe, data: TrainingData, tokenizer: TextTokenizer, workspace: Workspace) -> Recipe:
    """The recipe with the longest text that is read as a number: with `auto` the same one in every training."""
    if recipe.text.max_tokens != AUTO:
        return recipe
    return recipe.reading(choose_limit(recipe.text, prepare_tokens(data.store, tokenizer, workspace.cache).lengths()))


def with_words(recipe: Recipe, data: TrainingData, workspace: Workspace) -> TrainingData:
    """The data, with the annotations whose texts `make_tokenizer` learns among what is hashed.

    `InputError` when the recipe is about more than captions, and nothing was annotated.
    """
    if not recipe.learns_annotated_words:
        return data
    if not workspace.annotations.is_dir() and recipe.annotations - {"captions"}:
        raise InputError(f"{workspace.annotations} is missing; run `mlim annotate` first, tokens are learned from it")
    files = [table_file(workspace.annotations, table) for table in TEXT_TABLES]
    hashes = hashed([path for path in files if path.is_file()], workspace)
    return replace(data, hashes={**data.hashes, **hashes})


def make_tokenizer(recipe: Recipe, data: TrainingData, workspace: Workspace) -> TextTokenizer:
    """The pre-trained start's own tokenizer, else one learned from the texts of the train split.

    Those of its annotations are among them where the recipe is about annotations.
    """
    if recipe.model.start != RANDOM:
        return load_tokenizer(recipe.network)
    texts = (data.store.text(item) for item in data.items[TRAIN])
    annotated = recipe.learns_annotated_words and workspace.annotations.is_dir()
    told = read_texts(workspace.annotations, TRAIN) if annotated else ()
    return TextTokenizer.learn(chain(texts, told), recipe.text.vocabulary_size)


def named(section: str, entries: Mapping[str, Any], name: str) -> Any:
    """The entry `name` of a section of the recipe; `InputError` with the nearest name when there is none."""
    if name not in entries:
        raise InputError(f"{section}: no `{name}`{nearest(name, list(entries))}")
    return entries[name]


@contextmanager
def device_context(recipe: Recipe, folder: Path) -> Iterator[DeviceContext]:
    """This process's device and ranks, while it (rank 0) holds the lock of the training whose checkpoints are `folder`.

    `InputError` for a device that is not there, `MlimError` when another training holds the lock.
    """
    with join_ranks(choose_device(recipe.device).type) as ranks:
        device = choose_device(recipe.device, ranks)
        allow_fast_fp32()
        with only_trainer(folder) if ranks.is_main else nullcontext():
            yield DeviceContext(device, ranks, recipe.compute)


def training_batches(
    examples: Sequence[Example] | EpochExamples[Example],
    collate: Callable[[Sequence[Example]], Batch],
    config: PretrainConfig | TuningConfig,
    recipe: Recipe,
    seed: int,
    context: DeviceContext,
) -> BatchLoader[Example, Batch]:
    """Endless shuffled batches: this rank's share of each."""
    return BatchLoader(
        examples,
        context.ranks.per_rank(config.batch_size),
        seed,
        collate,
        workers=recipe.loader.workers,
        batches_ahead=recipe.loader.batches_ahead,
        rank=context.ranks.rank,
        world_size=context.ranks.size,
    )


def open_checkpoints(
    folder: Path,
    config: PretrainConfig | TuningConfig,
    decisive: Mapping[str, Any],
    resume: Resume,
    terminal: Terminal,
) -> Checkpoints:
    """The checkpoints of a training; `decisive` is all that makes a continued training the same training."""
    settings = config.model_dump(mode="json", exclude={"checkpoint", "max_skipped_steps"})
    checkpoints = Checkpoints(
        folder, fingerprint_of({**decisive, "settings": settings}), config.checkpoint.keep, terminal
    )
    if resume == "never":
        checkpoints.clear()
    return checkpoints


def made_by(checkpoints: Checkpoints, resume: Resume) -> dict[str, str]:
    """What a summary says of what made a training, so that it can be kept: settings, data, all code of this package.

    Empty where nobody asks for it: DVC knows better which code a result depends on.
    """
    if resume != "keep":
        return {}
    code = {str(path.relative_to(PACKAGE)): sha256_of(path) for path in sorted(PACKAGE.rglob("*.py"))}
    return {MADE_BY: fingerprint_of({"training": checkpoints.fingerprint, "code": code})}


def finished(
    out: Path, wanted: Mapping[str, str], recipe: RecipeRecord, workspace: Workspace, context: DeviceContext
) -> dict[str, Any]:
    """The summary of a finished training in `out` that is `wanted` and recorded, for every rank; empty without one."""
    path = out / SUMMARY_FILE
    kept = False
    if context.ranks.is_main and wanted and path.is_file():
        summary = read_json(path)
        kept = summary.get(MADE_BY) == wanted[MADE_BY] and is_kept(recipe, workspace, summary["run_id"])
    return dict(read_json(path)) if context.ranks.broadcast(int(kept)) else {}


def system_sections(recipe: Recipe, entry: Pretraining | Variant) -> dict[str, Any]:
    """What shapes the network of a pre-training or a variant, and what it reads."""
    sections = recipe.model_dump(mode="json", include={"image", "text", "model"})
    system = recipe.system_of(entry)
    return sections if system == MLIM else {**sections, "system": system.model_dump(mode="json")}


def training_summary(result: TrainResult, model: nn.Module, context: DeviceContext) -> dict[str, Any]:
    """What both steps say about a training."""
    parameters = {name: _count_parameters(child) for name, child in model.named_children()}
    return {
        "steps": result.steps,
        "skipped_steps": result.skipped,
        "processes": context.ranks.size,
        "device": context.device.type,
        "hardware": hardware_of(context),
        "seconds": round(result.seconds, 3),
        "samples_per_second": round(result.samples_per_second, 2),
        "parameters": {"total": _count_parameters(model), **parameters},
    }


def training_size(model: nn.Module, examples: str) -> str:
    """What is about to be trained on what, in a few words."""
    return f"{_count_parameters(model):,} parameters, {examples} to train on"


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class ArtifactRun(Protocol):
    """What keeps files of a training: a run in MLflow."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or the contents of a folder."""


def forget_samples(checkpoints: Checkpoints, folder: Path) -> None:
    """Remove what an earlier training left to look at, where this one does not continue it."""
    if checkpoints.empty:
        remove_folder(folder)


def keep_samples(run: ArtifactRun, folder: Path) -> None:
    """Give the run what a training left to look at: reconstruction samples, a profiler's trace."""
    if folder.is_dir():
        run.artifact(folder, SAMPLES)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    with atomic_file(path) as temporary:
        picture.save(temporary, "PNG")


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
    write_csv(folder / HISTORY_FILE, result.history, history_columns(result.history))
    write_json(folder / SUMMARY_FILE, summary)
