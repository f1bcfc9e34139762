"""What does a pre-training step of each system cost on one core, beside MLIM's?

    python benchmarks/systems.py [--batch 16] [--text 20] [--steps 12] [--size 64]

Width 128, two blocks per encoder, random pictures and words; plans, losses, gradients and Adam's step, without loading.
The systems take turns, step by step; medians of processor time.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from measure import heading, table

from mlim.config import override, parse
from mlim.data.batches import ItemBatch
from mlim.data.tokenize import TextTokenizer
from mlim.models.images.lite import lite_weights
from mlim.models.systems import plan_system
from mlim.recipe import Recipe, load_recipe
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.training.optim import build_optimizer

SYSTEMS: Final[Mapping[str, tuple[str, str]]] = {  # shape, pre-training
    "MLIM": ("{kind: mlim}", "losses: [mlm, recon], masking: mam"),
    "ViLT": ("{kind: joint, image: {kind: patch, size: 16}, norm: pre}", "losses: [mlm, itm], masking: text"),
    "Pixel-BERT": ("{kind: joint, image: {kind: cnn}}", "losses: [mlm, itm], masking: text"),
    "Pixel-BERT, half the cells": (
        "{kind: joint, image: {kind: cnn, sample: HALF}}",
        "losses: [mlm, itm], masking: text",
    ),
    "joint, Lite0 frozen": ("{kind: joint, image: {kind: lite}}", "losses: [mlm, itm], masking: text"),
    "joint, Lite0 trained": ("{kind: joint, image: {kind: lite, frozen: false}}", "losses: [mlm, itm], masking: text"),
    "dual encoder": ("{kind: dual}", "tasks: [{task: itc}]"),
    "GIT": ("{kind: writer}", "tasks: [{task: caption}]"),
    "LXMERT without labels": (
        "{kind: crossed, image: {features: {kind: patch, size: 16}}}",
        "losses: [mlm, itm], masking: text, tasks: [{task: region-feature}]",
    ),
    "E2E-VLP without detection": (
        "{kind: e2e-vlp}",
        "losses: [mlm, itm], masking: text, tasks: [{task: caption}]",
    ),
}
VOCABULARY, WARM = 2000, 2
WORDS = [f"word{number}" for number in range(VOCABULARY)]


class Training(NamedTuple):
    """One system that is trained."""

    objective: PretrainObjective
    optimizer: torch.optim.Optimizer

    def step(self, batch: ItemBatch, number: int) -> float:
        """Milliseconds of processor time of one step."""
        started = time.process_time()
        prepared = self.objective.prepare(batch, number)
        output = self.objective.losses(prepared)
        torch.stack([one.weight * one.term.mean for one in output.terms]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return 1000 * (time.process_time() - started)


def recipe_of(name: str, size: int) -> Recipe:
    shape, pretraining = (text.replace("HALF", str((size // 16) ** 2 // 2)) for text in SYSTEMS[name])
    settings = (
        f"systems={{it: {shape}}}",
        f"pretrainings.it={{system: it, {pretraining}}}",
        f"image={{size: {size}, grid: {size // 16}}}",
    )
    return parse(Recipe, override(load_recipe("small").model_dump(mode="json"), settings), f"recipe of {name}")


def training_of(name: str, tokenizer: TextTokenizer, size: int) -> Training:
    recipe = recipe_of(name, size)
    pretraining = recipe.pretrainings["it"]
    model = plan_system(recipe.system_of(pretraining), recipe.network, tokenizer, 0).build().train()
    objective = pretrain_objective(model, recipe.pretrain, pretraining, recipe.text.limit, 0)
    return Training(objective, build_optimizer(model, recipe.pretrain.optim))


def batch_of(items: int, text: int, size: int, tokenizer: TextTokenizer) -> ItemBatch:
    ids = torch.randint(5, tokenizer.vocabulary_size, (items, text))
    ids[:, 0], ids[:, -1] = tokenizer.cls, tokenizer.sep
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    maskable = (ids != tokenizer.cls) & (ids != tokenizer.sep)
    pixels = torch.randint(256, (items, 3, size, size), dtype=torch.uint8)
    return ItemBatch(ids, everywhere, maskable, pixels, [str(number) for number in range(items)])


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    tokenizer = TextTokenizer.learn(WORDS, VOCABULARY)
    batch = batch_of(arguments.batch, arguments.text, arguments.size, tokenizer)
    trainings = {name: training_of(name, tokenizer, arguments.size) for name in SYSTEMS if _is_there(name)}
    spent: dict[str, list[float]] = {name: [] for name in trainings}
    for number in range(WARM + arguments.steps):
        for name, training in trainings.items():
            spent[name].append(training.step(batch, number))
    print(heading(("torch",)))
    rows = []
    for name, training in trainings.items():
        milliseconds = statistics.median(spent[name][WARM:])
        weights = sum(each.numel() for each in training.objective.model.parameters())
        tokens = training.objective.prepare(batch, 0).tokens / arguments.batch
        rows.append([name, f"{milliseconds:.0f}", f"{tokens:.0f}", f"{weights / 1e6:.2f}"])
    print(table(["system", "ms per step", "vectors per item", "M weights"], rows))


def _is_there(name: str) -> bool:
    return "Lite0" not in name or lite_weights().is_file()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="items of a step")
    parser.add_argument("--text", type=int, default=20, help="tokens of a text")
    parser.add_argument("--size", type=int, default=64, help="side of a picture, a multiple of 16 pixels")
    parser.add_argument("--steps", type=int, default=12, help="steps that are measured")
    main(parser.parse_args())
