"""A training on a handful of items, assembled anew for every start, and what may happen to it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.files import claim
from mlim.losses import LossTerm
from mlim.models.hub import plan_mlim
from mlim.models.weights import named_tensors
from mlim.recipe import BalanceConfig, Pretraining, Recipe
from mlim.shards.items import ItemStore
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.training.checkpoint import Checkpoints
from mlim.training.device import DeviceContext
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses
from mlim.training.loop import Trainer
from mlim.training.protocols import TrainResult
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
    places: dict[int, tuple[list[str], int, int]]  # micro-batches: their ids, by that list's identity; step, first

    def prepare(self, batch, step, first=0, mode=None):
        self.places[id(batch.ids)] = batch.ids, step, first
        return super().prepare(batch, step, first, mode)

    def losses(self, prepared):
        _, step, first = self.places[id(prepared.ids)]  # several times where gradients are measured
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
    """A training on a handful of items, assembled anew for every start; `ranks` share its batches."""

    def __init__(self, recipe: Recipe, store: ItemStore, folder: Path, ranks: Ranks | None = None) -> None:
        self.recipe, self.store, self.folder, self.ranks = recipe, store, folder, ranks or Ranks()
        claim(folder, str(folder))
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
        planned = plan_mlim(recipe, tokenizer, seed=0)
        model = planned.model
        whole = pretrain_objective(model, recipe.pretrain, EVERYTHING, recipe.text.limit, seed=0)
        objective = Disturbed(model, whole.tasks, whole.weights, whole.passes)
        objective.room, objective.places = self, {}
        share = self.ranks.per_rank(recipe.pretrain.batch_size)
        objective.at, objective.first = at, first + self.ranks.rank * share
        objective.what, objective.poisoned = what, poisoned
        collate = ItemCollator(self.store, tokenizer, recipe.text.max_tokens)
        judge = pretrain_objective(model, recipe.pretrain, EVERYTHING, recipe.text.limit, VALIDATION_SEED)
        config = recipe.pretrain
        held_out = HeldOutLosses(judge, collate, self.store.ids[16:24], config.batch_size, CPU)
        checkpoints = Checkpoints(self.folder, "tiny", config.checkpoint.keep, Terminal(quiet=True))
        context = DeviceContext(CPU, self.ranks, recipe.compute)
        loader = BatchLoader(ids, share, 0, collate, rank=self.ranks.rank, world_size=self.ranks.size)
        judge_by = validate or held_out
        weights = planned.weights
        trainer = Trainer(objective, weights, loader, config, 0, judge_by, checkpoints, self.sink, context, trace)
        result = trainer.run(Terminal(quiet=True), "tiny")
        return {name: value.clone() for name, value in named_tensors(model).items()}, result


def for_the_room(tiny_recipe: Recipe) -> Recipe:
    """A few steps of two micro-batches of four items, with checkpoints in between."""
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"every_steps": 5})
    return changed(tiny_recipe, steps=STEPS, batch_size=4, accumulate=2, validate_every=8, checkpoint=checkpoint)


def balanced(recipe: Recipe, every: int = 4) -> Recipe:
    """The recipe with losses that pull equally."""
    return changed(recipe, balance=BalanceConfig(every=every, smoothing=0.5, most=100))


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings of pre-training."""
    return recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update=changes)})
