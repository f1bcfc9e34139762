"""Declared experiments: which variants of a recipe, and which runs of it with other settings, answer a question.

An experiment is a YAML file of this package. Variants are the recipe's own; a run is the recipe with a few settings
changed, of which the main variant is trained (`main=NAME` among the settings names another one). What is to be chosen
is judged on the validation pairs, so that the test pairs, on which claims are judged, have never chosen anything.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Literal, Self

from pydantic import model_validator

from mlim.config import Config, PlainName, load_yaml, nearest, parse
from mlim.errors import InputError

SUFFIX = ".yaml"


class ExperimentPlan(Config):
    """One experiment."""

    question: str
    variants: tuple[str, ...]
    runs: Mapping[PlainName, tuple[str, ...]]
    probe: bool
    judged_on: Literal["test", "validation"]
    equal_budgets: bool
    compared_with: PlainName | None = None  # a variant or run; the recipe's main variant where none is named

    @model_validator(mode="after")
    def _fair(self) -> Self:
        if self.judged_on == "test" and not self.equal_budgets:
            raise ValueError("judged_on: test asks for equal_budgets: a claim about unequal spending is none")
        if self.compared_with is not None and self.compared_with not in {*self.variants, *self.runs}:
            raise ValueError(f"compared_with: {self.compared_with} is none of the variants and runs")
        return self


def experiment_names() -> list[str]:
    """The names of all experiments."""
    entries = (entry.name for entry in (resources.files("mlim") / "experiments").iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX))


def judged_on_test() -> frozenset[str]:
    """The runs of all experiments whose test scores may be looked at."""
    plans = map(load_experiment, experiment_names())
    return frozenset(run for plan in plans if plan.judged_on == "test" for run in plan.runs)


def load_experiment(name: str) -> ExperimentPlan:
    """An experiment by name; `InputError` for one that is not there."""
    if name not in experiment_names():
        raise InputError(f"--experiment {name}: no such experiment{nearest(name, experiment_names())}")
    text = (resources.files("mlim") / "experiments" / f"{name}{SUFFIX}").read_text("utf-8")
    return parse(ExperimentPlan, load_yaml(text), f"experiment {name}")
