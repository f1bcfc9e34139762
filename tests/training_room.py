"""A training on a handful of items, assembled anew for every start, and what may happen to it."""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlim.catalog.items import ItemStore
from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.losses import LossTerm
from mlim.models.hub import build_mlim
from mlim.objectives import PretrainObjective
from mlim.recipe import Pretraining, Recipe
from mlim.training.checkpoint import Checkpoints, model_tensors
from mlim.training.contracts import TrainResult
from mlim.training.device import Place
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses
from mlim.training.loop import Trainer
from mlim.training.ranks import Ranks

EVERYTHING = Pretraining(losses=("mlm", "recon", "itm"), masking="mam")
STEPS = 24
CPU = torch.device("cpu")


class Kept:
    """A metric sink that keeps what it gets."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(values)))


class Disturbed(PretrainObjective):
    """Something happens before the losses of a micro-batch are computed."""

    at, first, what = -1, 0, staticmethod(lambda: None)
    poisoned: frozenset[int] = frozenset()  # steps whose losses are infinite
    room: "Room"
    coming: deque[tuple[int, int]]  # step and first sample of the micro-batches that are prepared

    def prepare(self, batch, step, first=0, mode=None):
        self.coming.append((step, first))
        return super().prepare(batch, step, first, mode)

    def losses(self, prepared):
        step, first = self.coming.popleft()
        if (step, first) == (self.at, self.first):
            self.what()
        self.room.step = step
        self.room.seen.extend(prepared.ids)
        output = super().losses(prepared)
        if step not in self.poisoned:
            return output
        terms = (each._replace(term=LossTerm(each.term.total * math.inf, each.term.count)) for each in output.terms)
        return output._replace(terms=tuple(terms))


class Room:
    """A training on eight items, assembled anew for every start."""

    def __init__(self, recipe: Recipe, store: ItemStore, folder: Path) -> None:
        self.recipe, self.store, self.folder = recipe, store, folder
        self.sink = Kept()
        self.step, self.seen = -1, list[str]()  # where it is, and the items that it has learned from

    def start(
        self,
        at: int = -1,
        what: Any = None,
        validate: Any = None,
        first: int = 0,
        poisoned: frozenset[int] = frozenset(),
        trace: Path | None = None,
    ) -> tuple[dict[str, torch.Tensor], TrainResult]:
        recipe, ids = self.recipe, self.store.ids[:16]
        tokenizer = TextTokenizer.learn((self.store.text(item) for item in ids), recipe.text.vocabulary_size)
        model = build_mlim(recipe, tokenizer, seed=0)
        objective = Disturbed(model, recipe, EVERYTHING, seed=0)
        objective.room, objective.coming = self, deque()
        objective.at, objective.first, objective.what, objective.poisoned = at, first, what, poisoned
        collate = ItemCollator(self.store, tokenizer, recipe.text.max_tokens)
        judge = PretrainObjective(model, recipe, EVERYTHING, VALIDATION_SEED)
        config = recipe.pretrain
        held_out = HeldOutLosses(judge, collate, self.store.ids[16:24], config.batch_size, CPU)
        checkpoints = Checkpoints(self.folder, "tiny", config.checkpoint.keep, Terminal(quiet=True))
        place = Place(CPU, Ranks(), recipe.compute)
        loader = BatchLoader(ids, config.batch_size, 0, collate)
        trainer = Trainer(objective, loader, config, 0, validate or held_out, checkpoints, self.sink, place, trace)
        result = trainer.run(Terminal(quiet=True), "tiny")
        return {name: value.clone() for name, value in model_tensors(model).items()}, result


def for_the_room(tiny_recipe: Recipe) -> Recipe:
    """A few steps of two micro-batches of four items, with checkpoints in between."""
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"every_steps": 5})
    return changed(tiny_recipe, steps=STEPS, batch_size=4, accumulate=2, validate_every=8, checkpoint=checkpoint)


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings of pre-training."""
    return recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update=changes)})
