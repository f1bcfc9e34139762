"""The paper's claims in words: a table, a sentence each, a forest plot, and what is not shown."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pandas as pd

from mlim.evaluation.evidence import Evidence
from mlim.evaluation.judging import Judged, Measured, Verdict
from mlim.evaluation.power import Needed
from mlim.evaluation.spreads import LEVEL
from mlim.references import Reference
from mlim.references.claims import Claim, Curves, Figure, Harm, Part, Partner, TaskVariants, Variants
from mlim.report import figures
from mlim.report.gather import Gathered
from mlim.report.kit import formats
from mlim.report.kit.blocks import Block, Section, Sentences, Table
from mlim.report.kit.svg import plot
from mlim.report.reported import ReportedRecipe
from mlim.report.sections import variant_curves_plot, variant_label

FEWEST_SEEDS: Final = 3  # with fewer, the spread between trainings is hardly known
PAPER_RECIPE: Final = "paper"
TONES: Final[Mapping[Verdict, str]] = {
    "supported": "good",
    "contradicted": "bad",
    "not separated": "open",
    "not measured": "missing",
}
FIGURES: Final[Mapping[Figure, tuple[str, Mapping[Partner, str]]]] = {
    "figure2a": ("Figure 2a", {"own": "the item's own picture", "empty": "a gray one", "random": "a random one"}),
    "figure2b": ("Figure 2b", {"own": "the item's own text", "empty": "an empty one", "random": "a random one"}),
}
HEADER: Final = ("claim", "where", "verdict", "difference", "corrected p", "seeds", "seeds needed", "paper")
TABLE_TITLE: Final = "Claims and verdicts"
TABLE_NOTE: Final = (
    "Differences are averaged over seeds; intervals cover other families of test pairs and, from two seeds on, other "
    "seeds. P-values are corrected for the number of claims (Holm). A claim of several parts shows its weakest."
)


@dataclass(frozen=True)
class DescribedClaim:
    """A claim as it is shown: JSON-able, so that `mlim results` can write it without the scores."""

    key: str
    claim: str
    source: str
    in_passing: bool
    verdict: Verdict
    sentence: str
    difference: str
    p_value: str
    seeds: str
    needed: str
    paper: str
    effects: tuple[Mapping[str, Any], ...]


def describe_claims(recipe: ReportedRecipe, gathered: Gathered) -> tuple[DescribedClaim, ...]:
    """Every claim with its verdict, in words and numbers."""
    return tuple(describe_claim(recipe, gathered, gathered.reference, judged) for judged in gathered.claims)


def describe_claim(recipe: ReportedRecipe, gathered: Gathered, paper: Reference, judged: Judged) -> DescribedClaim:
    """One claim of a paper with its verdict, in words and numbers."""
    claim, weakest = judged.claim, judged.weakest
    return DescribedClaim(
        key=claim.key,
        claim=claim.sentence,
        source=claim.source,
        in_passing=claim.in_passing,
        verdict=judged.verdict,
        sentence=_sentence(recipe, gathered, paper, judged),
        difference=formats.MISSING if weakest is None else difference_words(weakest),
        p_value=formats.p_value(judged.p_value),
        seeds=formats.MISSING if weakest is None else str(len(weakest.by_seed)),
        needed=_needed_cell(judged),
        paper=formats.signed(paper_difference(recipe, paper, claim.parts[0])),
        effects=tuple(_effect(judged, measured) for measured in judged.measured if _is_variant(measured)),
    )


def _sentence(recipe: ReportedRecipe, gathered: Gathered, paper: Reference, judged: Judged) -> str:
    head = f"{judged.claim.sentence}: {judged.verdict}"
    why = "; ".join(dict.fromkeys(missing.why for missing in judged.missing))
    weakest = judged.weakest
    if weakest is None:
        return f"{head}, {why}."
    facts = [
        f"corrected p {formats.p_value(judged.p_value)}",
        *_margin(judged.claim, paper.margin),
        _seeds_words(weakest),
        _units(gathered, weakest),
        f"catalog {(gathered.ingest or {}).get('catalog', 'unknown')}",
        recipe_words(recipe),
    ]
    unit = _unit(gathered, weakest.part)
    rest = [_needs(judged.claim, judged.needed, weakest, unit), f"Not all of it was measured: {why}." if why else ""]
    return " ".join([f"{head}. {_what(recipe, gathered, weakest)} ({'; '.join(facts)}).", *filter(None, rest)])


def recipe_words(recipe: ReportedRecipe) -> str:
    """The recipe and how large it is."""
    model = recipe.model
    return f"recipe {recipe.name}, {model.layers} layers of width {model.hidden_size}, {recipe.image.size} pixels"


def _what(recipe: ReportedRecipe, gathered: Gathered, measured: Measured) -> str:
    part, shown = measured.part, formats.signed_interval(measured.value, measured.low, measured.high)
    if isinstance(part, Variants):
        first, second = (variant_label(recipe, name) for name in (part.first, part.second))
        return f"PR-AUC of “{first}” minus that of “{second}” is {shown}"
    if isinstance(part, TaskVariants):
        found = gathered.evidence.tasks[part.task]
        first, second, title = found.labels[part.first], found.labels[part.second], found.figures[part.figure].title
        return f"{title[0].upper()}{title[1:]} of “{first}” minus that of “{second}” is {shown}"
    if isinstance(part, Curves):
        figure, partners = FIGURES[part.figure]
        more, less = partners[part.more], partners[part.less]
        return (
            f"{figure}: the loss beside {more} minus that beside {less} is {shown} at masking probability "
            f"{measured.where:g}, where it is weakest"
        )
    return f"The share by which a random text raises RECON minus that by which a random picture raises MLM is {shown}"


def difference_words(measured: Measured) -> str:
    """A difference with its interval, and the masking probability it belongs to."""
    shown = formats.signed_interval(measured.value, measured.low, measured.high)
    return shown if measured.where is None else f"{shown} at {measured.where:g}"


def _margin(claim: Claim, margin: float) -> list[str]:
    ends = {"equivalent": f"margin ±{formats.score(margin)}", "no worse": f"margin {formats.signed(-margin)}"}
    return [ends[claim.reading]] if claim.reading in ends else []


def _seeds_words(measured: Measured) -> str:
    if measured.seeds_spread is None:
        return "one seed, so the interval does not include the variance of training"
    spread = formats.score(measured.seeds_spread)
    return f"{len(measured.by_seed)} seeds, which differ by {spread} (standard deviation)"


def _units(gathered: Gathered, measured: Measured) -> str:
    if isinstance(measured.part, Variants):
        pairs = gathered.evidence.pairs
        size = 0 if pairs is None else pairs.labels.size
        families = "" if measured.effect is None else f" of {formats.count(measured.effect.clusters)} families"
        return f"{formats.count(size)} test pairs{families}"
    if isinstance(measured.part, TaskVariants):
        found = gathered.evidence.tasks[measured.part.task]
        units = formats.count(found.clusters)
        return f"{formats.count(found.examples)} test {found.examples_name} of {units} independent units"
    figure = "figure2b" if isinstance(measured.part, Harm) else measured.part.figure
    return f"{formats.count(((gathered.probe or {}).get(figure) or {}).get('items'))} test items"


def _unit(gathered: Gathered, part: Part) -> str:
    """How people call several of what a part was measured on."""
    if isinstance(part, TaskVariants):
        return gathered.evidence.tasks[part.task].examples_name
    return "pairs" if isinstance(part, Variants) else "items"


def paper_difference(recipe: ReportedRecipe, reference: Reference, part: Part) -> float | None:
    """The difference that the paper reports for two variants of the recipe, from the first of its tables with both."""
    if isinstance(part, TaskVariants):
        return reference.difference(part)
    if not isinstance(part, Variants) or not {part.first, part.second} <= recipe.variants.keys():
        return None
    return reference.difference(part)


def _needs(claim: Claim, found: Needed | None, weakest: Measured, units: str) -> str:
    """The sample size that would separate what was not separated."""
    if found is None:
        return ""
    what = "a difference as large as this" if claim.reading == "better" else "a result as near to the margin as this"
    seeds = None if found.seeds is None else f"{formats.count(found.seeds)} seeds with these {units}"
    more = None if found.pairs is None else f"{formats.count(found.pairs)} {units} with these seeds"
    enough = [size for size in (seeds, more) if size is not None]
    never = [name for name, size in (("seeds", seeds), (units, more)) if size is None]
    parts = [f"separating {what} with {100 * found.power:g} % power needs {' or '.join(enough)}"] if enough else []
    if weakest.seeds_spread is None:
        never.remove("seeds")
        parts.append("how many seeds it needs is unknown")
    if never:
        parts.append(f"more {' or more '.join(never)} alone would not separate it")
    parts.append(f"the minimum detectable difference is {formats.score(found.detectable)}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _needed_cell(judged: Judged) -> str:
    """The number of seeds that would separate a claim that was not separated, as `_needs` has it in words."""
    if judged.needed is None or judged.weakest is None:
        return formats.MISSING
    if judged.needed.seeds is not None:
        return formats.count(judged.needed.seeds)
    return "unknown" if judged.weakest.seeds_spread is None else "more do not suffice"


def _is_variant(measured: Measured) -> bool:
    """Whether it is a difference of two variants: only these are of PR-AUC, on one scale."""
    return measured.effect is not None and isinstance(measured.part, Variants)


def _effect(judged: Judged, measured: Measured) -> dict[str, Any]:
    """One line of the forest plot; only measured variants have one."""
    against = measured.part.second if isinstance(measured.part, Variants) and len(judged.claim.parts) > 1 else ""
    return {
        "label": f"{judged.claim.short}: {against}" if against else judged.claim.short,
        "value": measured.value,
        "low": measured.low,
        "high": measured.high,
        "verdict": judged.verdict,
        "by_seed": list(measured.by_seed),
    }


def claims_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """Which of the paper's claims these results support."""
    title = "The paper's claims"
    claims = describe_claims(recipe, gathered)
    measured = [each for each in claims if each.verdict != "not measured"]
    if not measured:
        missing = "No claim can be judged yet: run `mlim ablate` and `mlim probe`."
        return Section("claims", title, "", missing=missing)
    found = {verdict: sum(each.verdict == verdict for each in claims) for verdict in TONES}
    tally = ", ".join(f"{number} {verdict}" for verdict, number in found.items() if number)
    lead = (
        f"Of {len(claims)} claims, {tally}. Sentences below name data, size and number of seeds: they speak of these "
        "runs only."
    )
    plots = [*_forest(claims, gathered.reference.margin), *variant_curves_plot(recipe, gathered)]
    words = Sentences("In words", (*(each.sentence for each in measured), *pooled_words(recipe, gathered)), folded=True)
    blocks: list[Block] = [*plots, claims_table(measured), words]
    return Section("claims", title, lead, tuple(blocks))


def pooled_words(recipe: ReportedRecipe, gathered: Gathered) -> list[str]:
    """Over which variants the spread between seeds was pooled; nothing with one seed or without compared variants."""
    known = [
        (measured.part, measured.effect)
        for judged in gathered.claims
        for measured in judged.measured
        if isinstance(measured.part, Variants) and measured.effect and measured.seeds_spread is not None
    ]
    if not known:
        return []
    pools = dict.fromkeys(effect.pooled for _, effect in known if effect.pooled)
    pooled = {variant for pool in pools for variant in pool}
    variants = dict.fromkeys(variant for part, _ in known for variant in (part.first, part.second))
    shared = [f"{_labels(recipe, pool)} share one spread" for pool in pools]
    alone = [variant for variant in variants if variant not in pooled]
    own = [f"{_labels(recipe, alone)} are judged by that of their own differences"] if alone else []
    return [
        "How far trainings differ from seed to seed is measured together for variants that a test (Bartlett's "
        f"statistic at a level of {formats.percent(LEVEL)}) does not tell apart in it: {'; '.join([*shared, *own])}."
    ]


def _labels(recipe: ReportedRecipe, variants: Iterable[Hashable]) -> str:
    return ", ".join(f"“{variant_label(recipe, str(variant))}”" for variant in variants)


def claims_table(claims: Sequence[DescribedClaim], title: str = TABLE_TITLE, note: str = TABLE_NOTE) -> Table:
    """One line for each claim."""
    rows = tuple(
        (each.claim, each.source, each.verdict, each.difference, each.p_value, each.seeds, each.needed, each.paper)
        for each in claims
    )
    tones = tuple(TONES[each.verdict] for each in claims)
    return Table(title, HEADER, rows, note=note, text_columns=3, tones=tones)


def effects_table(claims: Sequence[DescribedClaim]) -> pd.DataFrame:
    """The lines of the forest plot, as `draw_forest` takes them."""
    return pd.DataFrame([effect for each in claims for effect in each.effects])


def _forest(claims: Sequence[DescribedClaim], margin: float) -> list[Block]:
    rows = effects_table(claims)
    if rows.empty:
        return []
    note = (
        "Filled marks with bars: mean over seeds and interval; small rings: single seeds. The band is the margin of "
        "“adds nothing”."
    )
    return [plot("forest", "How large the effects are", partial(figures.draw_forest, rows, margin=margin), note)]


def unshown_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """What a reader must not take from this page."""
    return Section("unshown", "What is not shown", "", (Sentences("", tuple(unshown(recipe, gathered))),))


def unshown(recipe: ReportedRecipe, gathered: Gathered) -> list[str]:
    """Sentences on what is missing: claims without a measurement, seeds, size, other data."""
    left = [judged for judged in gathered.claims if judged.verdict == "not measured"]
    absent = {judged.claim.sentence: _absent(judged, gathered.evidence) for judged in left}
    others = [judged for judged in left if not absent[judged.claim.sentence]]
    reasons = (gathered.evidence.left_out, *(found.left_out for found in gathered.evidence.tasks.values()))
    unused = [f"Left out: {reason}." for found in reasons for reason in found]
    return [
        *_few_seeds(recipe, gathered),
        *_probed_once(gathered),
        *_other_size(recipe, gathered.reference),
        *unused,
        *(describe_claim(recipe, gathered, gathered.reference, judged).sentence for judged in others),
        *not_run([f"{claim} ({', '.join(variants)})" for claim, variants in absent.items() if variants]),
    ]


def _absent(judged: Judged, evidence: Evidence) -> list[str]:
    """The variants that were not run, of a claim of which therefore no part was measured."""
    if judged.measured or evidence.pairs is None:
        return []
    parts = [part for part in judged.claim.parts if isinstance(part, Variants)]
    named = dict.fromkeys(name for part in parts for name in (part.first, part.second))
    return [f"`{name}`" for name in named if name not in evidence.variants]


def not_run(claims: Sequence[str]) -> list[str]:
    """One sentence about all claims whose variants were not run; none without such claims."""
    return [f"The variants were not run that these claims are about: {'; '.join(claims)}."] if claims else []


def _few_seeds(recipe: ReportedRecipe, gathered: Gathered) -> list[str]:
    counts = [len(variant.by_seed) for variant in gathered.evidence.variants.values()]
    if not counts:
        return ["No variant has been trained and scored."]
    if min(counts) >= FEWEST_SEEDS:
        return []
    fewest = "one seed" if min(counts) == 1 else f"{min(counts)} seeds"
    return [f"Some variants were trained with {fewest} only: how much another training would differ is hardly known."]


def _probed_once(gathered: Gathered) -> list[str]:
    if gathered.probe is None:
        return ["Figure 2 was not measured."]
    if len(gathered.probe.get("seeds", ())) > 1:
        return []
    return ["Figure 2 was measured on one pre-trained model: its intervals cover other items, not other trainings."]


def _other_size(recipe: ReportedRecipe, reference: Reference) -> list[str]:
    if recipe.name == PAPER_RECIPE:
        return ["The paper's data are private: these results are of other items and other pairs."]
    return [
        f"The paper's model ({reference.scale}) and its private data are not shown: these results are of "
        f"other items and other pairs ({recipe_words(recipe)})."
    ]
