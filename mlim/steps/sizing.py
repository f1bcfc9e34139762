"""`mlim ablate --difference D --power P`: how many seeds the main comparison needs, and how long that takes.

Nothing is trained. The spread between seeds and the error that the test pairs bring are those of the trainings in the
work folder; what was not measured there is taken from `SPREAD`, and said to be.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlim.errors import InputError
from mlim.evaluation.evidence import Evidence, read_evidence
from mlim.evaluation.power import POWER, fewest_seeds
from mlim.evaluation.resampling import Effect, compare_all
from mlim.experiments import load_experiment
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.report.kit import formats
from mlim.steps.at_once import trainings_at_once
from mlim.steps.experiment_runs import recipe_of_run, trained_variants, variants_of
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.trained import SUMMARY_FILE
from mlim.steps.trainings import Training, wanted_trainings
from mlim.workspace import Workspace

# Standard deviation of PR-AUC between the seeds of one variant, where none was measured: that of the main variant of
# `small` is 0.004 on the embedded catalog and 0.006 on hm_fashion (docs/training.md), rounded up.
SPREAD: Final = 0.01
MANY: Final = 1_000_000  # families, where their number is not known


def size_seeds(
    recipe: Recipe, workspace: Workspace, difference: float, power: float | None = None, experiment: str | None = None
) -> dict[str, Any]:
    """The seeds that separate `difference` from 0 with `power` (default 0.8), with their trainings and seconds.

    The comparison is the main variant's with the variant without pre-training (else the first other variant).
    `InputError` for a recipe of one variant, a difference of 0 or less, or a power outside (0, 1).
    """
    wanted = POWER if power is None else power
    if difference <= 0 or not 0 < wanted < 1:
        raise InputError("--difference is above 0 (0.02 of PR-AUC), and --power between 0 and 1 (0.8)")
    chosen, runs = _places(recipe, workspace, experiment)
    other = _other(chosen, runs)
    found = _measured(read_evidence(workspace, trained_variants(chosen, workspace, runs)), chosen, other)
    planned = _planned(found)
    alpha = 1 - recipe.evaluate.confidence
    seeds = fewest_seeds(planned, difference, alpha, wanted)
    missing = [] if seeds is None else _missing(seeds, ExperimentRun(chosen, workspace), runs.values())
    return {
        "comparison": [chosen.main, other],
        "difference": difference,
        "power": wanted,
        "level": round(alpha, 6),
        "spread": planned.seeds_spread,
        "spread_measured": found is not None and found.seeds_spread is not None,
        "pairs_error": None if found is None else found.pairs_error,
        "seeds": seeds,
        "trainings": len(missing),
        "seconds": _seconds(missing, trainings_at_once(chosen)),
    }


def _places(recipe: Recipe, workspace: Workspace, experiment: str | None) -> tuple[Recipe, dict[str, ExperimentRun]]:
    """The recipe with the variants that are compared, and the experiment's runs; nothing is made on the disk."""
    if experiment is None:
        return recipe, {}
    declared = load_experiment(experiment)
    runs = {
        name: ExperimentRun(recipe_of_run(recipe, declared, name), workspace.experiment_run(name))
        for name in declared.runs
    }
    return variants_of(recipe, declared), runs


def _other(recipe: Recipe, runs: Mapping[str, ExperimentRun]) -> str:
    pair = recipe.pretraining_pair or ()
    names = [name for name in (*recipe.of_task("match").variants, *runs) if name != recipe.main]
    if not names:
        raise InputError(
            "there is only one variant, so nothing to compare: name an --experiment, or a recipe with more variants"
        )
    return next((name for name in pair if name in names), names[0])


def _measured(evidence: Evidence, recipe: Recipe, other: str) -> Effect | None:
    """The main variant minus the other one over their seeds in common; None where these are not trained or too few."""
    if evidence.pairs is None or not {recipe.main, other} <= evidence.variants.keys():
        return None
    first, second = (evidence.variants[name].by_seed.keys() for name in (recipe.main, other))
    seeds = tuple(sorted(first & second))
    complete = [name for name, variant in evidence.variants.items() if set(seeds) <= variant.by_seed.keys()]
    if not seeds:
        return None
    settings = recipe.evaluate
    stacked = {name: evidence.variants[name].at(seeds) for name in dict.fromkeys((recipe.main, *complete))}
    main = recipe.main_variant
    alike = [name for name in stacked if recipe.variants.get(name, main).modality == main.modality]
    compared = compare_all(evidence.pairs, stacked, settings.bootstrap_samples, settings.confidence, recipe.seed, alike)
    found = compared[other].minus_first
    return None if found is None or found.why else found


def _planned(found: Effect | None) -> Effect:
    """What is known of the comparison, with SPREAD where the spread is not; without pairs, as if there were no end."""
    if found is not None and found.seeds_spread is not None:
        return found
    known = found or Effect(0, 0, 0, 1, 0, np.inf, 0.0, None, 0, (), MANY)
    return replace(known, seeds_spread=float(np.sqrt(2) * SPREAD), seeds_freedom=1, by_seed=(0.0, 0.0))


def _missing(seeds: int, main: ExperimentRun, runs: Iterable[ExperimentRun]) -> list[Training]:
    """The trainings that so many seeds ask for and that have no result yet."""
    more = {"seeds": tuple(range(seeds))}
    places = [ExperimentRun(place.recipe.model_copy(update=more), place.workspace) for place in (main, *runs)]
    return [training for training in wanted_trainings(places) if not training.is_done]


def _seconds(missing: Sequence[Training], side_by_side: int) -> float | None:
    """How long trainings take, as their like took; None where no training of their stage was recorded."""
    spent = [_like(training) for training in missing]
    return None if None in spent else sum(filter(None, spent)) / side_by_side


def _like(training: Training) -> float | None:
    """The mean seconds of the trainings of this name, else of this stage, in the same work folder."""
    recorded = dict(_recorded(training.folder.parent))
    of_name = [seconds for name, seconds in recorded.items() if name.rpartition("-s")[0] == training.name]
    known = of_name or [*recorded.values()]
    return float(np.mean(known)) if known else None


def _recorded(folder: Path) -> Iterator[tuple[str, float]]:
    """The trainings in a folder with the seconds in their summaries."""
    for path in sorted(folder.glob(f"*/{SUMMARY_FILE}")):
        summary = read_json(path)
        if "seconds" in summary:
            yield path.parent.name, float(summary["seconds"])


def describe_size(summary: Mapping[str, Any], command: str) -> str:
    """The plan as lines for a terminal; `command` is what trains and compares, without its number of seeds."""
    first, second = summary["comparison"]
    source = "measured here" if summary["spread_measured"] else "assumed: not measured here yet"
    error = summary["pairs_error"]
    pairs = "not measured yet, so more may be needed" if error is None else f"{error:.4f}"
    lines = [
        f"{first} minus {second}: to separate a difference of {summary['difference']:g} with "
        f"{100 * summary['power']:g} % power (two-sided test at {100 * summary['level']:g} %)",
        f"spread of the difference between seeds: {summary['spread']:.4f} ({source})",
        f"error that the test pairs bring: {pairs}",
    ]
    return "\n".join([*lines, *_answer(summary, command)])


def _answer(summary: Mapping[str, Any], command: str) -> list[str]:
    if summary["seeds"] is None:
        return ["no number of seeds is enough: more test pairs are needed, or a larger difference"]
    seconds = summary["seconds"]
    time = "an unknown time (no training is recorded here yet)" if seconds is None else formats.duration(seconds)
    return [
        f"seeds: {summary['seeds']}; trainings that are not there yet: {summary['trainings']}, about {time}",
        f"{command} --seeds {summary['seeds']}",
    ]
