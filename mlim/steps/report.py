"""Step `report`: everything that the pipeline found, on one page for people."""

from dataclasses import asdict
from typing import Any, Final

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_folder, sha256_of, write_json
from mlim.recipe import Recipe
from mlim.report.gather import gather
from mlim.report.page import render
from mlim.report.results import CATALOG_TAG, RESULTS_FILE, STAGE, collect
from mlim.report.scores import row_scores
from mlim.tracking import stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

PAGE_FILE: Final = "index.html"


def report(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Write report/index.html from whatever steps have run, and keep it with its figures in MLflow.

    Gives {path, sha256, run_id}. `InputError` when nothing has been ingested, or a result cannot be read.
    """
    if not workspace.items.is_dir():
        raise InputError(f"{workspace.items} is missing; run `mlim ingest` first")
    gathered, origin = gather(recipe, workspace), lineage(workspace)
    page = render(recipe, gathered, workspace, asdict(origin))
    results = collect(recipe, gathered, asdict(origin))
    with stage_run(recipe, workspace, STAGE, STAGE, origin) as run, atomic_folder(workspace.report) as folder:
        (folder / PAGE_FILE).write_text(page, encoding="utf-8")
        write_json(folder / RESULTS_FILE, results)
        for name in (PAGE_FILE, RESULTS_FILE):
            run.artifact(folder / name)
        run.tag(CATALOG_TAG, results["catalog"])
        for name, score in row_scores(recipe, gathered).items():
            run.metric(f"pr_auc.{name}", score.pr_auc.value)
        path = workspace.report / PAGE_FILE
        summary = {"path": str(path), "sha256": sha256_of(folder / PAGE_FILE), "run_id": run.id}
        write_json(folder / "summary.json", summary)
    terminal.say(f"the report is {path}")
    return summary
