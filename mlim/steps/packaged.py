"""The main model of a work folder as one folder: network, tokenizer, stack, settings and their manifest."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlim.catalog.pair_rules import FAMILY
from mlim.config import parse
from mlim.errors import InputError
from mlim.evaluation.gate import GateDecision
from mlim.files import read_json, write_json
from mlim.manifest import write_manifest
from mlim.matching.catalog_drift import read_profile
from mlim.matching.settings import MOST_CHARACTERS, MOST_ROWS, SETTINGS, SHARD_FORMAT, DecisionRule, ServingSettings
from mlim.pairs.labels import TRAIN
from mlim.recipe import Modality, Recipe
from mlim.stacking.scorers import MATCHER
from mlim.stacking.storage import copy_stack
from mlim.steps.as_trained import as_trained
from mlim.workspace import Workspace

MODEL = "model_sha256"  # in a gate decision: which model it is about


def trained_folder(recipe: Recipe, workspace: Workspace) -> Path:
    """What `mlim finetune` left of the main variant's first seed."""
    return workspace.finetuned(recipe.main, recipe.seeds[0])


def read_metrics(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """The figures of `mlim evaluate`; `InputError` when they, stack or model are missing, or of another variant."""
    needed = {
        trained_folder(recipe, workspace) / "summary.json": "mlim finetune",
        workspace.stack / "summary.json": "mlim stack",
        workspace.evaluation / "summary.json": "mlim evaluate",
    }
    missing = [f"{path} is missing; run `{command}` first" for path, command in needed.items() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    metrics: dict[str, Any] = read_json(workspace.evaluation / "summary.json")
    if (metrics["row"], metrics["seed"]) != (recipe.main, recipe.seeds[0]):
        raise InputError(
            f"{workspace.evaluation} is of variant {metrics['row']}, seed {metrics['seed']}, not of {recipe.main}, "
            f"seed {recipe.seeds[0]}; run `mlim evaluate` again"
        )
    if "kinds" not in metrics:
        raise InputError(f"{workspace.evaluation} is of an earlier version of mlim; run `mlim evaluate` again")
    return metrics


def package_model(recipe: Recipe, workspace: Workspace, metrics: Mapping[str, Any], folder: Path) -> str:
    """Write the main model into the new `folder`; the SHA-256 of its manifest."""
    shutil.copytree(trained_folder(recipe, workspace) / "model", folder)
    if metrics["registered"]["scorer"] != MATCHER:
        copy_stack(workspace.stack, folder)
    write_json(folder / SETTINGS, serving_settings(recipe, workspace, metrics).model_dump(mode="json"))
    return write_manifest(folder)


def write_decision(path: Path, sha256: str, decision: GateDecision) -> None:
    """Keep what the quality gate found about the packaged model with this SHA-256."""
    write_json(path, {MODEL: sha256, **decision.model_dump(mode="json")})


def read_decision(workspace: Workspace, sha256: str) -> GateDecision | None:
    """What the quality gate found about this packaged model at registration; None for a model it has not seen."""
    path = workspace.gate_decision
    found = read_json(path) if path.is_file() else {}
    return parse(GateDecision, found, str(path)) if found.pop(MODEL, None) == sha256 else None


def serving_settings(recipe: Recipe, workspace: Workspace, metrics: Mapping[str, Any]) -> ServingSettings:
    """How the main model reads items and decides, from the recipe, ingest, training and evaluation."""
    calibration = metrics["calibration"]
    path = workspace.items / "summary.json"  # absent where the shards are read from elsewhere (loader.items)
    ingested = read_json(path) if path.is_file() else {}
    return ServingSettings(
        modality=recipe.main_variant.modality,
        max_tokens=as_trained(recipe, trained_folder(recipe, workspace)).text.limit,
        image_size=recipe.image.size,
        image_formats=tuple(dict.fromkeys((*recipe.ingest.formats, SHARD_FORMAT))),
        image_megapixels=recipe.ingest.max_megapixels,
        jpeg_quality=recipe.image.jpeg_quality,
        batch_size=recipe.evaluate.batch_size,
        threshold=metrics["threshold"],
        calibration=(calibration["slope"], calibration["intercept"]),
        scorer=metrics["registered"]["scorer"],
        matcher_threshold=metrics["matcher"]["threshold"],
        matcher_calibration=(metrics["matcher"]["slope"], metrics["matcher"]["intercept"]),
        other_modalities=rules_of_other_modalities(recipe.main_variant.modality, metrics),
        trained_across_families=_trained_across_families(workspace),
        catalog=read_profile(workspace.valid),
        max_rows=max(MOST_ROWS, recipe.evaluate.batch_size),
        max_text_characters=max(MOST_CHARACTERS, recipe.validation.max_text_characters),  # every item of the catalog
        clean_texts=ingested.get("clean_texts", True),
        field_labels=ingested.get("field_labels", {}),
    )


def rules_of_other_modalities(evaluated: Modality, metrics: Mapping[str, Any]) -> dict[Modality, DecisionRule]:
    """How pairs are decided that are not read as `evaluated`; nothing in figures of an earlier `mlim evaluate`."""
    found: Mapping[Modality, Mapping[str, float]] = metrics.get("matcher_by_modality", {})
    return {
        modality: DecisionRule(threshold=rule["threshold"], calibration=(rule["slope"], rule["intercept"]))
        for modality, rule in found.items()
        if modality != evaluated
    }


def _trained_across_families(workspace: Workspace) -> bool:
    """Whether a training mismatch was made of items of two families; true where `mlim pairs` has not counted them."""
    summary = workspace.pairs / "summary.json"
    made = read_json(summary).get("mismatches", {}).get(TRAIN, {}) if summary.is_file() else {}
    counted = any(count["made"] for count in made.values())
    return not counted or any(count["made"] for kind, count in made.items() if kind != FAMILY)
