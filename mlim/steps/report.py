"""Step `report`: everything that the pipeline found, on one page for people."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mlim import tracking
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_folder, read_json, sha256_of, write_json
from mlim.offline import RUN_ID, SUMMARY_FILE
from mlim.recipe import Recipe
from mlim.report.claims import describe_claims, effects_table
from mlim.report.figures import draw_forest, draw_label_curves
from mlim.report.gather import Gathered
from mlim.report.labels import LABELS_AXIS
from mlim.report.page import render
from mlim.report.pipeline_page import Links, pipeline_page
from mlim.report.reported import ReportedRecipe
from mlim.report.results import RESULTS_FILE, collect
from mlim.report.scores import variant_scores
from mlim.report.sections import draw_variant_curves, variant_curves
from mlim.steps.gathered import gather, reported
from mlim.tracking import CATALOG_TAG, REPORT_STAGE, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

PAGE_FILE: Final = "index.html"
EFFECTS_FILE: Final = "effects.png"
LABELS_FILE: Final = "label_curve.png"
VARIANTS_FILE: Final = "pr_curves_of_variants.png"
CLAIM_TAG: Final = f"{tracking.TAG}claim."  # with a claim's key, of other papers than MLIM's after theirs: its verdict


def report(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Write report/index.html from whatever steps have run, and keep it with its figures in MLflow.

    Gives {path, sha256, run_id}. `InputError` when nothing has been ingested, or a result cannot be read.
    """
    if not workspace.items.is_dir():
        raise InputError(f"{workspace.items} is missing; run `mlim ingest` first")
    gathered, origin = gather(recipe, workspace), lineage(workspace)
    shown = reported(recipe)
    page = render(shown, gathered, workspace, asdict(origin))
    results = collect(shown, gathered, asdict(origin))
    with (
        stage_run(recipe.record, workspace, REPORT_STAGE, REPORT_STAGE, origin) as run,
        atomic_folder(workspace.report) as folder,
    ):
        (folder / PAGE_FILE).write_text(page, encoding="utf-8")
        write_json(folder / RESULTS_FILE, results)
        _draw(shown, gathered, folder)
        for path in sorted(folder.iterdir()):
            run.artifact(path)
        run.headline({}, {"report": folder / PAGE_FILE})
        run.describe_pipeline(pipeline_page(shown, gathered, _links(recipe, workspace)))
        for claim in gathered.claims:
            run.tag(f"{CLAIM_TAG}{claim.claim.key}", claim.verdict)
        for paper in gathered.papers:
            for claim in paper.claims:
                run.tag(f"{CLAIM_TAG}{paper.name}.{claim.claim.key}", claim.verdict)
        run.tag(CATALOG_TAG, results["catalog"])
        for name, score in variant_scores(shown, gathered).items():
            run.metric(f"test/pr_auc.{name}", score.pr_auc.value)
        page_path = workspace.report / PAGE_FILE
        summary = {"path": str(page_path), "sha256": sha256_of(folder / PAGE_FILE), "run_id": run.id}
        write_json(folder / "summary.json", summary)
    terminal.say(f"the report is {page_path}")
    return summary


def _links(recipe: Recipe, workspace: Workspace) -> Links:
    """What the page of the pipeline's run leads to."""
    folders = [workspace.finetuned(variant, seed) for variant in recipe.variants for seed in recipe.seeds]
    summaries = [read_json(path) for folder in folders if (path := folder / SUMMARY_FILE).is_file()]
    place = read_json(workspace.pipeline) if workspace.pipeline.is_file() else {}
    runs = tuple(str(summary[RUN_ID]) for summary in summaries if summary.get(RUN_ID))
    return Links(str(place.get("experiment_id", "")), runs, recipe.tracking.model_name)


def _draw(recipe: ReportedRecipe, gathered: Gathered, folder: Path) -> None:
    """The page's plots of variants and effects as pictures, for MLflow; without those that have nothing to show."""
    effects = effects_table(describe_claims(recipe, gathered))
    if not effects.empty:
        draw_forest(effects, folder / EFFECTS_FILE, gathered.reference.margin)
    if points := [point.plain() for point in gathered.label_curve]:
        draw_label_curves([("", points)], folder / LABELS_FILE, LABELS_AXIS)
    if variant_curves(recipe, gathered):
        draw_variant_curves(recipe, gathered, folder / VARIANTS_FILE)
