"""The report: one HTML file that needs nothing else, from the results in a work folder.

Texts of the catalog come from outside and are escaped; the page runs no script and may load nothing (its own policy
says so). Equal results give equal bytes.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlim.recipe import Recipe
from mlim.report import formats, sections
from mlim.report.blocks import Section, Tile
from mlim.report.claims import claims_section, unshown_section
from mlim.report.gather import Gathered
from mlim.report.scores import baseline_scores, row_scores
from mlim.report.verdicts import verdicts
from mlim.workspace import Workspace

TEMPLATE = "template.html"
STYLE = "style.css"


def render(recipe: Recipe, gathered: Gathered, workspace: Workspace, lineage: Mapping[str, Any]) -> str:
    """The page of what was gathered; pictures of items are read from the work folder.

    `lineage` holds commit, dirty, data_version and validation. Sections whose step has not run say so.
    """
    environment = Environment(
        loader=PackageLoader("mlim", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        style=Markup((resources.files("mlim.report") / STYLE).read_text("utf-8")),  # noqa: S704 (a file of ours)
        recipe=recipe,
        catalog=(gathered.ingest or {}).get("catalog", "no catalog yet"),
        verdicts=verdicts(recipe, gathered),
        tiles=tiles(recipe, gathered),
        sections=all_sections(recipe, gathered, workspace, lineage),
    )


def all_sections(
    recipe: Recipe, gathered: Gathered, workspace: Workspace, lineage: Mapping[str, Any]
) -> tuple[Section, ...]:
    """The sections in the order in which a reader needs them: results first, then how they came about."""
    return (
        sections.results_section(recipe, gathered),
        claims_section(recipe, gathered),
        sections.hardest_section(recipe, gathered, workspace),
        sections.probes_section(gathered),
        sections.losses_section(recipe, gathered),
        unshown_section(recipe, gathered),
        sections.data_section(recipe, gathered),
        sections.lineage_section(recipe, gathered, lineage),
    )


def quarantined_rows(gathered: Gathered) -> int:
    """How many rows ingest and validation have set aside."""
    summaries = (gathered.ingest or {}, gathered.validation or {})
    return sum(number for summary in summaries for number in summary.get("quarantined", {}).values())


def tiles(recipe: Recipe, gathered: Gathered) -> list[Tile]:
    """The figures at the top of the page; those that are not known yet are left out."""
    found: list[Tile] = []
    main, metrics = row_scores(recipe, gathered).get(recipe.main), gathered.metrics
    if main is not None:
        ends = f"{formats.score(main.pr_auc.low)} to {formats.score(main.pr_auc.high)}"
        found.append(Tile("PR-AUC of the main model", formats.score(main.pr_auc.value), ends))
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
