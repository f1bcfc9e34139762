"""The table of a fine-tuning task besides matching, and papers about it, as page and document of results show them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlim.evaluation.judges import judge_of
from mlim.recipe.tasks import OtherTask
from mlim.report.kit import formats
from mlim.report.kit.blocks import Block, Section, Table
from mlim.report.kit.markdown import table as markdown_table
from mlim.report.task_claims import TaskPaper, paper_blocks, paper_lines


def task_header(table: Mapping[str, Any]) -> tuple[str, ...]:
    """The header of its table; the difference is of its first figure."""
    figures = [figure["title"] for figure in table["figures"]]
    saw = ["also saw"] if _saw_more(table) else []
    return ("variant", *saw, "seeds", *figures, f"{figures[0]} minus the first variant")


def row_names(table: Mapping[str, Any]) -> tuple[str, ...]:
    """The variants in the order of `task_rows`: that which the others are compared with is the first."""
    return tuple(sorted(table["rows"], key=lambda name: name != table.get("main")))  # files order them by name


def task_rows(table: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """A row of cells for each variant (`row_names`), then for each baseline, which no network is."""
    names = [figure["name"] for figure in table["figures"]]
    rows, more = [table["rows"][name] for name in row_names(table)], _saw_more(table)
    rows += [{**row, "zero_shot": False, "seeds": None} for row in table.get("baselines", ())]
    return tuple(_cells(row, [row[name] for name in names], more) for row in rows)


def _saw_more(table: Mapping[str, Any]) -> bool:
    """Whether some variant has seen more than texts and pictures: boxes, attributes, questions, ImageNet."""
    return any(row.get("also_saw") for row in table["rows"].values())


def _cells(row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], more: bool) -> tuple[str, ...]:
    apart = found[0].get("difference")
    minus = formats.MISSING if apart is None else formats.signed_interval(apart["value"], apart["low"], apart["high"])
    label = f"{row['label']} (without fine-tuning)" if row["zero_shot"] else row["label"]
    values = (formats.interval(one["value"], one["low"], one["high"]) for one in found)
    saw = [formats.listed(row.get("also_saw", ()))] if more else []
    return (label, *saw, formats.count(row["seeds"]), *values, minus)


def task_lead(table: Mapping[str, Any]) -> str:
    """What the figures are of."""
    return (
        f"Figures on {formats.count(table['examples'])} {table['judged_on']} {table['examples_name']} of "
        f"{formats.count(table['units'])} independent units, the same for all variants, with "
        f"{100 * table['confidence']:g} % intervals over units and seeds; differences are to the first variant, paired."
    )


def task_sections(
    tables: Mapping[OtherTask, Mapping[str, Any] | None], papers: Sequence[TaskPaper]
) -> tuple[Section, ...]:
    """A section of the page for each task, with what papers claim about it."""
    return tuple(
        _section(task, table, [block for paper in papers if paper.task == task for block in paper_blocks(paper)])
        for task, table in tables.items()
    )


def _section(task: OtherTask, table: Mapping[str, Any] | None, claims: Sequence[Block]) -> Section:
    title = judge_of(task).title
    if table is None:
        missing = "The variants have not been compared yet: run `mlim ablate`."
        return Section(task, title, "", tuple(claims), missing)
    texts = 1 + _saw_more(table)
    block = Table(f"{title} by variant", task_header(table), task_rows(table), text_columns=texts)
    why = table["no_interval"]
    missing = f"{why[0].upper()}{why[1:]}." if why else ""
    return Section(task, title, task_lead(table), (block, *claims), missing)


def task_lines(tables: Sequence[Mapping[str, Any]], papers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables in Markdown, each below its lead and above what papers claim about its task."""
    parts = ((*_lines(table), *paper_lines(papers, table.get("task"))) for table in tables)  # earlier ones name no task
    return [line for part in parts for line in part]


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{table['title']}. {task_lead(table)}", "", *markdown_table(task_header(table), task_rows(table))]
