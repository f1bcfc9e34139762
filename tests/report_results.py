"""Results as the trainings and judging steps leave them, for tests of the report: plausible figures, no training."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mlim.catalog.quarantine import Quarantined, write_quarantine
from mlim.files import read_json, write_csv, write_json
from mlim.recipe import Recipe
from mlim.references import load_reference
from mlim.report.figures import draw_reconstructions
from mlim.steps.same_settings import wanted_probe
from mlim.workspace import Workspace

STEPS = 60
VALIDATE_EVERY = 10
PREVALENCE = 0.669
HALF_INTERVAL = 0.018
MAIN_SCORE = 0.822
STACK_SCORE = 0.91
WITHOUT_MATCHER_SCORE = 0.81
VARIANT_SCORES = {"no-mdo": 0.829, "no-pretraining": 0.779, "text-only": 0.701, "image-only": 0.804}
BASELINE_SCORES = {"boosted-trees": 0.851, "image-hash": 0.731, "tfidf-cosine": 0.688}
MODES = ("heavy_image", "heavy_text", "light")
HOSTILE_TEXT = "<script>alert('catalog')</script> & \"quoted\""
KINDS = [
    {"group": "pattern differs", "pairs": 651, "matches": 0, "pr_auc": 0.8, "right": 0.85, "wrong": 98},
    {"group": "same pattern", "pairs": 1317, "matches": 1317, "pr_auc": 0.8, "right": 0.54, "wrong": 606},
]
PARTNER_LOSSES = {"own": 1.0, "empty": 1.15, "random": 1.3}
# How well the test scores of a variant know the labels: with what is below, every kind of verdict is reached.
SKILLS = {"itm-mlm-mam": 1.2, "recon-mlm-naive": 1.49}
OTHER_SKILL, LOWEST_SKILL, SKILL_PER_SCORE = 1.5, 0.1, 40.0
SCORED_FAMILIES, PAIRS_PER_FAMILY = 100, 6


def fill(workspace: Workspace, recipe: Recipe, scores: Mapping[str, float] = VARIANT_SCORES) -> None:
    """Write everything that the report reads and the steps before training do not write."""
    _quarantine(workspace)
    _trainings(workspace, recipe)
    _evaluation(workspace, recipe)
    _ablation(workspace, recipe, scores)
    _probe(workspace, recipe)
    _scores(workspace, recipe, scores)


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - HALF_INTERVAL, "high": value + HALF_INTERVAL}


def write_hostile_text(workspace: Workspace) -> str:
    """Put a script into the text of an item that the report shows; gives the item's id."""
    path = workspace.valid / "index.parquet"
    table = pq.read_table(path)
    item = read_hardest(workspace)["item_a"].iloc[0]
    texts = [
        HOSTILE_TEXT if name.as_py() == item else text for name, text in zip(table["id"], table["text"], strict=True)
    ]
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(texts, pa.string())), path)
    return str(item)


def read_hardest(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.evaluation / "hardest.csv", dtype={"item_a": str, "item_b": str})


def _quarantine(workspace: Workspace) -> None:
    rows = [
        Quarantined("tiny.csv", 3, "item-x", "ingest", "missing-image", "images/x.jpg is not there"),
        Quarantined("tiny.csv", 9, HOSTILE_TEXT, "ingest", "no-text", f"the text is {HOSTILE_TEXT}", _thumbnail()),
    ]
    counts = write_quarantine(workspace.items / "quarantine.parquet", rows)
    summary = read_json(workspace.items / "summary.json")
    write_json(
        workspace.items / "summary.json",
        {**summary, "quarantined": counts, "rows_in": summary["ingested"] + len(rows), "run_id": "run-ingest"},
    )
    expectation = {"suite": "items", "expectation": "expect_column_values_to_be_unique", "column": "id"}
    checks = [{**expectation, "success": True, "unexpected": 0}]
    valid = read_json(workspace.valid / "summary.json")
    write_json(workspace.valid / "summary.json", {**valid, "expectations": checks})
    common = {"prevalence": PREVALENCE, "majority": PREVALENCE, "leaks": False}
    audit = [
        {"rule": "text is equal", "method": "rule", "pr_auc": 0.68, "accuracy": 0.66, **common},
        {"rule": "bag of words", "method": "learned", "pr_auc": 0.71, "accuracy": 0.7, **common},
    ]
    write_json(workspace.pairs / "summary.json", {**read_json(workspace.pairs / "summary.json"), "leak_audit": audit})


def _thumbnail() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 120, 40)).save(target, "JPEG")
    return target.getvalue()


def _trainings(workspace: Workspace, recipe: Recipe) -> None:
    for name, pretraining in recipe.pretrainings.items():
        for seed in recipe.seeds:
            history = _history(len(name) + seed, MODES, pretraining.losses)
            final = {loss: float(history[loss].iloc[-1]) for loss in pretraining.losses}
            summary = {"name": name, "seed": seed, "final": final, **_references(pretraining.losses, final)}
            _training(workspace.pretrained(name, seed), history, summary)
    for variant in recipe.variants:
        for seed in recipe.seeds:
            settings = recipe.training_key("finetune", variant)
            summary = {"row": variant, "seed": seed, "validation_pr_auc": VARIANT_SCORES.get(variant, MAIN_SCORE)}
            summary |= {"settings": settings, "hardware": "an abacus"}
            _training(
                workspace.finetuned(variant, seed),
                _history(len(variant), ("both", "text", "image"), ["match"]),
                summary,
            )


def _references(losses: Any, final: Mapping[str, float]) -> dict[str, Any]:
    """Simple ways beside the losses: all beaten but one."""
    ways = {"mlm": {"unigram": 4.0, "bigram": 3.0}, "recon": {"mean picture": 0.9, "shrunk to 8 x 8": 0.1}}
    known = [loss for loss in ways if loss in losses]
    return {
        "final_by_mode": {f"{loss}/light": final[loss] for loss in known},
        "references": {
            loss: {way: {"overall": value, "light": value} for way, value in ways[loss].items()} for loss in known
        },
        "not_beaten": ["RECON is no better than a picture shrunk"] if "recon" in known else [],
    }


def _training(folder: Path, history: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    history.to_csv(folder / "history.csv", index=False)
    costs = {"steps": STEPS, "seconds": 93.0, "samples_per_second": 41.5, "run_id": f"run-{folder.name}"}
    write_json(folder / "summary.json", {**costs, **summary})


def _history(seed: int, modes: tuple[str, ...], losses: Any) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for step in range(1, STEPS + 1):
        fall = {loss: 0.4 + np.exp(-step / 20) + generator.normal(0, 0.03) for loss in losses}
        rows.append({"step": step, "kind": "train", "mode": modes[step % len(modes)], **fall})
        if step % VALIDATE_EVERY == 0:
            rows.append({"step": step, "kind": "validation", "mode": None, **fall})
    history = pd.DataFrame(rows, columns=["step", "kind", "mode", "mlm", "recon", "itm", "match"])
    history.loc[history["mode"] == "heavy_image", "mlm"] = np.nan
    return history


def _behind_the_stack() -> dict[str, Any]:
    return {
        name: {**interval(value), "difference_to_registered": {**interval(value - STACK_SCORE), "p_value": 0.002}}
        for name, value in BASELINE_SCORES.items()
    }


def _evaluation(workspace: Workspace, recipe: Recipe) -> None:
    baselines = {
        name: {**interval(value), "difference_to_main": {**interval(value - MAIN_SCORE), "p_value": 0.002}}
        for name, value in BASELINE_SCORES.items()
    }
    metrics = {
        "row": recipe.main,
        "seed": recipe.seeds[0],
        "modality": "both",
        "called_matches": 0.41,
        "kinds": KINDS,
        "pr_auc": {"both": interval(MAIN_SCORE), "text": interval(0.7), "image": interval(0.79)},
        "prevalence": PREVALENCE,
        "threshold": 0.61,
        "precision_at_threshold": 0.88,
        "recall_at_threshold": 0.54,
        "pairs": 1968,
        "positives": 1317,
        "baselines": baselines,
        "registered": {"scorer": "stack", "pr_auc": interval(STACK_SCORE), "baselines": _behind_the_stack()},
        "scorers": {
            "matcher": interval(MAIN_SCORE),
            "stack": {
                **interval(STACK_SCORE),
                "difference_to_main": {**interval(STACK_SCORE - MAIN_SCORE), "p_value": 0.002},
            },
            "stack without matcher": {
                **interval(WITHOUT_MATCHER_SCORE),
                "difference_to_main": {**interval(WITHOUT_MATCHER_SCORE - MAIN_SCORE), "p_value": 0.002},
            },
        },
        "run_id": "run-evaluate",
    }
    write_json(workspace.evaluation / "summary.json", metrics)
    recall = np.linspace(0, 1, 60)
    names = (recipe.main, *BASELINE_SCORES)
    curves = [
        {"name": name, "recall": at, "precision": 1 - (1 - PREVALENCE) * at ** (3 - place)}
        for place, name in enumerate(names)
        for at in recall
    ]
    write_csv(workspace.evaluation / "curve.csv", curves, ["name", "recall", "precision"])
    pairs = pq.read_table(workspace.pairs / "pairs.parquet").to_pandas()
    test = pairs[pairs["split"] == "test"].head(6)
    hardest = test.assign(kind=["wrong", "right"] * 3, score=np.linspace(0.1, 0.9, 6))
    hardest[["kind", "item_a", "item_b", "label", "score"]].to_csv(workspace.evaluation / "hardest.csv", index=False)


def _ablation(workspace: Workspace, recipe: Recipe, scores: Mapping[str, float]) -> None:
    rows = []
    for number, (name, variant) in enumerate(recipe.variants.items()):
        value = MAIN_SCORE if name == recipe.main else scores.get(name, 0.815 - 0.004 * number)
        apart = value - MAIN_SCORE
        rows.append(
            {
                "row": name,
                "label": variant.label,
                "seeds": len(recipe.seeds),
                "pr_auc": value,
                "low": value - HALF_INTERVAL,
                "high": value + HALF_INTERVAL,
                "pr_auc_text": 0.7 if variant.modality != "image" else None,
                "pr_auc_image": 0.79 if variant.modality != "text" else None,
                "table1": load_reference().figure("table1", name),
                "table2": load_reference().figure("table2", name),
                "difference": apart if name != recipe.main else None,
                "difference_low": apart - HALF_INTERVAL if name != recipe.main else None,
                "difference_high": apart + HALF_INTERVAL if name != recipe.main else None,
                "p_value": 0.01,
                "run_ids": f"run-{name}",
            }
        )
    write_csv(workspace.ablation / "table.csv", rows, list(rows[0]))
    write_json(workspace.ablation / "summary.json", {"run_id": "run-ablate"})


def _probe(workspace: Workspace, recipe: Recipe) -> None:
    columns = ["probability", "partner", "loss", "low", "high"]
    for figure in ("figure2a", "figure2b"):
        points = [
            {
                "probability": at,
                "partner": partner,
                "loss": level * (1 + at),
                "low": level,
                "high": level * (1 + 2 * at),
            }
            for partner, level in PARTNER_LOSSES.items()
            for at in recipe.probe.probabilities
        ]
        write_csv(workspace.probe / f"{figure}.csv", points, columns)
    noise = np.random.default_rng(0).random((4, 16, 16, 3))
    draw_reconstructions([noise], ["own", "masked", "with text", "without"], workspace.probe / "reconstructions.png")
    points = [
        {
            "probability": at,
            "own_below_random": True,
            "random_minus_own": {**interval(0.3), "p_value": 0.002},
            "empty_minus_own": {**interval(0.15), "p_value": 0.002},
            "random_minus_empty": {**interval(0.15), "p_value": 0.002},
        }
        for at in recipe.probe.probabilities
    ]
    judged = {"skipped": None, "own_below_random_everywhere": True, "items": recipe.probe.items, "points": points}
    harm = {"value": 0.04, "low": -0.01, "high": 0.09, "p_value": 0.12}
    figures = {"figure2a": judged, "figure2b": judged, "harm_difference": harm}
    summary = {**figures, **wanted_probe(recipe).summary, "run_id": "run-probe"}
    write_json(workspace.probe / "summary.json", summary)


def _scores(workspace: Workspace, recipe: Recipe, figures: Mapping[str, float]) -> None:
    """Test pairs of made-up families beside the real ones, and scores of them for every variant and seed.

    Variants with a figure in `figures` are as much better or worse than the main variant as the figure says, roughly.
    """
    raised = {name: OTHER_SKILL + SKILL_PER_SCORE * (figure - MAIN_SCORE) for name, figure in figures.items()}
    skills = {name: max(LOWEST_SKILL, skill) for name, skill in {**SKILLS, **raised}.items()}
    test = _more_pairs(workspace)
    labels = test["label"].to_numpy()
    common = np.random.default_rng(0).normal(size=len(test))
    for number, (name, variant) in enumerate(recipe.variants.items()):
        for seed in recipe.seeds:
            own = np.random.default_rng([1, number, seed]).normal(0, 0.1, len(test))
            logits = skills.get(name, OTHER_SKILL) * labels + common + own
            scores = test.assign(modality=variant.modality, score=1 / (1 + np.exp(-logits)))
            columns = ["item_a", "item_b", "label", "split", "modality", "score"]
            scores[columns].to_parquet(workspace.finetuned(name, seed) / "scores.parquet", index=False)


def _more_pairs(workspace: Workspace) -> pd.DataFrame:
    """All test pairs, those of the made-up families included."""
    pairs, items = (pd.read_parquet(workspace.pairs / f"{name}.parquet") for name in ("pairs", "items"))
    numbers = np.arange(SCORED_FAMILIES * PAIRS_PER_FAMILY)
    made_up = pd.DataFrame({"item_a": [f"made-up-{number:04d}-a" for number in numbers]})
    made_up["item_b"] = made_up["item_a"].str.replace("-a", "-b")
    made_up["label"] = (np.random.default_rng(1).random(len(numbers)) < PREVALENCE).astype(np.int8)
    made_up["component"] = 1000 + numbers // PAIRS_PER_FAMILY
    made_up = made_up.assign(split="test", kind="made up")
    pd.concat([pairs, made_up[pairs.columns]]).to_parquet(workspace.pairs / "pairs.parquet", index=False)
    ids = [made_up.rename(columns={side: "id"})[["id", "component", "split"]] for side in ("item_a", "item_b")]
    pd.concat([items, *ids]).to_parquet(workspace.pairs / "items.parquet", index=False)
    return pd.concat([pairs[pairs["split"] == "test"], made_up[pairs.columns]])
