"""The page of a pipeline's run in MLflow, in Markdown: the paper's tables with our figures, and where to look next."""

import json
from dataclasses import dataclass
from urllib.parse import quote

from mlim.report.cards import markdown_table
from mlim.report.gather import Gathered
from mlim.report.kit.blocks import Table
from mlim.report.reported import ReportedRecipe
from mlim.report.tables import baselines_table, further_variants_table, paper_table
from mlim.report.usable import answer


@dataclass(frozen=True)
class Links:
    """Where the page leads: the experiment, the runs that fine-tuned the variants, the registered model."""

    experiment: str
    finetunings: tuple[str, ...]
    model: str


def pipeline_page(recipe: ReportedRecipe, gathered: Gathered, links: Links) -> str:
    """The page, from what has run: the answer, the tables that have rows, the links."""
    tables = [
        *(paper_table(recipe, gathered, table) for table in gathered.reference.tables),
        further_variants_table(recipe, gathered),
        *([] if gathered.metrics is None else [baselines_table(recipe, gathered)]),
    ]
    return "\n\n".join(
        [*_answer(gathered), *(_shown(table) for table in tables if table.rows), _links(gathered, links)]
    )


def _answer(gathered: Gathered) -> list[str]:
    """Whether the model can be used, where one was judged."""
    if gathered.metrics is None or gathered.registration is None:
        return []
    against = [found["sentence"] for found in gathered.registration["objections"]]
    return [f"**{answer(gathered.metrics, against)}**", *(f"- {sentence}" for sentence in against)]


def _shown(table: Table) -> str:
    rows = [[str(cell) for cell in row] for row in table.rows]
    return f"### {table.title}\n\n{markdown_table(table.header, rows)}"


def _links(gathered: Gathered, links: Links) -> str:
    """What to look at next."""
    compared = quote(json.dumps(links.finetunings)), quote(json.dumps([links.experiment]))
    version = (gathered.registration or {}).get("version")
    found = [
        f"[variants side by side](#/compare-runs?runs={compared[0]}&experiments={compared[1]})"
        if len(links.finetunings) > 1
        else "",
        f"[version {version} of the registered model](#/models/{quote(links.model)}/versions/{version})"
        if version
        else "",
        "the report (`report/index.html`) and the cards among this run's artifacts",
    ]
    return f"See {', '.join(filter(None, found))}."
