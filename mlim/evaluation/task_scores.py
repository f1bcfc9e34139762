"""Reads what fine-tunings to a task answered, so that claims can be judged by it.

Trainings that cannot be compared (other settings, other examples) are left out, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlim.evaluation.judges import Judge, require_unique
from mlim.evaluation.metrics.measure import Measure
from mlim.evaluation.resampling import JudgedExamples, Resampling, resample_measures
from mlim.evaluation.scores import SCORES_FILE, part
from mlim.evaluation.task_evidence import SUMMARY, TaskEvidence, TaskVariant, Training
from mlim.files import read_json
from mlim.workspace import Workspace


def read_task_evidence(
    judge: Judge, variants: Mapping[str, TaskVariant], split: str, workspace: Workspace, resampling: Resampling
) -> TaskEvidence | None:
    """The evidence of the variants' trainings that are there; None where there is none."""
    left_out: list[str] = []
    scores = dict(_usable(judge, variants, split, left_out))
    if not scores:
        return None
    first = next(iter(scores.values()))[0]
    examples, figures = JudgedExamples(judge.units(first, workspace)), judge.figures(first)
    measures: dict[Training, list[list[Measure]]] = {
        training: [[judge.measure(one) for one in found]] for training, found in scores.items()
    }
    drawn = resample_measures(examples, measures, resampling.samples, resampling.seed)
    trained = dict.fromkeys(name for name, _ in scores)
    return TaskEvidence(
        examples=len(first),
        examples_name=judge.examples_name,
        clusters=examples.clusters,
        figures={figure.name: figure for figure in figures},
        drawn={figure.name: each for figure, each in zip(figures, drawn, strict=True)},
        spent={
            name: _spent(judge, variants[name], [seed for other, seed in scores if other == name]) for name in trained
        },
        labels={name: variants[name].variant.label for name in trained},
        blind=frozenset(name for name in trained if variants[name].variant.modality != "both") if judge.blind else None,
        left_out=tuple(left_out),
    )


def _spent(judge: Judge, variant: TaskVariant, seeds: Sequence[int]) -> tuple[frozenset[int], frozenset[int]]:
    before, after = zip(*(variant.spent(seed, judge.spent) for seed in seeds), strict=True)
    return frozenset(filter(None, before)), frozenset(filter(None, after))


def _usable(
    judge: Judge, variants: Mapping[str, TaskVariant], split: str, left_out: list[str]
) -> Iterator[tuple[Training, list[pd.DataFrame]]]:
    """The scores of each fine-tuning of every training that can be compared; the others are named in `left_out`."""
    first: pd.DataFrame | None = None
    for name, variant in variants.items():
        for seed in variant.seeds:
            if not variant.is_trained(seed):
                continue
            title = f"variant `{name}`, seed {seed}"
            if any(_settings(folder) != variant.key for folder in variant.folders(seed)):
                left_out.append(f"{title}: trained with other settings than the recipe's")
                continue
            found = [read_task_scores(judge, folder, split) for folder in variant.folders(seed)]
            first = found[0] if first is None else first
            if all(same_examples(judge, one, first) for one in found):
                yield (name, seed), found
            else:
                left_out.append(f"{title}: judged on other {judge.examples_name} than the others")


def _settings(folder: Path) -> Any:
    path = folder / SUMMARY
    return read_json(path).get("settings") if path.is_file() else None


def read_task_scores(judge: Judge, folder: Path, split: str) -> pd.DataFrame:
    """What a fine-tuning answered to the examples of a split, in the order of their keys.

    `DataError` when two examples have one key.
    """
    path = folder / SCORES_FILE
    found = part(pd.read_parquet(path), split=split).sort_values(judge.key, ignore_index=True)
    require_unique(found, judge.key, path)
    return found


def same_examples(judge: Judge, one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether both are about the same examples."""
    return bool(one[judge.key].equals(other[judge.key]))
