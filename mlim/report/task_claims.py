"""What papers claim and report about a fine-tuning task besides matching, beside what was measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlim.evaluation.judging import Judged
from mlim.evaluation.task_evidence import TaskEvidence
from mlim.recipe.tasks import OtherTask
from mlim.references import PaperTable
from mlim.references.claims import TaskVariants
from mlim.report.claims import DescribedClaim, claims_table, describe_claim, not_run
from mlim.report.gather import Gathered, JudgedPaper
from mlim.report.kit import formats
from mlim.report.kit.blocks import Block, Sentences, Table
from mlim.report.kit.markdown import table as markdown_table
from mlim.report.reported import ReportedRecipe

CLAIM_CELLS: Final = ("claim", "source", "verdict", "difference", "p_value", "seeds", "needed", "paper")
CLAIMS_HEADER: Final = ("claim", "where", "verdict", "difference", "corrected p", "seeds", "seeds needed", "paper")
CLAIMS_NOTE: Final = (
    "Differences are averaged over seeds; intervals cover other test examples in their units and, from two seeds on, "
    "other seeds. P-values are corrected for the number of the paper's claims (Holm), those on other tasks included. A "
    "claim of several parts shows its weakest."
)
REPORTED_HEADER: Final = ("variant", "figure", "where", "data of the paper", "paper", "here")
REPORTED_NOTE: Final = "The paper's figures are of other data, other images and larger models: they are not comparable."


@dataclass(frozen=True)
class TaskPaper:
    """One paper about one task: its claims with verdicts, and the cells of the table of what it reports; JSON-able.

    `not_run` are the sentences of further claims, about variants that were not run.
    """

    task: OtherTask
    title: str
    source: str
    claims: tuple[DescribedClaim, ...]
    not_run: tuple[str, ...]
    reported: tuple[tuple[str, ...], ...]


def task_papers(recipe: ReportedRecipe, gathered: Gathered) -> tuple[TaskPaper, ...]:
    """Every paper with claims or figures on a task that some variant was fine-tuned to."""
    found = (
        _paper(recipe, gathered, task, evidence, paper)
        for task, evidence in gathered.evidence.tasks.items()
        for paper in gathered.papers
    )
    return tuple(paper for paper in found if paper.claims or paper.reported or paper.not_run)


def _paper(
    recipe: ReportedRecipe, gathered: Gathered, task: OtherTask, evidence: TaskEvidence, paper: JudgedPaper
) -> TaskPaper:
    reference = paper.reference
    about = [judged for judged in paper.claims if judged.claim.task == task]
    run = [judged for judged in about if judged.measured or _is_run(judged, evidence)]
    return TaskPaper(
        task,
        reference.title,
        f"{reference.authors}, {reference.identifier}",
        tuple(describe_claim(recipe, gathered, reference, judged) for judged in run),
        tuple(judged.claim.sentence for judged in about if judged not in run),
        tuple(cells for table in reference.of_task(task) for cells in _reported(evidence, table)),
    )


def _is_run(judged: Judged, evidence: TaskEvidence) -> bool:
    """Whether all variants that the claim compares were run."""
    parts = [part for part in judged.claim.parts if isinstance(part, TaskVariants)]
    return {name for part in parts for name in (part.first, part.second)} <= evidence.variants.keys()


def _reported(evidence: TaskEvidence, table: PaperTable) -> Iterator[tuple[str, ...]]:
    """The figures of one of the paper's tables, of the variants that were trained here."""
    figure = evidence.figures.get(table.figure or "")
    if figure is None:
        return
    drawn = evidence.drawn[figure.name]
    for name, value in table.variants.items():
        if seeds := evidence.variants.get(name):
            here = float(np.mean([drawn[name, seed].by_seed for seed in seeds]))
            yield (
                evidence.labels[name],
                figure.title,
                table.title,
                table.data,
                formats.score(value),
                formats.score(here),
            )


def paper_blocks(paper: TaskPaper) -> Iterator[Block]:
    """Its claims as a table and in words, and what it reports."""
    measured = [claim for claim in paper.claims if claim.verdict != "not measured"]
    missing = [claim for claim in paper.claims if claim.verdict == "not measured"]
    if measured:
        yield claims_table(measured, f"Claims of {paper.source}", CLAIMS_NOTE)
        yield Sentences("In words", tuple(claim.sentence for claim in measured), folded=True)
    sentences = [claim.sentence for claim in missing] + not_run(paper.not_run)
    if sentences:
        yield Sentences(f"Not measured of {paper.source}", tuple(sentences))
    if paper.reported:
        title = f"Reported by {paper.source}, on other data"
        yield Table(title, REPORTED_HEADER, paper.reported, note=REPORTED_NOTE, text_columns=4)


def paper_lines(papers: Sequence[Mapping[str, Any]], task: str | None) -> Iterator[str]:
    """The same of one task in Markdown, from papers as JSON."""
    for paper in (each for each in papers if each["task"] == task):
        measured = [claim for claim in paper["claims"] if claim["verdict"] != "not measured"]
        missing = [claim for claim in paper["claims"] if claim["verdict"] == "not measured"]
        if measured:
            yield from (f"Claims of “{paper['title']}” ({paper['source']}). {CLAIMS_NOTE}", "")
            yield from markdown_table(CLAIMS_HEADER, [[claim[cell] for cell in CLAIM_CELLS] for claim in measured])
            yield from _listed("In words:", [claim["sentence"] for claim in measured])
        sentences = [*(claim["sentence"] for claim in missing), *not_run(paper["not_run"])]
        yield from _listed(f"Not measured of {paper['source']}:", sentences)
        if paper["reported"]:
            yield from (f"Reported by {paper['source']}. {REPORTED_NOTE}", "")
            yield from markdown_table(REPORTED_HEADER, paper["reported"])


def _listed(title: str, sentences: Sequence[str]) -> list[str]:
    return [title, "", *(f"- {sentence}" for sentence in sentences), ""] if sentences else []
