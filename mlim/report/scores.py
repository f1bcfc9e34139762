"""The scores in tables and verdicts, from `ablate` where it has run, else from `evaluate`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from mlim.report.gather import Gathered, Summary
from mlim.report.reported import ReportedRecipe

BOOSTED_TREES: Final = "boosted-trees"
DIFFERENCE_NAMES: Final = {"value": "difference", "low": "difference_low", "high": "difference_high"}
BASELINE_LABELS: Final = {
    BOOSTED_TREES: "Gradient-boosted trees",
    "tfidf-cosine": "TF-IDF cosine of the texts",
    "image-hash": "Hash distance of the pictures",
}


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval; NaN where it was not measured."""

    value: float
    low: float
    high: float

    def turned(self) -> "Estimate":
        """The same difference seen from the other side."""
        return Estimate(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class Score:
    """PR-AUC of one model or baseline; `difference` is this one minus the main model, on the same test pairs.

    `spread` is the standard deviation between `seeds` trainings; None with one.
    """

    label: str
    pr_auc: Estimate
    text: float | None = None
    image: float | None = None
    difference: Estimate | None = None
    p_value: float | None = None
    spread: float | None = None
    seeds: int = 1


def variant_scores(recipe: ReportedRecipe, gathered: Gathered) -> dict[str, Score]:
    """Scores of the recipe's variants by name; variants that have not been run are left out."""
    if gathered.ablation is not None:
        table = gathered.ablation
        found = {
            variant: _from_table(recipe, variant, table[variant]) for variant in recipe.variants if variant in table
        }
        return {variant: _with_spread(score, gathered, variant) for variant, score in found.items()}
    score = judged_score(recipe, gathered.metrics)
    return {} if score is None else {recipe.main: score}


def _with_spread(score: Score, gathered: Gathered, variant: str) -> Score:
    """The score with what its seeds differ by, where their scores are there."""
    figures = gathered.by_seed.get(variant, ())
    spread = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
    return replace(score, spread=spread, seeds=max(len(figures), 1))


def judged_score(recipe: ReportedRecipe, metrics: Summary | None) -> Score | None:
    """The main variant's score with the first seed, which the baselines are compared with; None before `evaluate`."""
    if metrics is None or metrics["row"] != recipe.main:
        return None
    by_modality = metrics["pr_auc"]
    return Score(
        label=recipe.main_variant.label,
        pr_auc=_estimate(by_modality[recipe.main_variant.modality]),
        text=by_modality.get("text", {}).get("value"),
        image=by_modality.get("image", {}).get("value"),
    )


def baseline_scores(metrics: Summary | None) -> dict[str, Score]:
    """Scores of the baselines by name, best first."""
    found = {name: _baseline(name, values) for name, values in (metrics or {}).get("baselines", {}).items()}
    return dict(sorted(found.items(), key=lambda entry: -entry[1].pr_auc.value))


def scorer_scores(metrics: Summary | None) -> dict[str, Score]:
    """Scores of the stack, of stacks without one part and of the parts by name, best first."""
    found = {name: _baseline(name, values) for name, values in (metrics or {}).get("scorers", {}).items()}
    return dict(sorted(found.items(), key=lambda entry: -entry[1].pr_auc.value))


def _from_table(recipe: ReportedRecipe, variant: str, values: Summary) -> Score:
    return Score(
        label=recipe.variants[variant].label,
        pr_auc=_estimate({**values, "value": values["pr_auc"]}),
        text=values["pr_auc_text"],
        image=values["pr_auc_image"],
        difference=_estimate({end: values[name] for end, name in DIFFERENCE_NAMES.items()}),
        p_value=values["p_value"],
    )


def _baseline(name: str, values: Mapping[str, Any]) -> Score:
    difference = values.get("difference_to_main")  # the matcher is not compared with itself
    return Score(
        label=BASELINE_LABELS.get(name, name),
        pr_auc=_estimate(values),
        difference=None if difference is None else _estimate(difference),
        p_value=None if difference is None else difference["p_value"],
    )


def _estimate(values: Mapping[str, Any]) -> Estimate:
    """A figure as JSON holds it: without an interval its ends are null."""
    return Estimate(*(math.nan if values[end] is None else values[end] for end in ("value", "low", "high")))
