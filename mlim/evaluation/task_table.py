"""The table of one fine-tuning task besides matching: all its variants over all seeds, on the same examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mlim.errors import DataError
from mlim.evaluation.judges import Judge
from mlim.evaluation.metrics.measure import Figure
from mlim.evaluation.resampling import Compared, JudgedExamples, Resampling, compare_drawn, resample_measures
from mlim.evaluation.scores import SCORES_FILE, part
from mlim.files import read_json
from mlim.recipe.finetune import Variant
from mlim.workspace import Workspace

SUMMARY = "summary.json"


class TaskRuns(NamedTuple):
    """The folders of the fine-tunings of each variant, for each seed those of its fine-tunings."""

    variants: Mapping[str, Variant]
    folders: Mapping[str, Sequence[Sequence[Path]]]


def task_table(
    judge: Judge, runs: TaskRuns, split: str, workspace: Workspace, resampling: Resampling
) -> dict[str, Any]:
    """Figures of every variant with intervals over units and seeds, and differences to the first variant; JSON-able.

    `DataError` when trainings were judged on other examples than the first one's, or had unequal budgets.
    """
    scores = {
        name: [[_read(judge, one, split) for one in each] for each in found] for name, found in runs.folders.items()
    }
    check_budgets(judge, runs, workspace)
    first = next(iter(scores.values()))[0][0]
    _check_examples(judge, scores, first)
    examples = JudgedExamples(judge.units(first, workspace))
    measures = {name: [[judge.measure(one) for one in each] for each in found] for name, found in scores.items()}
    figures = judge.figures(first)
    drawn = resample_measures(examples, measures, resampling.samples, resampling.seed)
    compared = [compare_drawn(each, examples.clusters, resampling.confidence) for each in drawn]
    return {
        "title": judge.title,
        "examples": len(first),
        "examples_name": judge.examples_name,
        "units": examples.clusters,
        "judged_on": split,
        "confidence": resampling.confidence,
        "no_interval": examples.no_interval or None,
        "figures": [figure._asdict() for figure in figures],
        "main": next(iter(scores)),
        "rows": {name: _row(name, runs.variants[name], figures, compared) for name in scores},
    }


def _row(
    name: str, variant: Variant, figures: Sequence[Figure], compared: Sequence[Mapping[str, Compared]]
) -> dict[str, Any]:
    found = zip(figures, (each[name] for each in compared), strict=True)
    return {
        "label": variant.label,
        "zero_shot": variant.zero_shot,
        "seeds": compared[0][name].figure.seeds,
        **{figure.name: _figure(figure, each) for figure, each in found},
    }


def _figure(figure: Figure, found: Compared) -> dict[str, Any]:
    minus = {} if found.minus_first is None else {"difference": found.minus_first.difference._asdict()}
    return {**found.figure.interval_up_to(figure.most)._asdict(), "by_seed": [*found.figure.by_seed], **minus}


def _read(judge: Judge, folder: Path, split: str) -> pd.DataFrame:
    return part(pd.read_parquet(folder / SCORES_FILE), split=split).sort_values(judge.key, ignore_index=True)


def _check_examples(judge: Judge, scores: Mapping[str, Sequence[Sequence[pd.DataFrame]]], first: pd.DataFrame) -> None:
    for name, found in scores.items():
        if not all(one[judge.key].equals(first[judge.key]) for of_seed in found for one in of_seed):
            raise DataError(
                f"variant `{name}` was judged on other {judge.examples_name} than `{next(iter(scores))}`; run `mlim "
                f"finetune {name}` again"
            )


def check_budgets(judge: Judge, runs: TaskRuns, workspace: Workspace) -> None:
    """`DataError` unless all fine-tunings saw equally many examples, and all pre-trainings equally many samples.

    What is judged without fine-tuning saw none.
    """
    seen: dict[str, dict[int, list[str]]] = {f"{judge.examples_name} in fine-tuning": {}, "samples in pre-training": {}}
    fine, pre = seen.values()
    for name, found in runs.folders.items():
        for folder in (one for of_seed in found for one in of_seed):
            summary = read_json(folder / SUMMARY)
            if not runs.variants[name].zero_shot:
                fine.setdefault(summary[judge.spent], []).append(f"`{folder.name}`")
            if summary["pretraining"] is not None:
                before = read_json(workspace.pretrained(summary["pretraining"], summary["seed"]) / SUMMARY)
                pre.setdefault(before["samples_seen"], []).append(f"`{folder.name}`")
    for what, budgets in seen.items():
        if len(budgets) > 1:
            unequal = "; ".join(f"{number} for {', '.join(names)}" for number, names in budgets.items())
            raise DataError(
                f"the variants have unequal budgets of {what}: {unequal}; train them again with one recipe, so that "
                "they can be compared"
            )
