"""What the Prefect page shows of a run: the validation, the tables, the progress, and where results are.

Nothing links to a file: the page may be open on another machine. Files are named, runs of a tracking server are linked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.job import Job
from mlim.files import read_csv, read_json, sha256_of
from mlim.shards.shard import MANIFEST_FILE
from mlim.steps.plan import Stage
from mlim.tracking import run_page
from mlim.workspace import DECISION_PAGE


def show(job: Job, stage: Stage) -> None:
    """The artifact of a stage that has ended, if it has one."""
    shown = {"evaluate": show_evaluation, "ablate": show_tables, "register": show_decision, "report": show_results}
    if stage.command in shown:
        shown[stage.command](job)


def show_validation(job: Job) -> None:
    """A Markdown artifact: rows in, accepted, quarantined by reason, and every expectation's outcome.

    None when the items were not checked yet, or others were.
    """
    manifest, checks = job.workspace.items / MANIFEST_FILE, job.workspace.valid / "summary.json"
    checked = read_json(checks) if checks.is_file() and manifest.is_file() else {}
    if not checked or checked["data_version"] != sha256_of(manifest):
        return
    ingested = read_json(job.workspace.items / "summary.json")
    quarantined = {**ingested["quarantined"], **checked["quarantined"]}
    lines = [
        f"# Data of `{job.catalog}`",
        f"{ingested['rows_in']} rows in, {checked['accepted']} accepted, {sum(quarantined.values())} quarantined.",
        *(f"- {reason}: {count}" for reason, count in sorted(quarantined.items())),
        *(f"**Rejected:** {complaint}" for complaint in checked["complaints"]),
        f"Pages of the checks: `{(job.workspace.valid / 'data_docs' / 'index.html').resolve()}`",
        "",
        "| expectation | column | holds |",
        "|---|---|---|",
        *(
            f"| {e['expectation']} | {e['column'] or ''} | {'yes' if e['success'] else 'NO'} |"
            for e in checked["expectations"]
        ),
    ]
    create_markdown_artifact(key="validation", markdown="\n".join(lines), description="Data and validation")


def show_tables(job: Job) -> None:
    """Table artifacts: PR-AUC of every variant with its interval, beside the paper's; figures of the other tasks."""
    figures = ("label", "figure", "value", "low", "high")
    if job.matches:
        shown = ("label", "pr_auc", "low", "high", "table1", "table2")
        _show_table("ablation", job.workspace.ablation / "table.csv", shown, "Tables 1 and 2 on this catalog")
    for task in job.recipe.other_tasks:
        _show_table(f"task-{task}", job.workspace.ablation / f"{task}.csv", figures, f"Task {task} on this catalog")


def _show_table(key: str, path: Path, columns: Sequence[str], description: str) -> None:
    rows: list[dict[str, Any]] = [{name: row[name] for name in columns} for row in read_csv(path)]
    create_table_artifact(key=key, table=rows, description=description)


def show_evaluation(job: Job) -> None:
    """A table artifact: PR-AUC on the test pairs of the registered scorer, the main model and the baselines."""
    file = job.workspace.evaluation / "summary.json"
    if not file.is_file():  # a run that starts behind the evaluation
        return
    metrics = read_json(file)
    found = {
        f"registered: {metrics['registered']['scorer']}": metrics["registered"]["pr_auc"],
        **{f"main model, {modality}": interval for modality, interval in metrics["pr_auc"].items()},
        **{f"baseline {name}": figures for name, figures in metrics["baselines"].items()},
    }
    rows = [{"scores": name, **{end: each[end] for end in ("value", "low", "high")}} for name, each in found.items()]
    create_table_artifact(key="pr-auc", table=rows, description="PR-AUC on the test pairs, with its interval")


def show_results(job: Job) -> None:
    """A Markdown artifact: where the report is, and the run of the tracking server where there is one."""
    page, run = job.workspace.report / "index.html", run_page(job.recipe.tracking, job.workspace)
    lines = [
        *([f"Report: `{page.resolve()}`"] if page.is_file() else []),
        *([f"[Run in MLflow]({run})"] if run else ["Runs: `mlim ui`"]),
    ]
    create_markdown_artifact(key="results", markdown="\n\n".join(lines), description="Report and runs")


def show_decision(job: Job) -> None:
    """A Markdown artifact: whether the model that was registered is champion, and why."""
    page = job.workspace.registration / DECISION_PAGE
    if page.is_file():  # results of an earlier version have none
        description = "Who is champion, and why"
        create_markdown_artifact(key="champion", markdown=page.read_text(encoding="utf-8"), description=description)


def show_matches(out: Path) -> None:
    """A Markdown artifact: counts of `mlim match`, its warnings, and where the page is."""
    summary = read_json(out / "summary.json")
    lines = [
        f"# Matches of `{summary['catalog']}`",
        f"{summary['matches']:,} of {summary['scored']:,} scored pairs match; {summary['grouped_items']:,} of "
        f"{summary['items']:,} items are in {summary['groups']:,} groups.",
        *_since(summary["since"]),
        *(f"**Warning:** {warning}" for warning in summary["warnings"]),
        f"Page: `{(out / 'matches.html').resolve()}`",
    ]
    create_markdown_artifact(key="matches", markdown="\n\n".join(lines), description="Matches of a catalog")


def show_labels(new: int, least: int) -> None:
    """A Markdown artifact: how many new labels there are of those that a training waits for."""
    what = "a training starts" if new >= least else f"a training starts with {least}"
    create_markdown_artifact(key="labels", markdown=f"{new} new labels: {what}.", description="New labels")


def _since(since: dict[str, Any] | None) -> list[str]:
    """What came, changed and went since an earlier match, and what became of the groups."""
    if since is None:
        return []
    items, events = ({kind: f"{count:,}" for kind, count in since[name].items()} for name in ("items", "events"))
    counts = [", ".join(f"{count} {kind}" for kind, count in found.items()) for found in (items, events)]
    return [f"Since {since['folder']}: items {counts[0]}; groups {counts[1]}."]


class Progress:
    """A progress artifact over the stages of a pipeline."""

    def __init__(self, stages: int) -> None:
        self._stages, self._done = stages, 0
        self._artifact = create_progress_artifact(progress=0.0, description="pipeline")

    def advance(self) -> None:
        """One more stage is done."""
        self._done += 1
        update_progress_artifact(artifact_id=self._artifact, progress=100.0 * self._done / self._stages)  # type: ignore[arg-type]
