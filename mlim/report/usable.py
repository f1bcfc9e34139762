"""Can you use this? The verdict that opens the page and the model card, from the evaluation and the registration."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlim.evaluation.gate import behaviour_objections, objections
from mlim.evaluation.promotion import STANDING
from mlim.report.gather import Gathered
from mlim.report.kit import formats
from mlim.report.kit.blocks import Block, Section, Sentences, Table, Verdict
from mlim.report.reported import ReportedRecipe

Summary = Mapping[str, Any]

QUESTION: Final = "Can you use this?"
BEST_F1: Final = "best-f1"  # mlim.evaluation.threshold: no threshold reaches evaluate.target_precision
PROMISED: Final = "promised"  # how a rule begins that keeps evaluate.promise
SHOWN_CHANGE: Final = 0.0001  # of a probability; smaller ones are rounding
WORDS: Final = {"image": "picture", "text": "text"}
KIND_NOTE: Final = (
    "Test pairs at the threshold. Of a kind of matches, errors are matches that it misses; of a kind of mismatches, "
    "mismatches that it calls matches."
)


def sentences_against(recipe: ReportedRecipe, metrics: Summary, registration: Summary | None) -> list[str]:
    """Objections to using the model: by its evaluation, and by the tests at registration where there were any."""
    judged = objections(metrics, metrics["kinds"], recipe.gate)
    tested = [] if registration is None else behaviour_objections(registration["behaviour"], recipe.gate)
    standing = [found["sentence"] for found in (registration or {}).get("objections", ()) if found["code"] in STANDING]
    return [*(objection.sentence for objection in (*judged, *tested)), *standing]


def answer(metrics: Summary, against: Sequence[str]) -> str:
    """The question with its answer."""
    if against:
        reasons = "one reason stands" if len(against) == 1 else f"{len(against)} reasons stand"
        return f"{QUESTION} Not yet: {reasons} against it."
    if _misses_target(metrics):
        return f"{QUESTION} Only where a person checks what it calls a match."
    return f"{QUESTION} Yes: no check has an objection."


def _misses_target(metrics: Summary) -> bool:
    """Whether no threshold reaches the precision that the recipe asks for."""
    return bool(metrics.get("threshold_rule") == BEST_F1)


def chosen_on(metrics: Summary) -> str:
    """The pairs that the threshold was chosen on: one that keeps a promise is chosen on the pairs that also judge."""
    promised = str(metrics.get("threshold_rule", "")).startswith(PROMISED)
    return "the test pairs" if promised else "validation pairs"


def reached(metrics: Summary) -> str:
    """Precision and recall at the threshold as a person would say them."""
    precision, recall = metrics["precision_at_threshold"], metrics["recall_at_threshold"]
    return (
        f"{formats.percent(precision)} of the pairs that it calls a match are matches (precision), and it finds "
        f"{formats.percent(recall)} of all matches (recall): {formats.count(metrics['pairs'])} test pairs, threshold "
        f"{formats.score(metrics['threshold'])}.{_asked(metrics)}"
    )


def _asked(metrics: Summary) -> str:
    if not _misses_target(metrics):
        return ""
    asked = formats.percent(metrics["target_precision"])
    return f" No threshold reaches the precision of {asked} that the recipe asks for; this one has the best F1."


def next_steps(metrics: Summary, against: Sequence[str], registration: Summary | None) -> list[str]:
    """What to do after the verdict."""
    forced = (registration or {}).get("forced")
    if against:
        insist = "If you know better, `mlim register --force WHY` makes it champion, and WHY is recorded with it."
        return [
            "Do what the reasons say and `mlim run` again: a version that passes can become champion.",
            f"It was made champion against these objections, because: {forced}" if forced else insist,
        ]
    alone = (
        "Before it decides alone: train longer or on more pairs, until a threshold reaches evaluate.target_precision."
    )
    where = "is in the registry" if registration else "is registered by `mlim register`, which tests how it behaves"
    return [
        f"The model {where}; `mlim serve` answers requests with the champion.",
        *([alone] if _misses_target(metrics) else []),
        "Look at the kinds of variation with most errors and at the hardest pairs before you rely on it.",
        "On a catalog of another kind evaluate it anew, on labelled pairs of that catalog.",
    ]


def tests(registration: Summary | None) -> list[str]:
    """What the tests at registration measured, a sentence each; none before registration."""
    behaviour = (registration or {}).get("behaviour")
    if not behaviour:
        return []
    own, change = formats.score(behaviour["matching"]), behaviour["swap_difference"]
    changes = f"at most {change:.4f}" if change >= SHOWN_CHANGE else f"less than {SHOWN_CHANGE}"
    return [
        f"When two items change places, a probability changes by {changes} "
        f"({formats.count(behaviour['pairs'])} pairs).",
        f"{formats.percent(behaviour['identical_right'])} of {formats.count(behaviour['items'])} items match "
        "themselves.",
        *(
            f"With an unrelated item's {WORDS[what]} the mean probability of {formats.count(behaviour['matches'])} "
            f"matching pairs is {formats.score(mean)}; with their own it is {own}."
            for what, mean in behaviour["unrelated"].items()
        ),
    ]


def usable_verdict(recipe: ReportedRecipe, gathered: Gathered) -> Verdict:
    """The headline of the page."""
    metrics = gathered.metrics
    if not gathered.has_pairs:
        return Verdict("open", "Nothing is matched: the catalog has no pairs.", "Models of other tasks are compared.")
    if metrics is None:
        return Verdict("open", f"{QUESTION} Not known: no model has been judged yet.", "Run `mlim evaluate` first.")
    if "kinds" not in metrics:
        detail = "The evaluation is of an earlier version of mlim; run `mlim evaluate` again."
        return Verdict("open", f"{QUESTION} Not known.", detail)
    against = sentences_against(recipe, metrics, gathered.registration)
    tone = "bad" if against else "open" if _misses_target(metrics) else "good"
    return Verdict(tone, answer(metrics, against), reached(metrics))


def usable_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """Why the headline says what it says, errors by kind of variation, and what to do next."""
    title, metrics = "Why, and what to do next", gathered.metrics
    if metrics is None or "kinds" not in metrics:
        return Section("use", title, "", missing="No model has been judged yet: run `mlim evaluate`.")
    against = sentences_against(recipe, metrics, gathered.registration)
    found = tests(gathered.registration)
    blocks: tuple[Block, ...] = (
        *([Sentences("What stands against it", tuple(against))] if against else []),
        kinds_table(metrics),
        *([Sentences("How the registered model behaves", tuple(found))] if found else []),
        Sentences("What to do next", tuple(next_steps(metrics, against, gathered.registration))),
    )
    missing = "" if found else "How the model behaves has not been tested yet: run `mlim register`."
    lead = "Whether a model may be champion is judged by the limits in the recipe's section `gate`."
    return Section("use", title, lead, tuple(block for block in blocks if getattr(block, "rows", True)), missing)


def kinds_table(metrics: Summary) -> Table:
    """Errors by kind of variation, the worst kind first."""
    rows = tuple(
        (
            str(kind["group"]),
            formats.count(kind["pairs"]),
            formats.count(kind["matches"]),
            formats.count(kind["wrong"]),
            formats.percent(1 - kind["right"]),
        )
        for kind in metrics["kinds"]
    )
    header = ("kind of variation", "pairs", "of them matches", "errors", "share of errors")
    return Table("Errors by kind of variation", header, rows, note=KIND_NOTE)
