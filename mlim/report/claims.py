"""The paper's claims in words: a table, a sentence each, a forest plot, and what is not shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pandas as pd

from mlim.evaluation.claims import MARGIN, Claim, Curves, Figure, Harm, Part, Partner, Rows
from mlim.evaluation.judging import Judged, Measured, Verdict
from mlim.evaluation.power import Needed
from mlim.recipe import Recipe, Row
from mlim.report import figures, formats
from mlim.report.blocks import Block, Section, Sentences, Table
from mlim.report.gather import Gathered
from mlim.report.pictures import plot
from mlim.report.sections import row_curves_plot, row_label

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
HEADER: Final = ("claim", "where", "verdict", "difference", "corrected p", "seeds", "paper")
TABLE_NOTE: Final = (
    "Differences are averaged over seeds; intervals cover other families of test pairs and, from two seeds on, other "
    "seeds. P-values are corrected for the number of claims (Holm). A claim of several parts shows its weakest."
)


@dataclass(frozen=True)
class Told:
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
    paper: str
    effects: tuple[Mapping[str, Any], ...]


def tell(recipe: Recipe, gathered: Gathered) -> tuple[Told, ...]:
    """Every claim with its verdict, in words and numbers."""
    return tuple(_told(recipe, gathered, judged) for judged in gathered.claims)


def _told(recipe: Recipe, gathered: Gathered, judged: Judged) -> Told:
    claim, weakest = judged.claim, judged.weakest
    return Told(
        key=claim.key,
        claim=claim.sentence,
        source=claim.source,
        in_passing=claim.in_passing,
        verdict=judged.verdict,
        sentence=_sentence(recipe, gathered, judged),
        difference=formats.MISSING if weakest is None else difference_words(weakest),
        p_value=formats.p_value(judged.p_value),
        seeds=formats.MISSING if weakest is None else str(len(weakest.by_seed)),
        paper=formats.signed(paper_difference(recipe, claim.parts[0])),
        effects=tuple(_effect(judged, measured) for measured in judged.measured if measured.effect is not None),
    )


def _sentence(recipe: Recipe, gathered: Gathered, judged: Judged) -> str:
    head = f"{judged.claim.sentence}: {judged.verdict}"
    why = "; ".join(dict.fromkeys(missing.why for missing in judged.missing))
    weakest = judged.weakest
    if weakest is None:
        return f"{head}, {why}."
    facts = [
        f"corrected p {formats.p_value(judged.p_value)}",
        *_margin(judged.claim),
        _seeds_words(weakest),
        _units(gathered, weakest),
        f"catalog {(gathered.ingest or {}).get('catalog', 'unknown')}",
        recipe_words(recipe),
    ]
    rest = [_needs(judged.claim, judged.needed, weakest), f"Not all of it was measured: {why}." if why else ""]
    return " ".join([f"{head}. {_what(recipe, weakest)} ({'; '.join(facts)}).", *filter(None, rest)])


def recipe_words(recipe: Recipe) -> str:
    """The recipe and how large it is."""
    model = recipe.model
    return f"recipe {recipe.name}, {model.layers} layers of width {model.hidden_size}, {recipe.image.size} pixels"


def _what(recipe: Recipe, measured: Measured) -> str:
    part, shown = measured.part, formats.signed_interval(measured.value, measured.low, measured.high)
    if isinstance(part, Rows):
        first, second = (row_label(recipe, name) for name in (part.first, part.second))
        return f"PR-AUC of “{first}” minus that of “{second}” is {shown}"
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


def _margin(claim: Claim) -> list[str]:
    ends = {"equivalent": f"margin ±{formats.score(MARGIN)}", "no worse": f"margin {formats.signed(-MARGIN)}"}
    return [ends[claim.reading]] if claim.reading in ends else []


def _seeds_words(measured: Measured) -> str:
    if measured.seeds_spread is None:
        return "one seed, so the luck of a training is not in the interval"
    spread = formats.score(measured.seeds_spread)
    return f"{len(measured.by_seed)} seeds, which differ by {spread} (standard deviation)"


def _units(gathered: Gathered, measured: Measured) -> str:
    if isinstance(measured.part, Rows):
        pairs = gathered.evidence.pairs
        size = 0 if pairs is None else pairs.labels.size
        families = "" if measured.effect is None else f" of {formats.count(measured.effect.clusters)} families"
        return f"{formats.count(size)} test pairs{families}"
    figure = "figure2b" if isinstance(measured.part, Harm) else measured.part.figure
    return f"{formats.count(((gathered.probe or {}).get(figure) or {}).get('items'))} test items"


def paper_difference(recipe: Recipe, part: Part) -> float | None:
    """The difference that the paper reports for two rows, from the first of its tables that holds both."""
    if not isinstance(part, Rows) or not {part.first, part.second} <= recipe.rows.keys():
        return None
    first, second = recipe.rows[part.first], recipe.rows[part.second]
    tables = ((row_table(first), row_table(second)) for row_table in (_table1, _table2))
    return next((one - other for one, other in tables if one is not None and other is not None), None)


def _table1(row: Row) -> float | None:
    return row.paper_table1


def _table2(row: Row) -> float | None:
    return row.paper_table2


def _needs(claim: Claim, found: Needed | None, weakest: Measured) -> str:
    """What it would take to separate what was not."""
    if found is None:
        return ""
    what = "a difference as large as this" if claim.reading == "better" else "an answer as near to the margin as this"
    return (
        f"Separating {what} with {100 * found.power:g} % power takes {_seeds_needed(found, weakest)} with these pairs, "
        f"or {_pairs_needed(found)} with these seeds; as it is, {formats.score(found.detectable)} can be separated."
    )


def _seeds_needed(found: Needed, weakest: Measured) -> str:
    if found.seeds is not None:
        return f"{formats.count(found.seeds)} seeds"
    return "an unknown number of seeds" if weakest.seeds_spread is None else "no number of seeds"


def _pairs_needed(found: Needed) -> str:
    return "no number of pairs" if found.pairs is None else f"{formats.count(found.pairs)} pairs"


def _effect(judged: Judged, measured: Measured) -> dict[str, Any]:
    """One line of the forest plot; only measured rows have one."""
    against = measured.part.second if isinstance(measured.part, Rows) and len(judged.claim.parts) > 1 else ""
    return {
        "label": f"{judged.claim.short}: {against}" if against else judged.claim.short,
        "value": measured.value,
        "low": measured.low,
        "high": measured.high,
        "verdict": judged.verdict,
        "by_seed": list(measured.by_seed),
    }


def claims_section(recipe: Recipe, gathered: Gathered) -> Section:
    """Which of the paper's claims these results support."""
    title = "The paper's claims"
    told = tell(recipe, gathered)
    measured = [each for each in told if each.verdict != "not measured"]
    if not measured:
        missing = "No claim can be judged yet: run `mlim ablate` and `mlim probe`."
        return Section("claims", title, "", missing=missing)
    lead = f"{_tally(told)} Sentences below name data, size and number of seeds: they speak of these runs only."
    plots = [*_forest(told), *row_curves_plot(recipe, gathered)]
    blocks: list[Block] = [*plots, claims_table(measured), Sentences("In words", tuple(_each(measured)))]
    return Section("claims", title, lead, tuple(blocks))


def _tally(told: Sequence[Told]) -> str:
    found = {verdict: sum(each.verdict == verdict for each in told) for verdict in TONES}
    return f"Of {len(told)} claims, {', '.join(f'{number} {verdict}' for verdict, number in found.items() if number)}."


def _each(told: Iterable[Told]) -> list[str]:
    return [each.sentence for each in told]


def claims_table(told: Sequence[Told]) -> Table:
    """One line for each claim."""
    rows = tuple(
        (each.claim, each.source, each.verdict, each.difference, each.p_value, each.seeds, each.paper) for each in told
    )
    tones = tuple(TONES[each.verdict] for each in told)
    return Table("Claims and verdicts", HEADER, rows, note=TABLE_NOTE, text_columns=3, tones=tones)


def effects_table(told: Sequence[Told]) -> pd.DataFrame:
    """The lines of the forest plot, as `draw_forest` takes them."""
    return pd.DataFrame([effect for each in told for effect in each.effects])


def _forest(told: Sequence[Told]) -> list[Block]:
    rows = effects_table(told)
    if rows.empty:
        return []
    note = (
        "Filled marks with bars: mean over seeds and interval; small rings: single seeds. The band is the margin of "
        "“adds nothing”."
    )
    return [plot("forest", "How large the effects are", partial(figures.draw_forest, rows, margin=MARGIN), note)]


def unshown_section(recipe: Recipe, gathered: Gathered) -> Section:
    """What a reader must not take from this page."""
    return Section("unshown", "What is not shown", "", (Sentences("", tuple(unshown(recipe, gathered))),))


def unshown(recipe: Recipe, gathered: Gathered) -> list[str]:
    """Sentences on what is missing: claims without a measurement, seeds, size, other data."""
    left = [each.sentence for each in tell(recipe, gathered) if each.verdict == "not measured"]
    unused = [f"Left out: {reason}." for reason in gathered.evidence.left_out]
    return [*_few_seeds(recipe, gathered), *_probed_once(gathered), *_other_size(recipe), *unused, *left]


def _few_seeds(recipe: Recipe, gathered: Gathered) -> list[str]:
    counts = [len(row.by_seed) for row in gathered.evidence.rows.values()]
    if not counts:
        return ["No row has been trained and scored."]
    if min(counts) >= FEWEST_SEEDS:
        return []
    fewest = "one seed" if min(counts) == 1 else f"{min(counts)} seeds"
    return [f"Some rows were trained with {fewest} only: how much another training would differ is hardly known."]


def _probed_once(gathered: Gathered) -> list[str]:
    if gathered.probe is None:
        return ["Figure 2 was not measured."]
    if len(gathered.probe.get("seeds", ())) > 1:
        return []
    return ["Figure 2 was measured on one pre-trained model: its intervals cover other items, not other trainings."]


def _other_size(recipe: Recipe) -> list[str]:
    if recipe.name == PAPER_RECIPE:
        return ["The paper's data are private: these results are of other items and other pairs."]
    return [
        f"The paper's model (BERT-large, pictures of 384 pixels) and its private data are not shown: these results are "
        f"of other items and other pairs ({recipe_words(recipe)})."
    ]
