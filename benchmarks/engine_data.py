"""A catalog of random pictures and words for `engine.py`, and the two rungs that read it."""

import io
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from engine_works import LOSSES, Setting
from PIL import Image

from mlim.console import Terminal
from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import prepare_tokens
from mlim.files import sha256_of
from mlim.models.config import MlimConfig, SpecialIds
from mlim.models.mlim import Mlim
from mlim.shards.items import ItemStore
from mlim.shards.shard import ShardEntry, shard_name, write_manifest, write_shard
from mlim.tasks.build import pretrain_objective
from mlim.training.checkpoint import Checkpoints
from mlim.training.device import DeviceContext
from mlim.training.loop import Trainer
from mlim.training.protocols import Validation
from mlim.training.ranks import Ranks

WORDS = [f"{one}{two}" for one in ("red", "blue", "soft", "long") for two in ("shoe", "coat", "hat", "sock")]
ITEMS, PICTURES = 2048, 64
COARSE = 24  # pixels of noise, enlarged: JPEGs about as large as those of products
WARM_BATCHES = 4
BLANK = {"attributes": "{}", "facts": "{}", "image_sha256": "", "image_hash": "", "image_width": 1, "image_height": 1}


class ThroughputMeter(list[float]):
    """A sink for how fast the training was at each of its readings."""

    def log(self, values: dict[str, float], step: int) -> None:
        if "samples_per_second" in values:
            self.append(values["samples_per_second"])


class Catalog:
    """The items folder, and what reads it."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self._setting, self._folder = setting, folder
        self._write()
        self._store = ItemStore.open(folder / "items", folder / "valid" / "index.parquet")
        self._tokenizer = TextTokenizer.learn(WORDS * 4, 256)
        tokens = prepare_tokens(self._store, self._tokenizer, folder / "cache")
        self._collate = ItemCollator(self._store, self._tokenizer, setting.longest - 2, tokens)

    def _loader(self) -> BatchLoader[str, ItemBatch]:
        how = self._setting.recipe.loader.model_dump(include={"workers", "batches_ahead"})
        return BatchLoader(self._store.ids, self._setting.batch, 0, self._collate, **how)

    def read(self, batches: int) -> float:
        """Samples per second of the loader by itself."""
        loader = self._loader()
        for number in range(-WARM_BATCHES, batches):
            if number == 0:
                started = time.perf_counter()
            next(loader)
        seconds = time.perf_counter() - started
        loader.close()
        return batches * self._setting.batch / seconds

    def train(self, steps: int) -> list[float]:
        """Samples per second of the trainer with everything; its first reading, which warms up, is left out."""
        setting, rates, terminal = self._setting, ThroughputMeter(), Terminal(quiet=True)
        changed = {"steps": steps, "validate_every": steps, "batch_size": setting.batch, "accumulate": 1}
        config = setting.recipe.pretrain.model_copy(update=changed)
        shape = MlimConfig.from_recipe(
            setting.recipe, setting.recipe.text.vocabulary_size, SpecialIds.of(self._tokenizer)
        )
        planned, loader = Mlim.planned(shape, 0), self._loader()
        objective = pretrain_objective(planned.model, setting.recipe.pretrain, LOSSES, setting.recipe.text.limit, 0)
        checkpoints = Checkpoints(self._folder / "checkpoints", "engine", 1, terminal)
        context = DeviceContext(setting.device, Ranks(), setting.recipe.compute)
        nothing = Validation({}, {})
        trainer = Trainer(
            objective, planned.weights, loader, config, 0, lambda *_: nothing, checkpoints, rates, context
        )
        trainer.run(terminal, "")
        return rates[1:] or rates

    def _write(self) -> None:
        items, valid, setting = self._folder / "items", self._folder / "valid", self._setting
        items.mkdir(parents=True)
        valid.mkdir()
        jpegs = [jpeg(number, setting.recipe.image.size) for number in range(PICTURES)]
        texts = [
            " ".join(WORDS[(row + place) % len(WORDS)] for place in range(setting.longest)) for row in range(ITEMS)
        ]
        rows = [{"id": f"{row:07d}", "text": texts[row], "image": jpegs[row % PICTURES]} for row in range(ITEMS)]
        bright = {"image_brightness": 0.5, "image_contrast": 0.1}
        path = items / shard_name(0)
        write_shard(path, [{**BLANK, **bright, **row} for row in rows])
        write_manifest(items, [ShardEntry(path.name, ITEMS, path.stat().st_size, sha256_of(path))])
        index = {
            "id": [row["id"] for row in rows],
            "text": texts,
            "attributes": [BLANK["attributes"]] * ITEMS,
            "shard": [path.name] * ITEMS,
            "position": range(ITEMS),
        }
        pq.write_table(pa.table(index), valid / "index.parquet")


def jpeg(number: int, size: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (COARSE, COARSE, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).resize((size, size)).save(target, "JPEG", quality=92)
    return target.getvalue()
