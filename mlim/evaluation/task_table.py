"""The table of one fine-tuning task besides matching: all its variants over all seeds, on the same examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mlim.errors import DataError
from mlim.evaluation.caption_baselines import Baseline
from mlim.evaluation.judges import Judge
from mlim.evaluation.metrics.measure import Figure
from mlim.evaluation.resampling import Compared, JudgedExamples, Resampling, compare_drawn, resample_measures
from mlim.evaluation.task_evidence import TaskVariant
from mlim.evaluation.task_scores import read_task_scores, same_examples
from mlim.recipe.finetune import Variant
from mlim.workspace import Workspace

Baselines = Callable[[pd.DataFrame], Sequence[Baseline]]  # from the scores of the first variant


def task_table(
    judge: Judge,
    variants: Mapping[str, TaskVariant],
    split: str,
    workspace: Workspace,
    resampling: Resampling,
    equal_budgets: bool = True,
    baselines: Baselines | None = None,
) -> dict[str, Any]:
    """Figures of every variant with intervals over units and seeds, and differences to the first variant; JSON-able.

    All of them have to be trained. `DataError` when trainings were judged on other examples than the first one's, or
    had unequal budgets where these have to be equal.
    """
    scores = {
        name: [[read_task_scores(judge, folder, split) for folder in each.folders(seed)] for seed in each.seeds]
        for name, each in variants.items()
    }
    if equal_budgets:
        check_budgets(judge, variants)
    first = next(iter(scores.values()))[0][0]
    _check_examples(judge, scores, first)
    examples = JudgedExamples(judge.units(first, workspace))
    measures = {name: [[judge.measure(one) for one in each] for each in found] for name, found in scores.items()}
    simple = () if baselines is None else baselines(first)
    seeds = len(next(iter(measures.values())))
    measures |= {one.label: [[judge.measure(one.scores)]] * seeds for one in simple}
    figures = judge.figures(first)
    drawn = resample_measures(examples, measures, resampling.samples, resampling.seed)
    compared = [  # baselines have no seeds, which would count as seeds without any spread
        compare_drawn(each, examples.clusters, resampling.confidence, alike=[*scores]) for each in drawn
    ]
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
        "rows": {name: _row(name, variants[name].variant, figures, compared) for name in scores},
        **({"baselines": [_baseline(one.label, figures, compared) for one in simple]} if simple else {}),
    }


def _baseline(label: str, figures: Sequence[Figure], compared: Sequence[Mapping[str, Compared]]) -> dict[str, Any]:
    found = zip(figures, (each[label] for each in compared), strict=True)
    return {"label": label, **{figure.name: _figure(figure, each) for figure, each in found}}


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


def _check_examples(judge: Judge, scores: Mapping[str, Sequence[Sequence[pd.DataFrame]]], first: pd.DataFrame) -> None:
    for name, found in scores.items():
        if not all(same_examples(judge, one, first) for of_seed in found for one in of_seed):
            raise DataError(
                f"variant `{name}` was judged on other {judge.examples_name} than `{next(iter(scores))}`; run `mlim "
                f"finetune {name}` again"
            )


def check_budgets(judge: Judge, variants: Mapping[str, TaskVariant]) -> None:
    """`DataError` unless all fine-tunings saw equally many examples, and all pre-trainings equally many samples.

    What is judged without fine-tuning saw none.
    """
    seen: dict[str, dict[int, list[str]]] = {"samples in pre-training": {}, f"{judge.examples_name} in fine-tuning": {}}
    for name, variant in variants.items():
        for seed in variant.seeds:
            for budgets, spent in zip(seen.values(), variant.spent(seed, judge.spent), strict=True):
                if spent is not None:
                    budgets.setdefault(spent, []).append(f"`{name}` seed {seed}")
    for what, budgets in seen.items():
        if len(budgets) > 1:
            unequal = "; ".join(f"{number} for {', '.join(names)}" for number, names in budgets.items())
            raise DataError(
                f"the variants have unequal budgets of {what}: {unequal}; train them again with one recipe, so that "
                "they can be compared"
            )
