"""`mlim pairs`: make the labelled pairs and the splits, prove them safe, and say what a trivial rule could solve."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.catalog.description import CatalogDescription, check_pair_rules, load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, read_quarantine
from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, write_json
from mlim.pairs import (
    TEST,
    SplitPairs,
    VariationRule,
    audit_leaks,
    count_pairs,
    labelled_pairs,
    pairs_sha256,
    read_labelled,
    split_pairs,
    variation_pairs,
)
from mlim.recipe import Recipe
from mlim.validation import Finding, Validation, require
from mlim.workspace import Workspace

ITEMS_SCHEMA: Any = pa.schema([("id", pa.string()), ("component", pa.int64()), ("split", pa.string())])
PAIRS_SCHEMA: Any = pa.schema(
    [
        ("item_a", pa.string()),
        ("item_b", pa.string()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("component", pa.int64()),
        ("kind", pa.string()),
    ]
)


def make_pairs(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Write items.parquet, pairs.parquet, data_docs/ and summary.json; return the summary.

    `InputError` for a description or a labelled file that gives no pairs, `DataError` when the pairs cannot be split
    with both labels everywhere or fail an expectation.
    """
    description = load_description(catalog)
    items = _accepted_items(workspace)
    candidates, skipped = _candidates(description, catalog, items, workspace)
    if candidates.empty:
        raise DataError(
            f"no pairs can be made (items or pairs left out: {_counted(skipped)}); see `pairs` in {catalog}"
        )
    made = split_pairs(items, candidates, recipe.pairs, recipe.seed)
    with atomic_folder(workspace.pairs) as folder:
        findings = _check(recipe, made, items, folder / "data_docs")
        summary = _summary(recipe, made, candidates, items) | {
            "skipped": skipped,
            "expectations": [finding.summary() for finding in findings],
        }
        _write(made.items, ITEMS_SCHEMA, folder / "items.parquet")
        _write(made.pairs, PAIRS_SCHEMA, folder / "pairs.parquet")
        write_json(folder / "summary.json", summary)
    _tell(summary, terminal)
    return summary


def _accepted_items(workspace: Workspace) -> pd.DataFrame:
    index = workspace.valid / "index.parquet"
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim validate` first")
    columns = ["id", "family", "text", "attributes", "facts", "image_sha256"]
    items: pd.DataFrame = pq.read_table(index, columns=columns).to_pandas()
    return items


def _candidates(
    description: CatalogDescription, catalog: Path, items: pd.DataFrame, workspace: Workspace
) -> tuple[pd.DataFrame, dict[str, int]]:
    check_pair_rules(description, str(catalog))
    rules = description.pairs
    if rules.labelled is not None:
        quarantines = [folder / QUARANTINE_FILE for folder in (workspace.items, workspace.valid)]
        refused = {item for path in quarantines if path.is_file() for item in read_quarantine(path)["id"]}
        return labelled_pairs(read_labelled(rules.labelled), str(rules.labelled), set(items["id"]), refused)
    return variation_pairs(items, VariationRule(rules.decided_by, rules.same, rules.max_family_size))


def _check(recipe: Recipe, made: SplitPairs, items: pd.DataFrame, data_docs: Path) -> list[Finding]:
    """Run the suites `splits` and `pairs`; `DataError` when an expectation fails."""
    smallest = recipe.validation.min_label_share
    validation = Validation(data_docs)
    splits = made.items.merge(items[["id", "family", "image_sha256"]], on="id", how="left")
    by_id = made.items.set_index("id")["split"]
    pairs = made.pairs.assign(split_a=made.pairs["item_a"].map(by_id), split_b=made.pairs["item_b"].map(by_id))
    findings = [
        *validation.check("splits", splits, {}),
        *validation.check("pairs", pairs, {"min_label_share": smallest, "max_label_share": 1 - smallest}),
    ]
    require(findings)
    validation.write_docs()
    return findings


def _summary(recipe: Recipe, made: SplitPairs, candidates: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    test = made.pairs[made.pairs["split"] == TEST]
    return {
        "pairs": len(made.pairs),
        "candidates": len(candidates),
        "counts": count_pairs(made.pairs),
        "prevalence": float(test["label"].mean()),
        "kinds": made.pairs["kind"].value_counts().to_dict(),
        "items": made.items["split"].value_counts().to_dict(),
        "components": made.items.groupby("split")["component"].nunique().to_dict(),
        "leak_audit": audit_leaks(made.pairs, items, recipe.pairs.leak_limit),
        "test_pairs_sha256": pairs_sha256(made.pairs),
    }


def _write(frame: pd.DataFrame, schema: Any, path: Path) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)


def _tell(summary: dict[str, Any], terminal: Terminal) -> None:
    counts = "; ".join(f"{split} {n['1']} match, {n['0']} mismatch" for split, n in summary["counts"].items())
    terminal.say(f"{summary['pairs']} pairs: {counts} (left out: {_counted(summary['skipped'])})")
    for rule in summary["leak_audit"]:
        if rule["leaks"]:
            terminal.warn(
                f'the pairs leak: the rule "{rule["rule"]}" alone is right in {rule["accuracy"]:.1%} of them; '
                "take that column out of columns.text or choose other pairs"
            )


def _counted(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "none"
