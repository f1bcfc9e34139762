"""What does recipe `systems` cost? Its steps, validations and judged examples times the processor time of each.

    python benchmarks/systems_budget.py WORK [--recipe systems] [--repetitions 5]

WORK is a work folder of scenes in which everything up to `mlim annotate` and `mlim regions` has run. Each training is
set up as `mlim pretrain` and `mlim finetune` do, from random weights, which cost the same; a step is read, computed and
applied on one thread, medians of processor time. What is judged takes as long, for each example, as in a validation;
the allowance is for clipping, averaging weights, start and end of a training.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from measure import heading, table

from mlim.annotations.tables import QUESTIONS, REGIONS, STATEMENTS, read_table
from mlim.recipe import Recipe, load_recipe
from mlim.recipe.tasks import OtherTask
from mlim.steps.finetune import FinetuneJob
from mlim.steps.pairless import other_tasks_alone
from mlim.steps.pretrain import PretrainJob
from mlim.steps.trained import TEST, VALIDATION
from mlim.training.device import DeviceContext, choose_device
from mlim.training.ranks import Ranks
from mlim.workspace import Workspace

ALLOWANCE: Final = 1.07
MINUTE: Final = 60_000  # ms


class Cost(NamedTuple):
    """Milliseconds of a step and a validation; minutes of a training with its validations, and of judging."""

    name: str
    part: str
    step: float
    validation: float
    training: float
    judging: float


def milliseconds(run: Callable[[], Any], repetitions: int) -> float:
    """The median of its processor time."""
    spent = []
    for _ in range(repetitions):
        started = time.process_time()
        run()
        spent.append(1000 * (time.process_time() - started))
    return statistics.median(spent)


def pretrainings(recipe: Recipe, work: Workspace, context: DeviceContext, repetitions: int) -> Iterator[Cost]:
    config = recipe.pretrain
    for name in dict.fromkeys(variant.pretraining for variant in recipe.variants.values() if variant.pretraining):
        job = PretrainJob(recipe, work, name, 0, recipe.pretrainings[name], context)
        job.planned.build()
        job.try_batch(config.batch_size)
        step = milliseconds(lambda job=job: job.try_batch(config.batch_size), repetitions)
        job.model.eval()
        with torch.no_grad():
            validation = milliseconds(lambda job=job: job.validate(0), 1)
        training = config.steps * step + config.steps / config.validate_every * validation
        yield Cost(name, "pre-training", step, validation, training / MINUTE, 0.0)


def tunings(recipe: Recipe, work: Workspace, context: DeviceContext, repetitions: int) -> Iterator[Cost]:
    for name, variant in recipe.variants.items():
        random = {"pretraining": None, "system": recipe.pretrainings[variant.pretraining].system, "zero_shot": False}
        alone = recipe.model_copy(update={"variants": {**recipe.variants, name: variant.model_copy(update=random)}})
        job = FinetuneJob(alone, work, name, (0, 0), context)
        tuning, config = job.tuning, job.tuning.config
        tuning.planned.build()
        job.try_batch(config.batch_size)
        steps = 0 if variant.zero_shot else config.steps
        step = milliseconds(lambda job=job, size=config.batch_size: job.try_batch(size), repetitions) if steps else 0.0
        tuning.planned.model.eval()
        with torch.no_grad():
            validation = milliseconds(lambda tuning=tuning: tuning.validate(0), 1)
        training = steps * step + steps / config.validate_every * validation
        offers = recipe.system_of(variant).offers
        judging = validation * judged(recipe, work, variant.task, "vectors" not in offers, variant.by == "text")
        yield Cost(name, variant.task, step, validation, training / MINUTE, judging / MINUTE)


def judged(recipe: Recipe, work: Workspace, task: OtherTask, by_pairs: bool, written: bool) -> float:
    """How many validations the judging of both splits takes as long as; beams as so many greedy searches."""
    tasks = recipe.tasks
    match task:
        case "answer":
            return rows_of(work, QUESTIONS) / tasks.answer.validation_questions * (tasks.answer.beam if written else 1)
        case "statement":
            return rows_of(work, STATEMENTS) / tasks.statement.validation_statements
        case "detect":
            return rows_of(work, REGIONS) / tasks.detect.validation_images
        case "caption":
            return 2 * tasks.caption.images / tasks.caption.validation_images * tasks.caption.beam
        case "retrieval":
            return 2 * (tasks.retrieval.gallery / tasks.retrieval.validation_gallery) ** (2 if by_pairs else 1)


def rows_of(work: Workspace, name: str) -> int:
    """Rows of a table of annotations in both judged splits; of objects their pictures."""
    tables = [read_table(work.annotations, name, split) for split in (VALIDATION, TEST)]
    return sum(len(each["id"].unique()) if name == REGIONS else each.num_rows for each in tables)


def main(arguments: argparse.Namespace) -> None:
    """Print what each training costs, and all of them together."""
    torch.set_num_threads(1)
    recipe = other_tasks_alone(load_recipe(arguments.recipe, ["tracking.uri=none", "device=cpu"]))
    context = DeviceContext(choose_device("cpu"), Ranks(), recipe.compute)
    settings = (recipe, Workspace(arguments.work), context, arguments.repetitions)
    costs = [*pretrainings(*settings), *tunings(*settings)]
    print(heading(("torch",)))
    print(table(["training", "task", "ms, a step", "minutes", "minutes, judged"], [
        [each.name, each.part, f"{each.step:.0f}", f"{each.training:.1f}", f"{each.judging:.1f}"] for each in costs
    ]))  # fmt: skip
    parts = {each.part: [one for one in costs if one.part == each.part] for each in costs}
    rows = [
        [part, str(len(those)), f"{sum(one.training for one in those):.1f}", f"{sum(one.judging for one in those):.1f}"]
        for part, those in parts.items()
    ]
    seed = ALLOWANCE * sum(each.training + each.judging for each in costs)
    print(table(["part", "trainings", "core-minutes, one seed", "judging"], rows))
    seeds = len(recipe.seeds)
    print(f"\nOne seed with {ALLOWANCE - 1:.0%}: {seed:.0f} core-minutes; {seeds} seeds: {seeds * seed:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="prepared work folder")
    parser.add_argument("--recipe", default="systems")
    parser.add_argument("--repetitions", type=int, default=5)
    main(parser.parse_args())
