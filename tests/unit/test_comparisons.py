"""Experiments and Figure 2 as tables of the documentation."""

import pytest

from mlim.config import parse
from mlim.errors import InputError
from mlim.experiments import ExperimentPlan
from mlim.report.comparisons import experiment_lines, figure2_lines, figure2_points
from mlim.report.kit.formats import MINUS, MISSING

PLAN = {
    "question": "What makes it better?",
    "variants": ["main"],
    "runs": {"few": ["finetune.max_pairs=500"]},
    "probe": False,
    "judged_on": "validation",
    "equal_budgets": False,
}
FOUND = {
    "experiment": "pretraining",
    "question": "What makes it better?",
    "judged_on": "validation",
    "compared_with": "few",
    "seeds": [0, 1],
    "settings": {"few": ["finetune.max_pairs=500"], "frozen": ["a=1", "b=2"]},
    "rows": {
        "main": {
            "pr_auc": 0.9,
            "by_seed": {"0": 0.8, "1": 1.0},
            "minus": {"value": 0.1, "low": -0.02, "high": 0.22, "p_value": 0.09},
        },
        "few": {"pr_auc": 0.8, "by_seed": {"0": 0.8, "1": 0.8}, "minus": None},
        "frozen": {
            "pr_auc": 0.7,
            "by_seed": {"0": 0.7, "1": 0.7},
            "minus": {"value": -0.1, "low": None, "high": None, "p_value": None},
        },
    },
}


def difference(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half, "p_value": 0.01, "by_seed": [value]}


def test_an_experiment_says_what_each_run_changes_and_by_how_much_it_differs():
    text = "\n".join(experiment_lines([FOUND]))
    assert text.startswith("### What makes it better?")
    assert "`mlim ablate --experiment pretraining --seeds 2`, judged on the validation pairs" in text
    assert f"| `main` |  | 0.900 | 0.141 (2) | +0.100 [{MINUS}0.020, +0.220] | 0.090 |" in text
    assert f"| `few` | `finetune.max_pairs=500` | 0.800 | 0.000 (2) | {MISSING} | {MISSING} |" in text
    assert f"| `frozen` | `a=1`; `b=2` | 0.700 | 0.000 (2) | {MINUS}0.100 | {MISSING} |" in text
    assert experiment_lines([]) == []


def test_an_experiment_on_other_tasks_has_their_tables_with_the_variant_that_others_are_compared_with_first():
    ends = {"low": 0.1, "high": 0.3}
    row = {"label": "as it is", "zero_shot": False, "seeds": 2, "accuracy": {"value": 0.2, **ends}}
    deeper = {**row, "label": "deeper", "accuracy": {**row["accuracy"], "difference": {"value": 0.1, **ends}}}
    table = {"title": "Answers", "examples": 40, "examples_name": "questions", "units": 20, "judged_on": "test"}
    table |= {"confidence": 0.95, "figures": [{"name": "accuracy", "title": "accuracy"}], "main": "plain"}
    table |= {"rows": {"deep": deeper, "plain": row}, "baselines": [{**row, "label": "a constant"}]}
    found = {**FOUND, "rows": {}, "settings": {"deep": ["depth=4"]}, "tasks": {"answer": table}}
    lines = [line for line in experiment_lines([found]) if line.startswith("|")][2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| as it is", ""],
        ["| deeper", "`depth=4`"],
        ["| a constant", ""],
    ]


def test_figure_2_stands_there_at_each_probability_with_how_often_it_is_separated():
    points = [
        {"probability": at, "empty_minus_own": difference(own), "random_minus_own": difference(0.5)}
        for at, own in ((0.1, 0.005), (0.5, 0.02))
    ]
    shown = figure2_points({"figure2a": {"points": points, "items": 256}, "figure2b": {"skipped": "no decoder"}})
    assert list(shown) == ["figure2a"]
    text = "\n".join(figure2_lines(shown))
    assert f"| 0.1 | +0.0050 [{MINUS}0.0050, +0.0150] | +0.5000 [+0.4900, +0.5100] | {MISSING} |" in text
    assert "| alone above 0 | 1 of 2 | 2 of 2 | 0 of 2 |" in text
    assert "Picture masked" not in text
    assert figure2_lines(figure2_points(None)) == []


def test_a_plan_compares_with_one_of_its_own_variants_and_runs():
    assert parse(ExperimentPlan, {**PLAN, "compared_with": "few"}, "plan").compared_with == "few"
    with pytest.raises(InputError, match="compared_with: many is none of the variants and runs"):
        parse(ExperimentPlan, {**PLAN, "compared_with": "many"}, "plan")
