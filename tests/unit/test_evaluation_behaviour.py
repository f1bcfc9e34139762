"""Tests of a scorer without labels: what they draw, and what they find out about scorers that behave badly."""

import numpy as np
import pandas as pd
import pytest

from mlim.evaluation.behaviour import FIELDS, behaviour_of, draw_cases
from mlim.evaluation.gate import behaviour_objections
from mlim.recipe import GateConfig

ITEMS = pd.DataFrame(
    {
        "id": [f"item-{number:02d}" for number in range(24)],
        "component": np.arange(24) // 4,
        "category": np.array(["bags", "shirts"])[np.arange(24) // 4 % 2],
    }
)
PAIRS = pd.DataFrame(
    [
        {"item_a": a, "item_b": b, "label": int(number % 2)}
        for family in range(6)
        for number, (a, b) in enumerate(
            zip(ITEMS["id"][4 * family :][:3], ITEMS["id"][4 * family + 1 :][:3], strict=True)
        )
    ]
)


def family(ids):
    return ids.str[-2:].astype(int).to_numpy() // 4


def good(cases):
    """The share of modalities in which the two items are of one family: a scorer that does everything right."""
    same = [family(cases[f"{what}_a"]) == family(cases[f"{what}_b"]) for what in ("image", "text")]
    return np.mean(same, axis=0) * 0.9


SCORERS = {
    "good": (good, []),
    "order counts": (lambda cases: good(cases) * (0.99 + 0.01 * (cases["text_a"] < cases["text_b"])), ["swap"]),
    "text alone": (lambda cases: 0.9 * (family(cases["text_a"]) == family(cases["text_b"])), ["unrelated"]),
    "constant": (lambda cases: np.full(len(cases), 0.3), ["identical", "unrelated", "unrelated"]),
}


@pytest.mark.parametrize("name", SCORERS)
def test_each_way_to_behave_badly_is_an_objection(name):
    scorer, expected = SCORERS[name]
    cases = draw_cases(PAIRS, ITEMS, "both", 10, 0)
    probability = np.asarray(scorer(cases), dtype=float)
    behaviour = behaviour_of(cases, probability, probability >= 0.5)
    found = behaviour_objections(behaviour, GateConfig())
    assert [objection.code for objection in found] == expected
    off = GateConfig(max_swap_difference=1, min_identical_right=0, unrelated_lowers=False)
    assert behaviour_objections(behaviour, off) == []


def test_cases_are_bounded_and_the_same_for_the_same_seed():
    cases = draw_cases(PAIRS, ITEMS, "both", 5, 0)
    assert cases.equals(draw_cases(PAIRS, ITEMS, "both", 5, 0))
    assert cases["case"].value_counts().to_dict() == dict.fromkeys(
        ("plain", "swapped", "identical", "matching", "image", "text"), 5
    )
    plain, swapped = (cases[cases["case"] == case] for case in ("plain", "swapped"))
    assert (plain["text_a"].to_numpy() == swapped["image_b"].to_numpy()).all()
    categories = ITEMS.set_index("id")["category"]
    for what in ("image", "text"):
        replaced = cases[cases["case"] == what]
        assert (replaced[f"{what}_a"].map(categories) != replaced[f"{what}_b"].map(categories)).all()


def test_a_scorer_of_texts_is_tested_on_texts():
    cases = draw_cases(PAIRS, ITEMS, "text", 5, 0)
    assert "image" not in set(cases["case"])
    assert (cases.loc[cases["case"] == "text", "image_a"] != "").all()
    assert list(cases.columns) == [*FIELDS, "case"]


def test_without_another_family_nothing_is_replaced():
    one = ITEMS[ITEMS["component"] == 0]
    cases = draw_cases(PAIRS.head(3), one, "both", 5, 0)
    behaviour = behaviour_of(cases, np.full(len(cases), 0.5), np.ones(len(cases), dtype=bool))
    assert (behaviour["matching"], behaviour["unrelated"]) == (None, {})
    assert behaviour_objections(behaviour, GateConfig()) == []
