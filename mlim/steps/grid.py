"""`mlim ablate --grid NAME`: train what a declared experiment needs and is not there, and compare it."""

import os
from pathlib import Path
from typing import Any

from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.evaluation.evidence import Evidence, Variant, read_evidence
from mlim.evaluation.resampling import compare_all
from mlim.files import atomic_file, write_json
from mlim.grids import Grid, load_grid, rows_of, variant_of
from mlim.recipe import Recipe
from mlim.steps.cells import train_missing
from mlim.steps.probe import probe
from mlim.workspace import Workspace


def run_grid(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, jobs: int | None = None
) -> dict[str, Any]:
    """Train (`jobs` at a time) and compare one grid; writes grids/NAME.json into the work folder and returns it.

    Every row and variant has its PR-AUC by seed and its difference to the main row, on the same pairs, with an interval
    over families and seeds. `InputError` for an unknown grid, missing inputs or results of other settings, `DataError`
    when budgets differ that have to be equal.
    """
    grid = load_grid(name)
    terminal.say(f"grid {name}: {grid.question}")
    chosen = rows_of(recipe, grid)
    variants = _prepare_variants(recipe, workspace, grid)
    train_missing([Variant(chosen, workspace), *variants.values()], terminal, jobs)
    if grid.probe:
        probe(recipe, workspace, terminal)
    evidence = read_evidence(chosen, workspace, variants, grid.judged_on)
    about = {"grid": name, "question": grid.question, "judged_on": grid.judged_on}
    rows = compare(chosen, evidence, grid.equal_budgets)
    summary = {**about, "main": recipe.main, "seeds": list(recipe.seeds), "rows": rows}
    write_json(workspace.grids / f"{name}.json", summary)
    return summary


def _prepare_variants(recipe: Recipe, workspace: Workspace, grid: Grid) -> dict[str, Variant]:
    """A work folder for every variant, on the same items and pairs, and the same pre-training where that is equal."""
    if not workspace.pairs.is_dir():
        raise InputError(f"{workspace.pairs} is missing; run `mlim pairs` first, or give --catalog")
    variants = {}
    for name, settings in grid.variants.items():
        variant = Variant(variant_of(recipe, name, settings), workspace.variant(name))
        shared = [workspace.items, workspace.valid, workspace.pairs, workspace.cache]
        if _same_pretraining(recipe, variant.recipe):
            shared.append(workspace.pretrained("", 0).parent)
        for folder in shared:
            _link(folder, variant.workspace.root / folder.name)
        _write_recipe(variant)
        variants[name] = variant
    return variants


def _same_pretraining(recipe: Recipe, variant: Recipe) -> bool:
    """Whether the main rows start from the same weights, so that they need not be trained twice."""
    name = recipe.main_row.pretraining
    return name is not None and recipe.training_key("pretrain", name) == variant.training_key("pretrain", name)


def _link(folder: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not place.exists():
        place.symlink_to(os.path.relpath(folder, place.parent), target_is_directory=True)


def _write_recipe(variant: Variant) -> None:
    with atomic_file(variant.workspace.recipe) as temporary:
        temporary.write_text(variant.recipe.to_yaml(), encoding="utf-8")


def compare(recipe: Recipe, evidence: Evidence, equal_budgets: bool = True) -> dict[str, Any]:
    """PR-AUC of every row by seed, and its difference to the main row with an interval over families and seeds."""
    if evidence.pairs is None:
        raise DataError(evidence.too_few or "there are no pairs to compare on")
    if evidence.left_out:
        raise DataError(f"{'; '.join(evidence.left_out)}; remove these results and run the same command again")
    main = evidence.rows[recipe.main]
    unequal = [row for row, scores in evidence.rows.items() if not scores.same_budget(main)]
    if unequal and equal_budgets:
        raise DataError(
            f"trained on another budget than `{recipe.main}`: {', '.join(unequal)}; there is nothing to compare"
        )
    settings = recipe.evaluate
    stacked = {row: evidence.rows[row].at(recipe.seeds) for row in dict.fromkeys((recipe.main, *evidence.rows))}
    compared = compare_all(evidence.pairs, stacked, settings.bootstrap_samples, settings.confidence, recipe.seed)
    rows: dict[str, Any] = {}
    for row, (pr_auc, minus) in compared.items():
        by_seed = dict(zip(map(str, recipe.seeds), pr_auc.by_seed, strict=True))
        difference = None if minus is None else {"value": minus.value, "low": minus.low, "high": minus.high}
        rows[row] = {"pr_auc": pr_auc.value, "by_seed": by_seed, "minus_main": difference}
    return rows


def describe_grid(summary: dict[str, Any]) -> str:
    """The comparison as lines for a terminal."""
    lines = [f"{summary['question']} PR-AUC on the {summary['judged_on']} pairs:"]
    for row, found in summary["rows"].items():
        minus = found["minus_main"]
        shown = "" if minus is None else f"  {minus['value']:+.4f} [{minus['low']:+.4f}, {minus['high']:+.4f}]"
        lines.append(f"{row:<24} {found['pr_auc']:.4f}{shown}")
    return "\n".join(lines)
