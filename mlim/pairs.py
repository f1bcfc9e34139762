"""Pairs for fine-tuning (the paper's task CM): labelled by the type of variation, split without leaks.

Functions of the accepted items: no files are written here. Items that belong together (one family, byte-identical
pictures, a labelled pair) form a component; components, never single items or pairs, are dealt to the splits.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import average_precision_score

from mlim.catalog.table import column_names, read_table
from mlim.errors import DataError, InputError
from mlim.recipe import PairsConfig

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
MATCH, MISMATCH = 1, 0
LABELLED_COLUMNS = ("item_a", "item_b", "label")
LABELS = {"1": MATCH, "0": MISMATCH}
LABEL_NAMES = {MATCH: "matching", MISMATCH: "mismatching"}
SHOWN_PROBLEMS = 20
AUDIT_DECIMALS = 6


@dataclass(frozen=True)
class VariationRule:
    """A pair matches when all `decided_by` columns agree; only items that agree in `same` are compared."""

    decided_by: Sequence[str]
    same: Sequence[str]
    max_family_size: int


@dataclass(frozen=True)
class SplitPairs:
    """`items`: id, component, split. `pairs`: item_a < item_b, label, split, component, kind; both sorted by id."""

    items: pd.DataFrame
    pairs: pd.DataFrame


def variation_pairs(items: pd.DataFrame, rule: VariationRule) -> tuple[pd.DataFrame, dict[str, int]]:
    """All unordered pairs inside families, and how many items were skipped and why.

    `items` has id, family (null: none) and facts (JSON). Returns item_a, item_b, label, kind sorted by ids. An item
    with an empty fact is not compared: what is unknown neither agrees nor differs.
    """
    frame, compared = _facts_frame(items, rule)
    sizes = frame.groupby("family")["id"].transform("size")
    no_family = frame["family"].isna()
    too_large = sizes > rule.max_family_size
    unknown = (frame[compared] == "").any(axis=1)
    skipped = {
        "no family": int(no_family.sum()),
        "family too large": int(too_large.sum()),
        "empty value": int((unknown & ~no_family & ~too_large).sum()),
    }
    usable = frame[~no_family & ~too_large & ~unknown]
    keys = ["family", *compared[len(rule.decided_by) :]]
    both = usable.merge(usable, on=keys, suffixes=("_a", "_b"))
    both = both[both["id_a"] < both["id_b"]].sort_values(["id_a", "id_b"], ignore_index=True)
    return _label_variations(both, rule.decided_by), skipped


def _facts_frame(items: pd.DataFrame, rule: VariationRule) -> tuple[pd.DataFrame, list[str]]:
    """id, family and the facts under names of our own (a fact's column may be called `id`); and those names."""
    facts = [json.loads(text) for text in items["facts"]]
    columns = [*rule.decided_by, *rule.same]
    names = [f"fact {number}" for number in range(len(columns))]
    values = {
        name: [str(fact.get(column) or "").strip() for fact in facts]
        for name, column in zip(names, columns, strict=True)
    }
    frame = pd.DataFrame({"id": items["id"].to_numpy(), "family": items["family"].to_numpy(), **values})
    return frame, names


def _label_variations(both: pd.DataFrame, decided_by: Sequence[str]) -> pd.DataFrame:
    differs = np.zeros((len(both), len(decided_by)), dtype=bool)
    for number in range(len(decided_by)):
        differs[:, number] = both[f"fact {number}_a"].to_numpy() != both[f"fact {number}_b"].to_numpy()
    kinds = {pattern: _kind(decided_by, pattern) for pattern in product((False, True), repeat=len(decided_by))}
    return pd.DataFrame(
        {
            "item_a": both["id_a"],
            "item_b": both["id_b"],
            "label": np.where(differs.any(axis=1), MISMATCH, MATCH).astype(np.int8),
            "kind": [kinds[tuple(row)] for row in differs.tolist()],
        }
    )


def _kind(decided_by: Sequence[str], differs: Sequence[bool]) -> str:
    """The type of variation in words: `same pattern`, `pattern and size differ`."""
    words = [column.replace("_", " ") for column in decided_by]
    differing = [word for word, differ in zip(words, differs, strict=True) if differ]
    if not differing:
        return f"same {' and '.join(words)}"
    return f"{' and '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}"


def read_labelled(path: Path) -> pd.DataFrame:
    """The user's own pairs as texts item_a, item_b, label; `InputError` when the table or a column is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such table of labelled pairs; check pairs.labelled in the catalog's description")
    missing = [column for column in LABELLED_COLUMNS if column not in column_names(path)]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; it needs {', '.join(LABELLED_COLUMNS)}")
    return read_table(path, LABELLED_COLUMNS)


def labelled_pairs(
    table: pd.DataFrame, where: str, accepted: AbstractSet[str], refused: AbstractSet[str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The user's own pairs (texts item_a, item_b, label) in canonical order, and how many were left out and why.

    A pair with a `refused` (quarantined) item is dropped; `InputError` lists unknown ids, labels other than 0 and 1,
    items paired with themselves, and pairs given with both labels.
    """
    clean = table[list(LABELLED_COLUMNS)].assign(label=table["label"].str.strip())
    problems = [*_row_problems(clean, where, accepted | refused), *_contradictions(clean, where)]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise InputError(*problems[:SHOWN_PROBLEMS], *([f"{where}: and {more} more problems"] if more > 0 else []))
    ordered = np.sort(clean[["item_a", "item_b"]].to_numpy(dtype=object), axis=1)
    label = clean["label"].map(LABELS).astype(np.int8)
    kind = label.map({MATCH: "labelled match", MISMATCH: "labelled mismatch"})
    pairs = pd.DataFrame({"item_a": ordered[:, 0], "item_b": ordered[:, 1], "label": label, "kind": kind})
    unique = pairs.drop_duplicates(["item_a", "item_b"])
    usable = unique[unique["item_a"].isin(accepted) & unique["item_b"].isin(accepted)]
    skipped = {"repeated pair": len(pairs) - len(unique), "quarantined item": len(unique) - len(usable)}
    return usable.sort_values(["item_a", "item_b"], ignore_index=True), skipped


def _row_problems(table: pd.DataFrame, where: str, known: AbstractSet[str]) -> Iterator[str]:
    for row, (first, second, label) in enumerate(table.itertuples(index=False), start=1):
        for column, item in (("item_a", first), ("item_b", second)):
            if item not in known:
                yield f"{where}: row {row}: {column} `{item}` is no item of the catalog"
        if first == second:
            yield f"{where}: row {row}: `{first}` is paired with itself"
        if label not in LABELS:
            yield f"{where}: row {row}: label `{label}` is neither 1 (match) nor 0 (mismatch)"


def _contradictions(table: pd.DataFrame, where: str) -> Iterator[str]:
    seen: dict[frozenset[str], tuple[int, str]] = {}
    for row, (first, second, label) in enumerate(table.itertuples(index=False), start=1):
        earlier, given = seen.setdefault(frozenset((first, second)), (row, label))
        if given != label:
            yield f"{where}: row {row}: `{first}` and `{second}` have label {label} here and {given} in row {earlier}"


def split_pairs(items: pd.DataFrame, pairs: pd.DataFrame, config: PairsConfig, seed: int) -> SplitPairs:
    """Deal components of `items` (id, family, image_sha256) to the splits, and cap the pairs of each.

    Deterministic for a seed, whatever the order of the rows. `DataError` when a split lacks either label.
    """
    ordered = items[["id", "family", "image_sha256"]].sort_values("id", ignore_index=True)
    component = find_components(ordered, pairs)
    first = pd.Series(component, index=ordered["id"])
    placed = pairs.assign(component=first.loc[pairs["item_a"]].to_numpy())
    evidence = np.zeros((component.max(initial=-1) + 1, len(LABELS)), dtype=bool)
    evidence[placed["component"], placed["label"]] = True
    shares = {VALIDATION: config.validation_share, TEST: config.test_share}
    shares = {TRAIN: 1 - sum(shares.values()), **shares}
    split = np.array(SPLITS, dtype=object)[deal_components(evidence, [shares[name] for name in SPLITS], seed)]
    placed["split"] = split[placed["component"]]
    caps = {TRAIN: config.max_train, VALIDATION: config.max_validation, TEST: config.max_test}
    kept = cap_pairs(placed, caps, seed)
    _require_both_labels(kept)
    return SplitPairs(
        items=pd.DataFrame({"id": ordered["id"], "component": component, "split": split[component]}),
        pairs=kept[["item_a", "item_b", "label", "split", "component", "kind"]],
    )


def find_components(items: pd.DataFrame, pairs: pd.DataFrame) -> NDArray[np.int64]:
    """The component of each item: linked by family, by byte-identical pictures and by pairs; numbered from 0 in order.

    `items` has unique ids, family (null: none) and image_sha256; every item of `pairs` is among them.
    """
    position = pd.Series(np.arange(len(items)), index=items["id"])
    links = [(position.loc[pairs["item_a"]].to_numpy(), position.loc[pairs["item_b"]].to_numpy())]
    for column in ("family", "image_sha256"):
        told = items[column].notna().to_numpy()
        representative = position[told].groupby(items[column][told].to_numpy()).transform("first")
        links.append((position[told].to_numpy(), representative.to_numpy()))
    rows, columns = (np.concatenate(side) for side in zip(*links, strict=True))
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(items), len(items)))
    _, found = connected_components(graph, directed=False)
    return np.asarray(pd.factorize(found)[0], dtype=np.int64)


def deal_components(evidence: NDArray[np.bool_], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The split (position in `shares`) of each component, drawn with `seed`.

    `evidence` (C, 2) tells whether a component has mismatching and matching pairs. First every split gets both labels,
    as far as there are enough components; then component by component, those with like evidence one after the other
    (stratified), goes to the split that lacks most of its share of the components.
    """
    strata = _shuffled_strata(evidence, seed)
    dealt = np.full(len(evidence), -1, dtype=np.int64)
    counts = np.zeros(len(shares))
    for split in np.argsort(shares, kind="stable")[::-1]:
        chosen = _enough_for_both_labels(strata) if shares[split] > 0 else []
        dealt[chosen] = split
        counts[split] += len(chosen)
    rest = [component for stratum in strata.values() for component in reversed(stratum)]
    wanted = np.asarray(shares)
    for number, component in enumerate(rest, start=len(evidence) - len(rest) + 1):
        split = int(np.argmax(wanted * number - counts))
        dealt[component] = split
        counts[split] += 1
    return dealt


def _shuffled_strata(evidence: NDArray[np.bool_], seed: int) -> dict[tuple[bool, bool], list[int]]:
    order = np.random.default_rng(seed).permutation(len(evidence))
    strata: dict[tuple[bool, bool], list[int]] = {
        (mismatch, match): [] for mismatch in (True, False) for match in (True, False)
    }
    for component, (mismatch, match) in zip(order.tolist(), evidence[order].tolist(), strict=True):
        strata[mismatch, match].append(component)
    return strata


def _enough_for_both_labels(strata: dict[tuple[bool, bool], list[int]]) -> list[int]:
    """Take the fewest components that give one split both labels; none when there are not enough left."""
    if strata[True, True]:
        return [strata[True, True].pop()]
    single = [strata[True, False], strata[False, True]]
    return [stratum.pop() for stratum in single] if all(single) else []


def cap_pairs(pairs: pd.DataFrame, caps: Mapping[str, int], seed: int) -> pd.DataFrame:
    """At most `caps[split]` pairs of each split, drawn with `seed` so that the share of matches stays."""
    generator = np.random.default_rng(seed)
    kept = [_draw(pairs[pairs["split"] == split], cap, generator) for split, cap in caps.items()]
    return pairs.loc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def _draw(pairs: pd.DataFrame, cap: int, generator: np.random.Generator) -> NDArray[Any]:
    if len(pairs) <= cap:
        return pairs.index.to_numpy()
    matches = pairs.index[pairs["label"] == MATCH].to_numpy()
    others = pairs.index[pairs["label"] == MISMATCH].to_numpy()
    wanted = round(cap * len(matches) / len(pairs))
    if len(matches) and len(others) and cap > 1:
        wanted = min(max(wanted, 1), cap - 1)  # a rare label must not vanish
    chosen = [(matches, wanted), (others, cap - wanted)]
    return np.concatenate([generator.choice(index, count, replace=False) for index, count in chosen])


def _require_both_labels(pairs: pd.DataFrame) -> None:
    counts = Counter(zip(pairs["split"], pairs["label"], strict=True))
    lacking = [(split, LABEL_NAMES[label]) for split in SPLITS for label in LABEL_NAMES if not counts[split, label]]
    if lacking:
        named = "; ".join(f"the {split} split has no {name} pairs" for split, name in lacking)
        raise DataError(
            f"{named} ({len(pairs)} pairs in all): the task needs both labels in every split; give more families whose "
            "items vary in both ways, or other pairs.validation_share and pairs.test_share"
        )


def audit_leaks(pairs: pd.DataFrame, items: pd.DataFrame, limit: float) -> list[dict[str, Any]]:
    """How far rules that only compare two values solve the task: each on texts, pictures' bytes and text attributes.

    Of a rule and its negation the more accurate one is told. `leaks`: its accuracy gains `limit` or more of what lies
    between the majority's accuracy and 1. `items` has id, text, image_sha256 and attributes (JSON).
    """
    paired = items["id"].isin({*pairs["item_a"], *pairs["item_b"]})
    used = items[paired].set_index("id")[["text", "image_sha256", "attributes"]]
    attributes = pd.DataFrame([json.loads(text) for text in used["attributes"]], index=used.index, dtype=object)
    named = {"text": used["text"], "picture": used["image_sha256"]}
    named |= {f"`{column}`": attributes[column].fillna("").astype(str) for column in attributes}
    return [_audit(name, values, pairs, limit) for name, values in named.items()]


def _audit(name: str, values: pd.Series, pairs: pd.DataFrame, limit: float) -> dict[str, Any]:
    label = pairs["label"].to_numpy() == MATCH
    equal = values.loc[pairs["item_a"]].to_numpy() == values.loc[pairs["item_b"]].to_numpy()
    majority = float(max(label.mean(), 1 - label.mean()))
    agreement = float((equal == label).mean())
    rule, said = (f"{name} is equal", equal) if agreement >= 1 - agreement else (f"{name} differs", ~equal)
    accuracy = max(agreement, 1 - agreement)
    return {
        "rule": rule,
        "pr_auc": round(float(average_precision_score(label, said)), AUDIT_DECIMALS),
        "accuracy": round(accuracy, AUDIT_DECIMALS),
        "majority": round(majority, AUDIT_DECIMALS),
        "leaks": bool(accuracy - majority >= limit * (1 - majority) and accuracy > majority),
    }


def count_pairs(pairs: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Pairs by split and label: `{"test": {"0": 120, "1": 230}, ...}`."""
    counts = Counter(zip(pairs["split"], pairs["label"], strict=True))
    return {split: {text: counts[split, label] for text, label in LABELS.items()} for split in SPLITS}


def pairs_sha256(pairs: pd.DataFrame) -> str:
    """A fingerprint of the test pairs and their labels: results are comparable only when it is the same."""
    test = pairs[pairs["split"] == TEST].sort_values(["item_a", "item_b"])
    lines = [f"{first}\t{second}\t{label}\n" for first, second, label in test[list(LABELLED_COLUMNS)].to_numpy()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
