"""`mlim register`: the main model into the registry, promoted only when it beats the present champion."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.behaviour import fields_of
from mlim.evaluation.evidence import judged_pairs
from mlim.evaluation.gate import GateDecision, Objection, behaviour_objections, objections, plain
from mlim.evaluation.resampling import JudgedPairs, compare
from mlim.files import atomic_folder, read_json, write_json
from mlim.manifest import ChangedFilesError
from mlim.offline import check_recorded
from mlim.recipe import Recipe
from mlim.registry import CHAMPION, GATE_DECISION, MODEL_SHA256, Registry
from mlim.shards.items import open_items
from mlim.steps.as_trained import as_trained
from mlim.steps.behaviour import measure_behaviour, sent
from mlim.steps.cards import write_cards
from mlim.steps.packaged import package_model, read_metrics, trained_folder, write_decision
from mlim.steps.pairless import require_pairs
from mlim.tracking import TAG, StageRun, recipe_sha256, run_tags, stage_run, without_password
from mlim.versions import UNKNOWN, Lineage, lineage
from mlim.workspace import Workspace

FORCED: Final = f"{TAG}forced"  # of a version: why it is champion against all objections


class Verdict(NamedTuple):
    """Whether a version becomes champion, why, and what a person said against the objections, if anything."""

    promoted: bool
    why: str
    forced: str | None = None


def register(recipe: Recipe, workspace: Workspace, terminal: Terminal, force: str | None = None) -> dict[str, Any]:
    """Register the main model as a new version (none for an unchanged model) and decide who is champion.

    A version with objections (`mlim.evaluation.gate`) stays challenger, unless `force` says why it should not. Writes
    registration/summary.json, which it returns, and the cards of model and data. `InputError` when fine-tuning,
    evaluation or pairs are missing, or when `force` is blank.
    """
    if force is not None and not force.strip():
        raise InputError(
            "--force: is blank; say why the objections do not count, for those who find this version later"
        )
    force = None if force is None else " ".join(force.split())  # one line, as it stands in lists
    require_pairs(workspace, "register")
    metrics = _inputs(recipe, workspace)
    origin = lineage(workspace)
    with (
        stage_run(recipe.record, workspace, "register", recipe.main, origin) as run,
        atomic_folder(workspace.registration) as folder,
    ):
        registry = Registry(recipe.tracking)
        version = _version(recipe, workspace, registry, run, origin, metrics)
        terminal.say(f"{registry.name} version {version}: testing how it behaves, comparing with the champion")
        judged = _judge(recipe, workspace, registry, version, metrics, force)
        summary = {
            "model": registry.name,
            "version": version,
            "aliases": registry.aliases(version),
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
) -> dict[str, Any]:
    """Test a version, give it its aliases, and say with tags what was found; gives all of it, JSON-able."""
    behaviour = measure_behaviour(recipe, workspace, registry, version, _test_pairs(workspace))
    found = [*objections(metrics, metrics["kinds"], recipe.gate), *behaviour_objections(behaviour, recipe.gate)]
    verdict = _decide(recipe, workspace, registry, version, found, force)
    registry.set_challenger(version)
    if verdict.promoted:
        registry.promote(version)
    registry.add_tags(version, _judgement_tags(found, behaviour, verdict))
    return {"objections": plain(found), "behaviour": behaviour, **verdict._asdict()}


def _judgement_tags(found: Sequence[Objection], behaviour: dict[str, Any], verdict: Verdict) -> dict[str, str]:
    """What the gate and the tests found about a version, for those who see the registry alone."""
    forced = {} if verdict.forced is None else {FORCED: verdict.forced}
    return {
        f"{TAG}objections": _codes(found) or "none",
        GATE_DECISION: GateDecision(objections=tuple(found), forced=verdict.forced).model_dump_json(),
        f"{TAG}swap_difference": f"{behaviour['swap_difference']:.6f}",
        f"{TAG}identical_right": f"{behaviour['identical_right']:.4f}",
        **{f"{TAG}unrelated_{what}": f"{mean:.4f}" for what, mean in behaviour["unrelated"].items()},
        **({} if behaviour["matching"] is None else {f"{TAG}matching": f"{behaviour['matching']:.4f}"}),
        **forced,
    }


def _codes(found: Sequence[Objection]) -> str:
    return ", ".join(dict.fromkeys(objection.code for objection in found))


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
        tags = {**_tags(recipe, workspace, origin, metrics), MODEL_SHA256: sha256, "mlim.run.register": run.id}
        example = next(_requests(recipe, workspace, _test_pairs(workspace), size=1))
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


def _test_pairs(workspace: Workspace) -> pd.DataFrame:
    table = pq.read_table(workspace.pairs / "pairs.parquet", filters=[("split", "=", "test")])
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _requests(recipe: Recipe, workspace: Workspace, pairs: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The pairs as a client would send them, `size` at a time."""
    yield from sent(open_items(recipe.loader, workspace), fields_of(pairs), size)


def _decide(
    recipe: Recipe,
    workspace: Workspace,
    registry: Registry,
    version: str,
    found: Sequence[Objection],
    force: str | None,
) -> Verdict:
    """Champion when there is no objection, or a person overrules them, and it beats the present champion."""
    champion = registry.holder(CHAMPION)
    if champion == version:  # its files were opened: `_version` gives no other
        return _stays(registry, version, found, force)
    if found and force is None:
        return Verdict(
            False,
            f"challenger, not promoted ({_codes(found)}): do what the objections say and register again, or "
            "overrule them with `mlim register --force WHY`",
        )
    verdict = _against_champion(recipe, workspace, registry, version, champion)
    if not found or not verdict.promoted:
        return verdict
    return Verdict(True, f"{verdict.why}; forced against objections ({_codes(found)}): {force}", force)


def _stays(registry: Registry, version: str, found: Sequence[Objection], force: str | None) -> Verdict:
    """The present champion was registered again: it stays, as others may use it, whatever is found now."""
    forced = force or registry.tags(version).get(FORCED)
    kept = "is the champion already; nothing in it has changed"
    if not found:
        return Verdict(False, kept)
    if forced is not None:
        return Verdict(False, f"{kept}; forced against objections ({_codes(found)}): {forced}", forced)
    return Verdict(
        False,
        f"{kept}, but it would not be promoted now ({_codes(found)}): stop using it, or give a reason with `mlim "
        "register --force WHY`; a version that passes and scores higher replaces it, and the alias can be removed in "
        "MLflow (`mlim ui`)",
    )


def _against_champion(
    recipe: Recipe, workspace: Workspace, registry: Registry, version: str, champion: str | None
) -> Verdict:
    """Champion when no other can be used, or when the PR-AUC on the same test pairs is significantly higher."""
    if champion is None:
        return Verdict(True, "champion, the first of this model")
    pairs = _test_pairs(workspace)
    size = recipe.evaluate.batch_size
    try:
        theirs = registry.score(champion, _requests(recipe, workspace, pairs, size))
    except ChangedFilesError as error:  # it is unusable and must not block one that works
        return Verdict(True, f"champion without a comparison: version {champion}, champion until now, is lost: {error}")
    except Exception as error:  # an old version may fail in any way; a person has to look at it
        reason = str(error).splitlines()[0]
        return Verdict(False, f"challenger; champion version {champion} cannot be scored ({reason}), compare by hand")
    ours = registry.score(version, _requests(recipe, workspace, pairs, size))
    return _compare(recipe, judged_pairs(pairs, workspace), np.asarray(ours), np.asarray(theirs), champion)


def _compare(recipe: Recipe, pairs: JudgedPairs, ours: Any, theirs: Any, champion: str) -> Verdict:
    settings = recipe.evaluate
    difference = compare(pairs, ours[None], theirs[None], settings.bootstrap_samples, settings.confidence, recipe.seed)
    ends = "" if difference.why else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    measured = (
        f"PR-AUC {difference.value:+.4f}{ends} against champion version {champion} on the same {pairs.labels.size} "
        "test pairs"
    )
    if difference.why:
        return Verdict(False, f"challenger, {measured}; {difference.why}, compare by hand")
    if difference.low > 0:
        return Verdict(True, f"champion, {measured}")
    return Verdict(False, f"challenger, {measured}: not significantly better")
