"""What the numbers say, in plain sentences: does pre-training help, and does it beat what is simpler?"""

from mlim.evaluation.judging import Judged
from mlim.references.claims import Variants
from mlim.report.claims import TONES
from mlim.report.gather import Gathered
from mlim.report.kit import formats
from mlim.report.kit.blocks import Verdict
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import (
    BASELINE_LABELS,
    BOOSTED_TREES,
    Estimate,
    Score,
    baseline_scores,
    variant_scores,
)


def verdicts(recipe: ReportedRecipe, gathered: Gathered) -> list[Verdict]:
    """The sentences that head the tables, the most important one first."""
    scores = variant_scores(recipe, gathered)
    main = scores.get(recipe.main)
    if main is None:
        return [Verdict("open", "No model has been judged yet.", "Run `mlim run` or `mlim evaluate` first.")]
    return [_pretraining(recipe, gathered, scores, main), _boosted_trees(gathered, main)]


def _pretraining(recipe: ReportedRecipe, gathered: Gathered, scores: dict[str, Score], main: Score) -> Verdict:
    pair, pretrained = recipe.pretraining_pair, recipe.main_variant.pretraining is not None
    other = None if pair is None else scores.get(pair[1] if pretrained else pair[0])
    reached = f"{main.label}: PR-AUC {_interval(main.pr_auc)}"
    if pair is None or other is None or other.difference is None:
        lacking = "the variant without it was not run" if pretrained else "no variant with it was run"
        sentence = f"Whether pre-training helps is not known: {lacking}."
        return Verdict("open", sentence, f"{reached}.{_no_interval(gathered)}")
    judged = _judged(gathered, pair)
    minus_main = other.difference.turned() if pretrained else other.difference
    gain = minus_main if judged is None else _measured(judged)
    chance = formats.score((gathered.metrics or {}).get("prevalence"))
    caution = _no_interval(gathered) or _caution(recipe)
    numbers = (
        f"{reached}; {other.label}: {_interval(other.pr_auc)}; difference {_signed(gain)}. "
        f"Scores without any knowledge would reach {chance}, the share of matches.{caution}"
    )
    sentences = {
        "good": "Pre-training helps in these runs.",
        "bad": "Pre-training does harm in these runs.",
        "open": "These runs cannot tell whether pre-training helps: the difference could be chance.",
    }
    tone = _tone(gain) if judged is None else TONES[judged.verdict]
    return Verdict(tone, sentences[tone], numbers)


def _judged(gathered: Gathered, pair: tuple[str, str]) -> Judged | None:
    """The claim on these two variants, where it was measured: the page's head says what its table says."""
    parts = (Variants(*pair),)
    found = (each for each in gathered.claims if each.claim.parts == parts and each.verdict != "not measured")
    return next(found, None)


def _measured(judged: Judged) -> Estimate:
    (measured,) = judged.measured
    return Estimate(measured.value, measured.low, measured.high)


def _no_interval(gathered: Gathered) -> str:
    """Why no interval is given, as a sentence to append; empty where there is one."""
    why = (gathered.metrics or {}).get("no_interval")
    return f" {why[:1].upper()}{why[1:]}." if why else ""


def _caution(recipe: ReportedRecipe) -> str:
    """What the intervals cannot know: they cover the draw of test pairs, not the variance of training."""
    if len(recipe.seeds) > 1:
        return ""
    return " One seed: the interval covers the choice of pairs, not the variance of training (--set seeds=[0,1,2])."


def _boosted_trees(gathered: Gathered, main: Score) -> Verdict:
    trees = baseline_scores(gathered.metrics).get(BOOSTED_TREES)
    if trees is None or trees.difference is None:
        return Verdict("open", "Boosted trees were not run, so the bar of a simple model is not known.", "")
    lead = trees.difference.turned()
    sentence = {
        "good": "It beats gradient-boosted trees on simple features.",
        "bad": "Gradient-boosted trees on simple features win: the simpler model is better here.",
        "open": "It does not differ significantly from gradient-boosted trees on simple features.",
    }
    tone = _tone(lead)
    numbers = f"{BASELINE_LABELS[BOOSTED_TREES]}: {_interval(trees.pr_auc)}; {main.label} minus trees: {_signed(lead)}."
    numbers += _no_interval(gathered)
    return Verdict(tone, sentence[tone], numbers)


def _tone(gain: Estimate) -> str:
    if gain.low > 0:
        return "good"
    return "bad" if gain.high < 0 else "open"


def _interval(estimate: Estimate) -> str:
    return formats.interval(estimate.value, estimate.low, estimate.high)


def _signed(estimate: Estimate) -> str:
    return formats.signed_interval(estimate.value, estimate.low, estimate.high)
