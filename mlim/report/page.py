"""The report: one HTML file that needs nothing else, from the results in a work folder.

Texts of the catalog come from outside and are escaped; the page runs no script and may load nothing (its own policy
says so). Equal results give equal bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlim.report import sections
from mlim.report.claims import claims_section, unshown_section
from mlim.report.examples.blocks import example_blocks
from mlim.report.gather import Gathered
from mlim.report.kit import formats
from mlim.report.kit.blocks import Section, Tile, Verdicts
from mlim.report.kit.page import render_page
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import baseline_scores, scorer_scores, variant_scores
from mlim.report.task_claims import task_papers
from mlim.report.tasks import task_sections
from mlim.report.usable import usable_section, usable_verdict
from mlim.report.verdicts import verdicts
from mlim.stacking.scorers import MATCHER
from mlim.workspace import Workspace

TEMPLATE = "report.html"
ABOUT_PAIRS = frozenset({"use", "results", "claims", "hardest", "probes", "unshown"})  # anchors
MAIN_TITLE = "PR-AUC of the main model"
NO_ENDS = "too few families for an interval"


def render(recipe: ReportedRecipe, gathered: Gathered, workspace: Workspace, lineage: Mapping[str, Any]) -> str:
    """The page of what was gathered; pictures of items are read from the work folder.

    `lineage` holds commit, dirty, data_version and validation. Sections whose step has not run say so.
    """
    values = {
        "recipe": recipe,
        "catalog": (gathered.ingest or {}).get("catalog", "no catalog yet"),
        "verdict": usable_verdict(recipe, gathered),
        "tiles": tiles(recipe, gathered),
        "sections": all_sections(recipe, gathered, workspace, lineage),
    }
    return render_page("mlim.report", TEMPLATE, values)


def all_sections(
    recipe: ReportedRecipe, gathered: Gathered, workspace: Workspace, lineage: Mapping[str, Any]
) -> tuple[Section, ...]:
    """The sections in the order in which a reader needs them: whether it can be used, results, how they came about.

    Without pairs those about matching are left out.
    """
    found = (
        usable_section(recipe, gathered),
        _results(recipe, gathered),
        *_with_examples(task_sections(gathered.task_tables, task_papers(recipe, gathered)), recipe, workspace),
        claims_section(recipe, gathered),
        sections.hardest_section(recipe, gathered, workspace),
        sections.probes_section(gathered),
        sections.losses_section(recipe, gathered),
        unshown_section(recipe, gathered),
        sections.data_section(recipe, gathered),
        sections.lineage_section(recipe, gathered, lineage),
    )
    return tuple(section for section in found if gathered.has_pairs or section.anchor not in ABOUT_PAIRS)


def _with_examples(found: Sequence[Section], recipe: ReportedRecipe, workspace: Workspace) -> Iterator[Section]:
    """The sections of tasks, each with examples below its table."""
    examples = example_blocks(recipe, workspace) if found else {}
    for section in found:
        yield replace(section, blocks=(*section.blocks, *examples.get(section.anchor, ())))


def _results(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """The tables, headed by what they say in plain sentences."""
    section = sections.results_section(recipe, gathered)
    said = (Verdicts(tuple(verdicts(recipe, gathered))),) if section.blocks else ()
    return replace(section, blocks=(*said, *section.blocks))


def quarantined_rows(gathered: Gathered) -> int:
    """How many rows ingest and validation have quarantined."""
    summaries = (gathered.ingest or {}, gathered.validation or {})
    return sum(number for summary in summaries for number in summary.get("quarantined", {}).values())


def tiles(recipe: ReportedRecipe, gathered: Gathered) -> list[Tile]:
    """The figures at the top of the page; those that are not known yet are left out."""
    found: list[Tile] = []
    main, metrics = variant_scores(recipe, gathered).get(recipe.main), gathered.metrics
    registered = (metrics or {}).get("registered", {}).get("scorer")
    stacked = scorer_scores(metrics).get(registered) if registered != MATCHER else None
    for title, score in ((f"PR-AUC of the {registered}, which is registered", stacked), (MAIN_TITLE, main)):
        if score is not None:
            known = not formats.is_missing(score.pr_auc.low)
            ends = formats.ends(score.pr_auc.low, score.pr_auc.high) if known else NO_ENDS
            found.append(Tile(title, formats.score(score.pr_auc.value), ends))
    if metrics is not None:
        found.append(Tile("Chance", formats.score(metrics["prevalence"]), "share of matches among the test pairs"))
    ceilings = (gathered.pairs or {}).get("ceilings")
    if ceilings:
        alone = f"of both; texts alone {formats.score(ceilings['text'])}, pictures {formats.score(ceilings['image'])}"
        found.append(Tile("Best possible reader", formats.score(ceilings["both"]), alone))
    best = next(iter(baseline_scores(metrics).values()), None)
    if best is not None:
        found.append(Tile("Best baseline", formats.score(best.pr_auc.value), best.label))
    if gathered.validation is not None:
        quarantined = f"{formats.count(quarantined_rows(gathered))} rows quarantined"
        found.append(Tile("Items", formats.count(gathered.validation["accepted"]), quarantined))
    return found
