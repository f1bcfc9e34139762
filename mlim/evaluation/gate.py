"""Objections to making a model champion: figures that a useless model has, each against a limit of the recipe.

Pure functions of what `evaluate` and the tests at registration found about the scorer that is registered, whichever it
is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mlim.config import Config
from mlim.recipe.evaluate import GateConfig

Kind = Mapping[str, Any]  # group, pairs, matches, right: a row of mlim.evaluation.groups.group_figures
CHANCE, BASELINE, ONE_ANSWER, WRONG_KIND = "chance", "baseline", "one-answer", "wrong-kind"
SWAP, IDENTICAL, UNRELATED = "swap", "identical", "unrelated"
WORDS = {"image": "picture", "text": "text"}
MEND = "look for wrong labels and pictures (`mlim catalog show`), then train longer or on more pairs"


@dataclass(frozen=True)
class Objection:
    """One reason why a model must not become champion: a code, and a sentence with figure, limit and what to do."""

    code: str
    sentence: str


class GateDecision(Config):
    """What the gate found about a model when it was registered: every objection, and why a person overruled them."""

    objections: tuple[Objection, ...] = ()
    forced: str | None = None

    @property
    def warnings(self) -> list[str]:
        """A sentence each for whoever uses the model; none when nothing was found."""
        found = [f"the quality gate objects to this model: {each.sentence}" for each in self.objections]
        forced = bool(found) and self.forced is not None
        return [*found, *([f"it was made champion against these objections, because: {self.forced}"] if forced else [])]


def plain(found: Iterable[Objection]) -> list[dict[str, str]]:
    """Objections as JSON-able values."""
    return [asdict(objection) for objection in found]


def kinds_of(figures: pd.DataFrame) -> list[dict[str, Any]]:
    """The figures of `group_figures` by kind of variation as JSON-able values, the kind with most errors first."""
    wrong = (figures["pairs"] * (1 - figures["right"])).round().astype(int)
    shown = figures.assign(wrong=wrong).sort_values(["right", "group"], kind="stable")
    return [{str(key): value for key, value in row.items()} for row in shown.to_dict("records")]


def objections(metrics: Mapping[str, Any], kinds: Sequence[Kind], limits: GateConfig) -> list[Objection]:
    """Every objection to the model in an evaluation; empty for one that may be used.

    `metrics` are those of `evaluate` (registered, prevalence, no_interval, called_matches); `kinds`
    are the test pairs by kind of variation with their share decided right.
    """
    found = (
        _chance(metrics, limits),
        _baselines(metrics, limits),
        _one_answer(metrics, limits),
        _wrong_kinds(kinds, limits),
    )
    return [objection for each in found for objection in each]


def _chance(metrics: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    reached, chance = metrics["registered"]["pr_auc"], metrics["prevalence"]
    if not limits.above_chance:
        return
    if reached["low"] is None:
        why = metrics.get("no_interval") or "its PR-AUC has no interval"
        yield Objection(CHANCE, f"Nothing shows that it is better than chance: {why}; test it on more families.")
    elif reached["low"] <= chance:
        yield Objection(
            CHANCE,
            f"PR-AUC {reached['value']:.3f} [{reached['low']:.3f}, {reached['high']:.3f}] is not above chance "
            f"({chance:.3f}, the prevalence): {MEND}.",
        )


def _baselines(metrics: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    if not limits.above_baselines:
        return
    for name, figures in metrics["registered"]["baselines"].items():
        lead = figures.get("difference_to_registered") or {}
        if (lead.get("low") or 0) > 0:
            yield Objection(
                BASELINE,
                f"Baseline `{name}` is better: PR-AUC {lead['value']:+.3f} [{lead['low']:+.3f}, {lead['high']:+.3f}] "
                "above this model, where the interval has to reach 0: use the baseline, or train longer or on more "
                "pairs.",
            )


def _one_answer(metrics: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    """The same answer nearly everywhere, unless nearly all pairs have that label."""
    called, matches, most = metrics["called_matches"], metrics["prevalence"], limits.max_one_answer
    for answer, share, true in (("match", called, matches), ("mismatch", 1 - called, 1 - matches)):
        if share > most >= true:
            yield Objection(
                ONE_ANSWER,
                f"It answers `{answer}` for {_percent(share)} of the test pairs (limit {_percent(most)}), of which "
                f"{_percent(true)} are: {MEND}, or set another evaluate.target_precision if the threshold is at fault.",
            )


def _wrong_kinds(kinds: Sequence[Kind], limits: GateConfig) -> Iterator[Objection]:
    fewest, least = limits.min_kind_pairs, limits.min_kind_right
    for kind in kinds:
        if kind["pairs"] >= fewest and kind["right"] < least:
            yield Objection(
                WRONG_KIND,
                f"It gets pairs of the kind “{kind['group']}” wrong: {_percent(kind['right'])} of {kind['pairs']} "
                f"decided right (limit {_percent(least)}): train on more pairs of this kind, or leave it out of the "
                "pairs in catalog.yaml if the items do not show it.",
            )


def behaviour_objections(behaviour: Mapping[str, Any], limits: GateConfig) -> list[Objection]:
    """Everything in the figures of `mlim.evaluation.behaviour.behaviour_of` that is an objection to the model."""
    return [*_swap(behaviour, limits), *_identical(behaviour, limits), *_unrelated(behaviour, limits)]


def _swap(behaviour: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    if behaviour["swap_difference"] > limits.max_swap_difference:
        yield Objection(
            SWAP,
            f"The order of the items counts: when they change places, a probability changes by up to "
            f"{behaviour['swap_difference']:.4f} (limit {limits.max_swap_difference:g}, {behaviour['pairs']} pairs): "
            "fine-tune with finetune.read_out joint or separate, which treat both alike.",
        )


def _identical(behaviour: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    if behaviour["identical_right"] < limits.min_identical_right:
        yield Objection(
            IDENTICAL,
            f"Only {_percent(behaviour['identical_right'])} of {behaviour['items']} items match themselves (limit "
            f"{_percent(limits.min_identical_right)}): train longer, or lower evaluate.target_precision if the "
            "threshold is too high.",
        )


def _unrelated(behaviour: Mapping[str, Any], limits: GateConfig) -> Iterator[Objection]:
    if not limits.unrelated_lowers:
        return
    for what, mean in behaviour["unrelated"].items():
        if mean >= behaviour["matching"]:
            word = WORDS[what]
            yield Objection(
                UNRELATED,
                f"It does not use the {word}s: with an unrelated item's {word} the mean probability of "
                f"{behaviour['matches']} matching pairs is {mean:.3f}, with their own {behaviour['matching']:.3f}, and "
                f"has to fall: check that the {word}s show what decides, then train longer.",
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
