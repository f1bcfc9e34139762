"""`mlim pairs`: make the labelled pairs and the splits, prove them safe, and say what simple baselines could solve."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlim.annotations.coco import read_karpathy_splits
from mlim.annotations.pictures import Pictures
from mlim.catalog.description import CatalogDescription, check_pair_rules, load_description
from mlim.catalog.pair_rules import FAMILY, PairRules
from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, read_json, remove_folder, write_json
from mlim.ingest.freshness import CHANGED, changed_files, stale_sentence
from mlim.pairs.audit import LEARNED, READ_COLUMNS, audit_leaks
from mlim.pairs.labels import TEST, TRAIN, VALIDATION
from mlim.pairs.splits import SplitPairs, count_pairs, directed, item_columns, pairs_sha256, split_pairs
from mlim.pairs.ties import Given, Tie, explain_ties
from mlim.pairs.variation import rule_of, value_numbers, variation_pairs
from mlim.quality.near_duplicates import near_duplicate_links
from mlim.recipe import Recipe
from mlim.shards.belonging import check_index
from mlim.shards.items import open_items
from mlim.steps.labelled import labelled_pairs
from mlim.steps.pair_checks import check_pairs, check_splits
from mlim.validation import Finding, require
from mlim.workspace import Workspace

GIANT_SHARE = 0.1  # of the items: a component that holds more makes lopsided splits
DATA_DOCS = "data_docs"
TYING_PICTURE = "tying_picture.jpg"
GIVEN_SPLITS: Mapping[str, str] = {  # as public data sets write them; `restval` joins train, as is usual for COCO
    "train": TRAIN, "restval": TRAIN, "validation": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "test": TEST,
}  # fmt: skip
SHOWN_VALUES = 3
NEAR_COLUMNS = ["image_hash", "image_brightness", "image_contrast"]  # what nearly the same pictures agree in
ITEMS_SCHEMA: Any = pa.schema(
    [
        ("id", pa.string()),
        ("component", pa.int64()),
        ("split", pa.string()),
        ("deciding", pa.list_(pa.int32())),  # the values of pairs.decided_by as numbers; 0: none
    ]
)
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


@dataclass(frozen=True)
class _Inputs:
    """What the pairs are made from."""

    recipe: Recipe
    catalog: Path
    description: CatalogDescription
    workspace: Workspace


def make_pairs(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Write items.parquet, pairs.parquet, data_docs/ and summary.json; return the summary.

    `InputError` for a description or a labelled file that gives no pairs, `DataError` when the pairs cannot be split
    with both labels everywhere or fail an expectation.
    """
    inputs = _Inputs(recipe, catalog, load_description(catalog), workspace)
    check_pair_rules(inputs.description, str(catalog))
    items = _accepted_items(inputs)
    _warn_of_stale_items(inputs, terminal)
    if inputs.description.pairs.none:
        return _make_splits(inputs, items, terminal)
    candidates, skipped = _candidates(inputs, items)
    if candidates.empty:
        why = _why_none(inputs, items)
        raise DataError(
            f"no pairs can be made (items or pairs left out: {_counted(skipped)}){why}; see `pairs` in {catalog}"
        )
    rules, values = inputs.description.pairs, inputs.description.values
    near_links = _near_links(recipe, items)
    try:
        given = _given_splits(inputs, items)
        made = split_pairs(items, candidates, recipe.pairs, recipe.seed, rules, near_links, values, given)
    except DataError as problem:
        raise DataError("; ".join([str(problem), *_why_tied(inputs, items, candidates)])) from None
    paired = _paired_items(workspace, made.pairs)
    with atomic_folder(workspace.pairs) as folder:
        findings = check_pairs(recipe, made, items, near_links, paired, values, folder / DATA_DOCS)
        _require(findings, folder / DATA_DOCS, workspace)
        written = directed(made.pairs, rules.directions)
        ties = _ties(inputs, items, candidates, int(made.items["component"].value_counts().max()))
        summary = _summary(inputs, made, written, paired) | {
            "ties": [tie.summary() for tie in ties],
            "candidates": len(candidates),
            "skipped": {**skipped, **made.skipped},
            "expectations": [finding.summary() for finding in findings],
        }
        _write_tying_picture(inputs, ties, folder / TYING_PICTURE)
        _write(_with_deciding(made.items, items, inputs.description), ITEMS_SCHEMA, folder / "items.parquet")
        _write(written, PAIRS_SCHEMA, folder / "pairs.parquet")
        write_json(folder / "summary.json", summary)
    _report(summary, findings, inputs.description, terminal)
    total, largest = sum(summary["items"].values()), summary["largest_component"]
    for warning in _giant(total, largest, ties, workspace.pairs / TYING_PICTURE):
        terminal.warn(warning)
    return summary


def _make_splits(inputs: _Inputs, items: pd.DataFrame, terminal: Terminal) -> dict[str, Any]:
    """The splits alone, for a catalog that says `pairs: none`; pairs.parquet is empty."""
    recipe, near_links = inputs.recipe, _near_links(inputs.recipe, items)
    none = pd.DataFrame({name: [] for name in ("item_a", "item_b", "label", "kind")}).astype({"label": "int64"})
    given = _given_splits(inputs, items)
    made = split_pairs(items, none, recipe.pairs, recipe.seed, inputs.description.pairs, near_links, given=given)
    with atomic_folder(inputs.workspace.pairs) as folder:
        findings = check_splits(recipe, made, items, near_links, folder / DATA_DOCS)
        _require(findings, folder / DATA_DOCS, inputs.workspace)
        summary = _split_summary(made) | {
            "pairs": 0,
            "counts": count_pairs(made.pairs),
            "leak_audit": [],
            "expectations": [finding.summary() for finding in findings],
        }
        _write(_with_deciding(made.items, items, inputs.description), ITEMS_SCHEMA, folder / "items.parquet")
        _write(made.pairs, PAIRS_SCHEMA, folder / "pairs.parquet")
        write_json(folder / "summary.json", summary)
    counts = ", ".join(f"{split} {count}" for split, count in summary["items"].items())
    terminal.say(f"no pairs (pairs: none); items: {counts}")
    return summary


def _given_splits(inputs: _Inputs, items: pd.DataFrame) -> list[str] | None:
    """The split that the catalog gives each item: columns.split, else files of Karpathy; None where they are drawn.

    `DataError` names values that are no split.
    """
    column, rules = inputs.description.columns.split, inputs.description.annotations
    files = () if rules is None else rules.files.karpathy
    if column is not None:
        key, what = "columns.split", f"`{column}`"
        written = [str(json.loads(facts).get(column, "")) for facts in items["facts"]]
    elif files:
        key, what = "annotations.files.karpathy", "the split"
        written = _karpathy_splits(files, items["id"].tolist())
    else:
        return None
    written = [value.strip().lower() for value in written]
    unknown = Counter(value for value in written if value not in GIVEN_SPLITS)
    if unknown:
        shown = ", ".join(f"{value or 'nothing'!r} ({count})" for value, count in unknown.most_common(SHOWN_VALUES))
        raise DataError(
            f"{key}: {what} of {sum(unknown.values())} items says {shown}, but must say train, validation or test; "
            f"correct it, or leave out {key} and the splits are drawn"
        )
    return [GIVEN_SPLITS[value] for value in written]


def _karpathy_splits(files: Sequence[Path], items: Sequence[str]) -> list[str]:
    """What the files say of each item's picture; nothing where none of them has it."""
    pictures, found = Pictures(dict.fromkeys(items, ""), {}), dict[str, str]()
    for names, split in chain.from_iterable(map(read_karpathy_splits, files)):
        if (item := pictures.find(names)) is not None:
            found[item] = split
    return [found.get(item, "") for item in items]


def _accepted_items(inputs: _Inputs) -> pd.DataFrame:
    """The columns that the rules need of all accepted items; texts are read for neighbours in text only."""
    index = inputs.workspace.valid / "index.parquet"
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim validate` first")
    check_index(index, inputs.workspace.items)
    rules = inputs.description.pairs
    needed = [*item_columns(rules), "facts"]
    needed += ["attributes"] if rules.must_agree(inputs.description.text_columns) else []
    needed += NEAR_COLUMNS if inputs.recipe.pairs.near_duplicate_bits is not None else []
    items: pd.DataFrame = pq.read_table(index, columns=list(dict.fromkeys(needed))).to_pandas()
    return items


def _with_deciding(split: pd.DataFrame, items: pd.DataFrame, description: CatalogDescription) -> pd.DataFrame:
    """The split with the numbers of the values that decide: equal in a column when the rule takes them for equal."""
    ordered = items.set_index("id").loc[split["id"]]
    numbers = value_numbers(ordered["facts"], description.pairs.decided_by, description.values)
    return split.assign(deciding=list(numbers.astype("int32")))


def _candidates(inputs: _Inputs, items: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    rules = inputs.description.pairs
    if rules.labelled is not None:
        return labelled_pairs(rules.labelled, set(items["id"]), inputs.workspace)
    rule = rule_of(rules, inputs.description.text_columns, inputs.description.values)
    return variation_pairs(items, rule, inputs.recipe.seed)


def _why_none(inputs: _Inputs, items: pd.DataFrame) -> str:
    """What the counts of left out items do not say: the table has no pairs, or no family has two items."""
    rules, family = inputs.description.pairs, items["family"].dropna()
    if rules.labelled is not None:
        return f": {rules.labelled} has no other pair"
    if family.empty or family.duplicated().any():
        return ""
    return (
        f": each of the {len(family)} families (`{inputs.description.columns.family}`) has one item, but pairs are "
        "made of two items of one family; name another column in columns.family, or pairs of your own in pairs.labelled"
    )


def _near_links(recipe: Recipe, items: pd.DataFrame) -> Any:
    """Positions of items with nearly the same picture (n, 2); None when the recipe does not ask for them."""
    bits = recipe.pairs.near_duplicate_bits
    return None if bits is None else _links_within(items, bits)


def _links_within(items: pd.DataFrame, bits: int) -> Any:
    return near_duplicate_links(items["image_hash"].tolist(), bits, items[NEAR_COLUMNS[1:]].to_numpy())


def _warn_of_stale_items(inputs: _Inputs, terminal: Terminal) -> None:
    """Say which files changed since ingest, unless `mlim validate` said so."""
    ingested, judged = (
        read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
        for folder in (inputs.workspace.items, inputs.workspace.valid)
    )
    changed = changed_files(ingested, inputs.description, inputs.catalog)
    if not set(changed) <= set(judged.get(CHANGED, ())):
        terminal.warn(stale_sentence(changed, inputs.catalog, inputs.workspace.root))


def _require(findings: Sequence[Finding], data_docs: Path, workspace: Workspace) -> None:
    """`DataError` when an expectation failed; the pages with the reasons are kept in pairs.refused."""
    refused = workspace.pairs.with_name(f"{workspace.pairs.name}.refused")
    remove_folder(refused)
    try:
        require(findings)
    except DataError as error:
        shutil.copytree(data_docs, refused / DATA_DOCS)
        raise DataError(f"{error}\nsee {refused / DATA_DOCS / 'index.html'}") from None


def _summary(inputs: _Inputs, made: SplitPairs, written: pd.DataFrame, paired: pd.DataFrame) -> dict[str, Any]:
    test = written[written["split"] == TEST]
    ceilings, recipe, values = inputs.description.ceilings, inputs.recipe, inputs.description.values
    return {
        "pairs": len(written),
        "directions": inputs.description.pairs.directions,
        "counts": count_pairs(written),
        "prevalence": float(test["label"].mean()),
        "ceilings": None if ceilings is None else ceilings.model_dump(),
        "kinds": written["kind"].value_counts().to_dict(),
        "mismatches": made.mismatches,
        **_split_summary(made),
        "leak_audit": audit_leaks(made.pairs, paired, recipe.pairs, recipe.seed, values),
        "test_pairs_sha256": pairs_sha256(written),
    }


def _split_summary(made: SplitPairs) -> dict[str, Any]:
    return {
        "items": made.items["split"].value_counts().to_dict(),
        "components": made.items.groupby("split")["component"].nunique().to_dict(),
        "largest_component": int(made.items["component"].value_counts().max()),
    }


def _paired_items(workspace: Workspace, pairs: pd.DataFrame) -> pd.DataFrame:
    """What the audit reads of the items that are in pairs."""
    ids = pa.array(sorted({*pairs["item_a"], *pairs["item_b"]}), pa.string())
    chosen = pc.field("id").isin(ids)
    items: pd.DataFrame = pq.read_table(
        workspace.valid / "index.parquet", columns=READ_COLUMNS, filters=chosen
    ).to_pandas()
    return items


def _write(frame: pd.DataFrame, schema: Any, path: Path) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)


def _report(
    summary: Mapping[str, Any], findings: Sequence[Finding], description: CatalogDescription, terminal: Terminal
) -> None:
    counts = "; ".join(f"{split} {n['1']} match, {n['0']} mismatch" for split, n in summary["counts"].items())
    terminal.say(f"{summary['pairs']} pairs: {counts} (left out: {_counted(summary['skipped'])})")
    best = max(summary["leak_audit"], key=lambda entry: float(entry["pr_auc"]))
    terminal.say(
        f"the bar to beat on the test pairs: PR-AUC {best['pr_auc']:.3f} ({best['rule']}); chance is "
        f"{best['prevalence']:.3f}"
    )
    complaints = [finding.complaint() for finding in findings if not finding.success]
    drawn = drawn_apart(complaints, description.pairs, description.text_columns)
    for warning in (*complaints, *drawn, *_learned_leaks(summary), *_missing_mismatches(summary)):
        terminal.warn(warning)


def drawn_apart(complaints: Sequence[str], rules: PairRules, text_columns: Sequence[str]) -> list[str]:
    """What helps where a column leaks because mismatches are drawn from other families, whose value differs.

    Taking it out of columns.text hides the word, but the pictures still show the difference.
    """
    leaking = [name for name in text_columns if any(f'"`{name}` is equal"' in complaint for complaint in complaints)]
    if not rules.negatives.cross_families:
        return []
    return [
        f"mismatches are drawn from other families, where `{name}` differs, and pictures may show that too; write "
        f"`negatives.same: [{', '.join((*rules.negatives.same, name))}]` under `pairs`, and they agree in it"
        for name in leaking
        if name not in rules.negatives.same
    ]


def _learned_leaks(summary: Mapping[str, Any]) -> list[str]:
    """The expectations cover what a rule leaks, not what classifiers do."""
    return [
        f"the pairs leak: {entry['rule']}, which sees no picture, is right in {entry['accuracy']:.1%} of the test "
        "pairs; choose other pairs"
        for entry in summary["leak_audit"]
        if entry["leaks"] and entry["method"] == LEARNED
    ]


def _missing_mismatches(summary: Mapping[str, Any]) -> list[str]:
    """Where there are fewer mismatches of a kind than the ratio and the shares ask for."""
    return [
        f"the {split} split has {count['made']} of {count['wanted']} wanted mismatches from "
        f"{'families' if kind == FAMILY else kind}: there are no more; see pairs.mismatches_per_match"
        for split, kinds in summary["mismatches"].items()
        for kind, count in kinds.items()
        if count["made"] < count["wanted"]
    ]


def _ties(inputs: _Inputs, items: pd.DataFrame, candidates: pd.DataFrame, largest: int) -> list[Tie]:
    """What ties too many items into one component; empty while no component is too large."""
    most = int(GIANT_SHARE * len(items))
    return [] if largest <= most else explain_ties(_given(inputs, items, candidates), most)


def _given(inputs: _Inputs, items: pd.DataFrame, candidates: pd.DataFrame) -> Given:
    bits, labelled = inputs.recipe.pairs.near_duplicate_bits, inputs.description.pairs.labelled is not None
    return Given(items, candidates, _links_within, bits, labelled)


def _why_tied(inputs: _Inputs, items: pd.DataFrame, candidates: pd.DataFrame) -> list[str]:
    """What ties the items together, where pairs that cannot be split are too few because of it."""
    largest = _given(inputs, items, candidates).largest()
    return _giant(len(items), largest, _ties(inputs, items, candidates, largest))


def _write_tying_picture(inputs: _Inputs, ties: Sequence[Tie], path: Path) -> None:
    """The picture that ties most items, as an item shows it; nothing where no picture does."""
    example = next((tie.example for tie in ties if tie.kind == "picture"), None)
    if example is not None:
        path.write_bytes(open_items(inputs.recipe.loader, inputs.workspace).jpeg(example))


def _giant(items: int, largest: int, ties: Sequence[Tie], picture: Path | None = None) -> list[str]:
    """Which component is too large, what ties it, and which setting unties it; `picture` is the file that shows it."""
    if largest <= GIANT_SHARE * items:
        return []
    seen = "" if picture is None else f", see {picture}"
    shown = [f"{tie.sentence()}{seen if tie.kind == 'picture' else ''}" for tie in ties]
    return [
        f"{largest} of {items} items are tied together by family, picture or pair and fall into one split: "
        + ("; ".join(shown) or "no single setting unties them, look at families and pictures that are shared")
    ]


def _counted(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "none"
