"""What Great Expectations is asked about splits and pairs: the tables of the suites `splits` and `pairs`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlim.catalog.values import Values
from mlim.pairs.audit import BestRule, best_rules
from mlim.pairs.labels import SPLITS
from mlim.pairs.splits import SplitPairs
from mlim.quality.near_duplicates import link_groups
from mlim.recipe import Recipe
from mlim.validation import Finding, Validation


def check_pairs(
    recipe: Recipe,
    made: SplitPairs,
    items: pd.DataFrame,
    near_links: Any,
    paired: pd.DataFrame,
    values: Values,
    data_docs: Path,
) -> list[Finding]:
    """What the suites find; their pages go to `data_docs`.

    `items` are all accepted ones, `near_links` (n, 2) positions of near copies among them (None: not searched),
    `paired` what the leak audit reads of those in pairs, `values` which values are equal there.
    """
    validation, rules = Validation(data_docs), best_rules(made.pairs, paired, values)
    findings = [
        *validation.check("splits", split_table(made, items, near_links), split_parameters(recipe)),
        *validation.check("pairs", pair_table(made, rules), pair_parameters(recipe, rules)),
    ]
    validation.write_docs()
    return findings


def check_splits(
    recipe: Recipe, made: SplitPairs, items: pd.DataFrame, near_links: Any, data_docs: Path
) -> list[Finding]:
    """What the suite `splits` finds where there are no pairs; arguments as for `check_pairs`."""
    validation = Validation(data_docs)
    findings = validation.check("splits", split_table(made, items, near_links), split_parameters(recipe))
    validation.write_docs()
    return findings


def split_table(made: SplitPairs, items: pd.DataFrame, near_links: Any) -> pd.DataFrame:
    """The split of every item and what must not be in two: its family, its picture, the group of its near copies."""
    groups = np.nan if near_links is None else link_groups(near_links, len(items))
    known = items[["id", "family", "image_sha256"]].assign(near_copies=groups)
    return made.items.merge(known, on="id", how="left")


def split_parameters(recipe: Recipe) -> dict[str, Any]:
    """The limits of the suite `splits`."""
    return {"near_duplicate_bits": recipe.pairs.near_duplicate_bits}


def pair_table(made: SplitPairs, rules: Mapping[str, BestRule]) -> pd.DataFrame:
    """The pairs, the splits that their items are in, and how much the best rule solves of their split."""
    split_of = made.items.set_index("id")["split"]
    return made.pairs.assign(
        split_a=made.pairs["item_a"].map(split_of),
        split_b=made.pairs["item_b"].map(split_of),
        rule_solves=made.pairs["split"].map({split: rule.solved for split, rule in rules.items()}),
    )


def pair_parameters(recipe: Recipe, rules: Mapping[str, BestRule]) -> dict[str, Any]:
    """The limits of the suite `pairs`, and the name of each split's best rule for what it says."""
    smallest = recipe.validation.min_label_share
    limits = {"min_label_share": smallest, "max_label_share": 1 - smallest, "leak_limit": recipe.pairs.leak_limit}
    return limits | {f"{split}_rule": rules[split].rule for split in SPLITS}
