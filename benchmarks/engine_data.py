"""A catalog of random pictures and words for `engine.py`, and the two rungs that read it."""

import io
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from engine_works import VOCABULARY, Setting
from PIL import Image

from mlim.catalog.items import ItemStore
from mlim.catalog.shards import ShardEntry, shard_name, write_manifest, write_shard
from mlim.console import Terminal
from mlim.data.collate import ItemBatch, ItemCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import prepare_tokens
from mlim.files import sha256_of
from mlim.models.config import MlimConfig, SpecialIds
from mlim.models.mlim import Mlim
from mlim.objectives import PretrainObjective
from mlim.recipe import Pretraining
from mlim.training.checkpoint import Checkpoints
from mlim.training.contracts import Validation
from mlim.training.device import Place
from mlim.training.loop import Trainer
from mlim.training.ranks import Ranks

WORDS = [f"{one}{two}" for one in ("red", "blue", "soft", "long") for two in ("shoe", "coat", "hat", "sock")]
PICTURES, ITEMS, SHARD_ROWS = 64, 4096, 512
COARSE = 24  # pixels of noise, enlarged: JPEGs about as large as those of products
WARM_BATCHES = 4


class Shards:
    """The items folder of such a catalog, and what reads it."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self._setting, self._folder = setting, folder
        self._write()
        self._store = ItemStore.open(folder / "items", folder / "valid" / "index.parquet")
        self._tokenizer = TextTokenizer.learn(WORDS * 4, 256)
        tokens = prepare_tokens(self._store, self._tokenizer, folder / "cache")
        self._collate = ItemCollator(self._store, self._tokenizer, setting.longest - 2, tokens)

    def loader(self) -> BatchLoader[str, ItemBatch]:
        """Shuffled batches, with the recipe's workers."""
        recipe = self._setting.recipe
        workers, ahead = recipe.loader.workers, recipe.loader.batches_ahead
        return BatchLoader(self._store.ids, self._setting.batch, 0, self._collate, workers=workers, batches_ahead=ahead)

    def read(self, batches: int) -> float:
        """Samples per second of the loader by itself."""
        loader = self.loader()
        for _ in range(WARM_BATCHES):
            next(loader)
        started = time.perf_counter()
        for _ in range(batches):
            next(loader)
        rate = batches * self._setting.batch / (time.perf_counter() - started)
        loader.close()
        return rate

    def train(self, steps: int) -> list[float]:
        """Samples per second of the trainer with everything, at each of its readings."""
        setting, sink = self._setting, _Rates()
        settings = {"steps": steps, "validate_every": steps, "batch_size": setting.batch, "accumulate": 1}
        config = setting.recipe.pretrain.model_copy(update=settings)
        shape = MlimConfig.from_recipe(setting.recipe, VOCABULARY, SpecialIds.of(self._tokenizer))
        losses = Pretraining(losses=("mlm", "recon"), masking="mam")
        objective = PretrainObjective(Mlim.random(shape, 0), setting.recipe, losses, 0)
        terminal, place = Terminal(quiet=True), Place(setting.device, Ranks(), setting.recipe.compute)
        checkpoints = Checkpoints(self._folder / "checkpoints", "engine", 1, terminal)
        trainer = Trainer(objective, self.loader(), config, 0, lambda: Validation({}, {}), checkpoints, sink, place)
        trainer.run(terminal, "engine")
        return sink.found

    def _write(self) -> None:
        (self._folder / "items").mkdir(parents=True)
        (self._folder / "valid").mkdir()
        size, quality = self._setting.config.image_size, self._setting.recipe.image.jpeg_quality
        jpegs = [_jpeg(number, size, quality) for number in range(PICTURES)]
        entries, index = [], []
        for number, start in enumerate(range(0, ITEMS, SHARD_ROWS)):
            items = [
                _item(row, self._setting.longest, jpegs[row % PICTURES]) for row in range(start, start + SHARD_ROWS)
            ]
            path = self._folder / "items" / shard_name(number)
            write_shard(path, items)
            entries.append(ShardEntry(path.name, len(items), path.stat().st_size, sha256_of(path)))
            columns = {key: [item[key] for item in items] for key in ("id", "text")}
            index.append(pa.table({**columns, "shard": [path.name] * len(items), "position": range(len(items))}))
        write_manifest(self._folder / "items", entries)
        pq.write_table(pa.concat_tables(index), self._folder / "valid" / "index.parquet")


class _Rates:
    """A sink that keeps how fast the training was at each reading, the first one apart: it warms up."""

    def __init__(self) -> None:
        self._read: list[float] = []

    def log(self, values: dict[str, float], step: int) -> None:
        if "samples_per_second" in values:
            self._read.append(values["samples_per_second"])

    @property
    def found(self) -> list[float]:
        return self._read[1:] or self._read


def _jpeg(number: int, size: int, quality: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (COARSE, COARSE, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).resize((size, size)).save(target, "JPEG", quality=quality)
    return target.getvalue()


def _item(row: int, words: int, jpeg: bytes) -> dict[str, object]:
    text = " ".join(WORDS[(row + place) % len(WORDS)] for place in range(words))
    blank = {"attributes": "{}", "facts": "{}", "image_sha256": "", "image_hash": ""}
    blank |= {"image_width": 1, "image_height": 1, "image_brightness": 0.5, "image_contrast": 0.1}
    return {"id": f"item-{row:07d}", "text": text, "image": jpeg, **blank}
