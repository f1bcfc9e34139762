"""`mlim register`: the main model into the registry, promoted only when it beats the present champion."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.catalog.items import open_items
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.evidence import judged_pairs
from mlim.evaluation.resampling import JudgedPairs, compare
from mlim.files import atomic_folder, read_json, write_json
from mlim.recipe import Recipe
from mlim.registry import CHAMPION, MODEL_SHA256, Registry
from mlim.serving import SETTINGS, SHARD_FORMAT, ServingSettings, seal
from mlim.steps.cards import write_cards
from mlim.tracking import StageRun, recipe_sha256, run_tags, shown, stage_run
from mlim.untracked import check_recorded
from mlim.versions import UNKNOWN, Lineage, lineage
from mlim.workspace import Workspace


class Verdict(NamedTuple):
    """Whether a version becomes champion, and why, in one sentence."""

    promoted: bool
    why: str


def register(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Register the main model as a new version (none for an unchanged model) and decide who is champion.

    Writes registration/summary.json, which it returns, and the cards of model and data. `InputError` when fine-tuning,
    evaluation or pairs are missing.
    """
    metrics = _inputs(recipe, workspace)
    origin = lineage(workspace)
    with (
        stage_run(recipe, workspace, "register", recipe.main, origin) as run,
        atomic_folder(workspace.registration) as folder,
    ):
        registry = Registry(recipe)
        version = _version(recipe, workspace, registry, run, origin, metrics)
        terminal.say(f"{registry.name} version {version}: comparing with the champion")
        verdict = _decide(recipe, workspace, registry, version)
        registry.challenge(version)
        if verdict.promoted:
            registry.crown(version)
        summary = {
            "model": registry.name,
            "version": version,
            "aliases": registry.aliases(version),
            **verdict._asdict(),
            "run_id": run.id,
            "uri": shown(registry.uri),
        }
        run.tag("mlim.model_version", version)
        run.tag("mlim.why", verdict.why)
        for card in write_cards(
            recipe, workspace, folder, origin, metrics
        ):  # beside the model: its bytes stay the same
            run.artifact(card, card.name)
        write_json(folder / "summary.json", summary)
    return summary


def _inputs(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """The evaluation's figures, once everything that registration reads is there and belongs together."""
    needed = {
        _trained(recipe, workspace) / "summary.json": "mlim finetune",
        workspace.evaluation / "metrics.json": "mlim evaluate",
        workspace.pairs / "pairs.parquet": "mlim pairs",
    }
    missing = [f"{path} is missing; run `{command}` first" for path, command in needed.items() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    check_recorded(recipe, workspace)  # a version must lead back to runs
    metrics: dict[str, Any] = read_json(workspace.evaluation / "metrics.json")
    if (metrics["row"], metrics["seed"]) != (recipe.main, recipe.seeds[0]):
        raise InputError(
            f"{workspace.evaluation} is of row {metrics['row']}, seed {metrics['seed']}, not of {recipe.main}, seed "
            f"{recipe.seeds[0]}; run `mlim evaluate` again"
        )
    return metrics


def _trained(recipe: Recipe, workspace: Workspace) -> Path:
    return workspace.finetuned(recipe.main, recipe.seeds[0])


def _version(
    recipe: Recipe, workspace: Workspace, registry: Registry, run: StageRun, origin: Lineage, metrics: dict[str, Any]
) -> str:
    """The version that holds the main model: an existing one when nothing in it changed, else a new one."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "matcher"
        shutil.copytree(_trained(recipe, workspace) / "model", folder)
        write_json(folder / SETTINGS, _settings(recipe, metrics).model_dump(mode="json"))
        sha256 = seal(folder)
        tags = {**_tags(recipe, workspace, origin, metrics), MODEL_SHA256: sha256, "mlim.run.register": run.id}
        example = next(_requests(recipe, workspace, _test_pairs(workspace), size=1))
        return registry.find(sha256) or registry.add(run.id, folder, example, recipe.main_row.modality, tags)


def _settings(recipe: Recipe, metrics: dict[str, Any]) -> ServingSettings:
    calibration = metrics["calibration"]
    return ServingSettings(
        modality=recipe.main_row.modality,
        max_tokens=recipe.text.max_tokens,
        image_size=recipe.image.size,
        image_formats=tuple(dict.fromkeys((*recipe.ingest.formats, SHARD_FORMAT))),
        image_megapixels=recipe.ingest.max_megapixels,
        jpeg_quality=recipe.image.jpeg_quality,
        batch_size=recipe.evaluate.batch_size,
        threshold=metrics["threshold"],
        calibration=(calibration["slope"], calibration["intercept"]),
    )


def _tags(recipe: Recipe, workspace: Workspace, origin: Lineage, metrics: dict[str, Any]) -> dict[str, str]:
    """What leads from a version back to code, data, recipe, validation, figures and runs."""
    figures = metrics["pr_auc"][recipe.main_row.modality]
    runs = _runs(recipe, workspace)
    now = {
        "mlim.commit": origin.commit,
        "mlim.dirty": str(origin.dirty).lower(),
        "mlim.data_version": origin.data_version,
        "mlim.items_sha256": origin.items,
        "mlim.validation": origin.validation,
    }
    training = run_tags(
        recipe, runs["finetune"]
    )  # code and data that trained the model; the checkout may have moved on
    return {
        **{key: training.get(key, value) for key, value in now.items()},
        "mlim.registered_at_commit": origin.commit,
        "mlim.recipe": recipe.name,
        "mlim.recipe_sha256": recipe_sha256(recipe),
        "mlim.pr_auc": f"{figures['value']:.6f}",
        "mlim.prevalence": f"{metrics['prevalence']:.6f}",
        "mlim.test_pairs_sha256": _test_pairs_sha256(workspace),
        **{f"mlim.run.{stage}": run_id for stage, run_id in runs.items()},
    }


def _runs(recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    """The tracking runs that led to the main model, by stage."""
    folders = {"finetune": _trained(recipe, workspace), "evaluate": workspace.evaluation}
    if recipe.main_row.pretraining is not None:
        folders["pretrain"] = workspace.pretrained(recipe.main_row.pretraining, recipe.seeds[0])
    summaries = {stage: folder / "summary.json" for stage, folder in folders.items()}
    found = {stage: str(read_json(path).get("run_id", UNKNOWN)) for stage, path in summaries.items() if path.is_file()}
    return {**found, "pipeline": str(read_json(workspace.pipeline)["run_id"])}


def _test_pairs_sha256(workspace: Workspace) -> str:
    return str(read_json(workspace.pairs / "summary.json")["test_pairs_sha256"])


def _test_pairs(workspace: Workspace) -> pd.DataFrame:
    table = pq.read_table(workspace.pairs / "pairs.parquet", filters=[("split", "=", "test")])
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _requests(recipe: Recipe, workspace: Workspace, pairs: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The pairs as a client would send them, `size` at a time."""
    store = open_items(recipe, workspace)
    for start in range(0, len(pairs), size):
        part = pairs.iloc[start : start + size]
        columns = {}
        for side in ("a", "b"):
            items = list(part[f"item_{side}"])
            columns[f"text_{side}"] = [store.text(item) for item in items]
            columns[f"image_{side}"] = [base64.b64encode(store.jpeg(item)).decode("ascii") for item in items]
        yield pd.DataFrame(columns)


def _decide(recipe: Recipe, workspace: Workspace, registry: Registry, version: str) -> Verdict:
    """Champion when there is none, or when the PR-AUC on the same test pairs is higher beyond doubt."""
    champion = registry.holder(CHAMPION)
    if champion is None:
        return Verdict(True, "champion, the first of this model")
    if champion == version:
        return Verdict(False, "is the champion already; nothing in it has changed")
    pairs = _test_pairs(workspace)
    size = recipe.evaluate.batch_size
    try:
        theirs = registry.score(champion, _requests(recipe, workspace, pairs, size))
    except Exception as error:  # an old version may fail in any way; a person has to look at it
        reason = str(error).splitlines()[0]
        return Verdict(False, f"challenger; champion version {champion} cannot be scored ({reason}), compare by hand")
    ours = registry.score(version, _requests(recipe, workspace, pairs, size))
    return _compare(recipe, judged_pairs(pairs, workspace), np.asarray(ours), np.asarray(theirs), champion)


def _compare(recipe: Recipe, pairs: JudgedPairs, ours: Any, theirs: Any, champion: str) -> Verdict:
    settings = recipe.evaluate
    difference = compare(pairs, ours[None], theirs[None], settings.bootstrap_samples, settings.confidence, recipe.seed)
    measured = (
        f"PR-AUC {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] against champion version "
        f"{champion} on the same {pairs.labels.size} test pairs"
    )
    if difference.low > 0:
        return Verdict(True, f"champion, {measured}")
    return Verdict(False, f"challenger, {measured}: not better beyond doubt")
