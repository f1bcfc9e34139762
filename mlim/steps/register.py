"""`mlim register`: the main model into the registry, promoted only when it beats the present champion."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.gate import GateDecision, Objection, behaviour_objections, objections, plain
from mlim.evaluation.promotion import standing_objections
from mlim.evaluation.scores import labels_of, part, scores_of
from mlim.evaluation.threshold import Calibration, calibration_error
from mlim.files import atomic_folder, read_json, write_json
from mlim.offline import check_recorded
from mlim.recipe import Recipe
from mlim.registry import FORCED, GATE_DECISION, MODEL_SHA256, PROMOTION, RUN_OF_REGISTRATION, Registry
from mlim.report.model_page import version_page
from mlim.roles import CHAMPION, ROLLED_BACK
from mlim.steps.as_trained import as_trained
from mlim.steps.behaviour import measure_behaviour
from mlim.steps.cards import CARD_FILE, write_cards
from mlim.steps.compare import read_test_pairs, requests
from mlim.steps.deciding import DECISION, Verdict, codes, decide, decision_of, one_line, write_decision_pages
from mlim.steps.evaluate import read_scored
from mlim.steps.lineage import made_here
from mlim.steps.packaged import package_model, read_metrics, trained_folder, write_decision
from mlim.steps.pairless import require_pairs
from mlim.steps.seen import LINEAGE, write_record
from mlim.tracking import TAG, StageRun, recipe_sha256, run_tags, stage_run, without_password
from mlim.versions import UNKNOWN, Lineage, lineage
from mlim.workspace import DECISION_PAGE, Workspace

CALIBRATION_ERROR: Final = f"{TAG}calibration_error"  # of a version, on the test pairs


def register(recipe: Recipe, workspace: Workspace, terminal: Terminal, force: str | None = None) -> dict[str, Any]:
    """Register the main model as a new version (none for an unchanged model) and decide who is champion.

    A version with objections (`mlim.evaluation.gate`) stays challenger, unless `force` says why it should not. Writes
    registration/summary.json, which it returns, and the cards of model and data. `InputError` when fine-tuning,
    evaluation or pairs are missing, or when `force` is blank.
    """
    force = one_line(force)
    require_pairs(workspace, "register")
    metrics = _inputs(recipe, workspace)
    origin = lineage(workspace)
    with (
        stage_run(recipe.record, workspace, "register", recipe.main, origin) as run,
        atomic_folder(workspace.registration) as folder,
    ):
        registry = Registry(recipe.tracking)
        for sentence in registry.roles.reconcile():
            terminal.say(sentence)
        version = _version(recipe, workspace, registry, run, origin, metrics)
        terminal.say(f"{registry.name} version {version}: testing how it behaves, comparing with the champion")
        judged = _judge(recipe, workspace, registry, version, metrics, force, folder)
        summary = {
            "model": registry.name,
            "version": version,
            "aliases": registry.roles.of(version),
            **judged,
            "evaluation": _runs(recipe, workspace)["evaluate"],
            "run_id": run.id,
            "uri": without_password(registry.uri),
        }
        decision = GateDecision(objections=judged["objections"], forced=judged["forced"])
        write_decision(folder / workspace.gate_decision.name, registry.tags(version)[MODEL_SHA256], decision)
        run.tag("mlim.model_version", version)
        run.tag("mlim.why", judged["why"])
        for card in write_cards(
            as_trained(recipe, trained_folder(recipe, workspace)), workspace, folder, origin, metrics, judged
        ):  # beside the model: its bytes stay the same
            run.artifact(card, card.name)
            run.headline({}, {card.name: card / CARD_FILE})
        run.headline({"test/calibration_error": judged["calibration_error"]}, {"decision": folder / DECISION_PAGE})
        for name in (DECISION, DECISION_PAGE):
            run.artifact(folder / name, "decision")
        run.artifact(write_record(workspace, folder, made_here(workspace, origin)), LINEAGE)
        registry.describe(version, _page(recipe, workspace, registry, version, metrics, judged))
        write_json(folder / "summary.json", summary)
    what = "champion all the same" if judged["forced"] else "not fit to be champion"
    for objection in judged["objections"]:
        terminal.warn(f"{what}: {objection['sentence']}")
    return summary


def _judge(
    recipe: Recipe,
    workspace: Workspace,
    registry: Registry,
    version: str,
    metrics: dict[str, Any],
    force: str | None,
    folder: Path,
) -> dict[str, Any]:
    """Test a version, say with tags and pages what was found, then give it its aliases; gives all of it, JSON-able."""
    behaviour = measure_behaviour(recipe, workspace, registry, version, read_test_pairs(workspace))
    error = _calibration_error(recipe, workspace, metrics)
    tags = registry.tags(version)
    found = [
        *objections(metrics, metrics["kinds"], recipe.gate),
        *behaviour_objections(behaviour, recipe.gate),
        *standing_objections(tags["mlim.validation"], error, tags.get(ROLLED_BACK), recipe.promotion),
    ]
    champion = registry.roles.holder(CHAMPION)
    verdict = decide(recipe, workspace, registry, version, found, force)
    if verdict.promoted:
        registry.roles.check_champion(champion)
    write_decision_pages(decision_of(recipe, workspace, registry, version, found, verdict), folder)
    registry.add_tags(version, {**_judgement_tags(found, behaviour, verdict), CALIBRATION_ERROR: f"{error:.6f}"})
    registry.roles.set_challenger(version)
    if verdict.promoted:
        registry.roles.promote(version, verdict.why)
    return {
        "objections": plain(found),
        "behaviour": behaviour,
        "calibration_error": error,
        "promoted": verdict.promoted,
        "why": verdict.why,
        "forced": verdict.forced,
        "against_champion": plain(verdict.against),
        "comparison": None if verdict.comparison is None else verdict.comparison.model_dump(mode="json"),
    }


def _page(
    recipe: Recipe,
    workspace: Workspace,
    registry: Registry,
    version: str,
    metrics: dict[str, Any],
    judged: dict[str, Any],
) -> str:
    """What MLflow shows of a version."""
    runs, experiment = _runs(recipe, workspace), str(read_json(workspace.pipeline)["experiment_id"])
    return version_page(registry.name, version, metrics, judged, registry.tags(version), runs, experiment)


def _calibration_error(recipe: Recipe, workspace: Workspace, metrics: dict[str, Any]) -> float:
    """How far the calibrated probabilities of the registered scorer are off on the test pairs."""
    test = part(read_scored(recipe, workspace).of_registered, split="test")
    return calibration_error(Calibration(**metrics["calibration"]).apply(scores_of(test)), labels_of(test))


def _judgement_tags(found: Sequence[Objection], behaviour: dict[str, Any], verdict: Verdict) -> dict[str, str]:
    """What the gate and the tests found about a version, for those who see the registry alone."""
    forced = {} if verdict.forced is None else {FORCED: verdict.forced}
    return {
        f"{TAG}objections": codes(found) or "none",
        PROMOTION: f"{'promoted' if verdict.promoted else 'not promoted'}: {verdict.why}",
        GATE_DECISION: GateDecision(objections=tuple(found), forced=verdict.forced).model_dump_json(),
        f"{TAG}swap_difference": f"{behaviour['swap_difference']:.6f}",
        f"{TAG}identical_right": f"{behaviour['identical_right']:.4f}",
        **{f"{TAG}unrelated_{what}": f"{mean:.4f}" for what, mean in behaviour["unrelated"].items()},
        **({} if behaviour["matching"] is None else {f"{TAG}matching": f"{behaviour['matching']:.4f}"}),
        **forced,
    }


def _inputs(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """The evaluation's figures, once everything that registration reads is there and belongs together."""
    metrics = read_metrics(recipe, workspace)
    pairs = workspace.pairs / "pairs.parquet"
    if not pairs.is_file():
        raise InputError(f"{pairs} is missing; run `mlim pairs` first")
    check_recorded(
        workspace, recipe.main, recipe.main_variant.pretraining, recipe.seeds[0]
    )  # a version must lead back to runs
    return metrics


def _version(
    recipe: Recipe, workspace: Workspace, registry: Registry, run: StageRun, origin: Lineage, metrics: dict[str, Any]
) -> str:
    """The version that holds the main model: an existing one when nothing in it changed, else a new one."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "matcher"
        sha256 = package_model(recipe, workspace, metrics, folder)
        tags = {**_tags(recipe, workspace, origin, metrics), MODEL_SHA256: sha256, RUN_OF_REGISTRATION: run.id}
        example = next(requests(recipe, workspace, read_test_pairs(workspace), size=1))
        return registry.find(sha256) or registry.add(run.id, folder, example, recipe.main_variant.modality, tags)


def _tags(recipe: Recipe, workspace: Workspace, origin: Lineage, metrics: dict[str, Any]) -> dict[str, str]:
    """What leads from a version back to code, data, recipe, validation, figures and runs."""
    figures = metrics["registered"]["pr_auc"]
    runs = _runs(recipe, workspace)
    now = {
        "mlim.commit": origin.commit,
        "mlim.dirty": str(origin.dirty).lower(),
        "mlim.data_version": origin.data_version,
        "mlim.items_sha256": origin.items,
        "mlim.validation": origin.validation,
    }
    training = run_tags(
        recipe.tracking, runs["finetune"]
    )  # code and data that trained the model; the checkout may have moved on
    return {
        **{key: training.get(key, value) for key, value in now.items()},
        "mlim.registered_at_commit": origin.commit,
        "mlim.recipe": recipe.name,
        "mlim.recipe_sha256": recipe_sha256(recipe.record),
        "mlim.scorer": metrics["registered"]["scorer"],
        "mlim.pr_auc": f"{figures['value']:.6f}",
        "mlim.prevalence": f"{metrics['prevalence']:.6f}",
        "mlim.test_pairs_sha256": str(read_json(workspace.pairs / "summary.json")["test_pairs_sha256"]),
        **{f"mlim.run.{stage}": run_id for stage, run_id in runs.items()},
    }


def _runs(recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    """The tracking runs that led to the main model, by stage."""
    folders = {
        "finetune": trained_folder(recipe, workspace),
        "stack": workspace.stack,
        "evaluate": workspace.evaluation,
    }
    if recipe.main_variant.pretraining is not None:
        folders["pretrain"] = workspace.pretrained(recipe.main_variant.pretraining, recipe.seeds[0])
    summaries = {stage: folder / "summary.json" for stage, folder in folders.items()}
    found = {stage: str(read_json(path).get("run_id", UNKNOWN)) for stage, path in summaries.items() if path.is_file()}
    return {**found, "pipeline": str(read_json(workspace.pipeline)["run_id"])}
