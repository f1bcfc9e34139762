"""Pairs for fine-tuning (the paper's task CM): labelled by the type of variation, split without leaks, audited.

Functions of the accepted items: no files are written here. docs/pairs.md describes the language that decides.
"""

from mlim.pairs.audit import BOOSTED_TREES, LEARNED, READ_COLUMNS, BestRule, audit_leaks, best_rules
from mlim.pairs.components import find_components
from mlim.pairs.deal import deal_components
from mlim.pairs.labelled import labelled_pairs, read_labelled
from mlim.pairs.labels import MATCH, MISMATCH, SPLITS, TEST, TRAIN, VALIDATION
from mlim.pairs.splits import (
    SplitPairs,
    count_pairs,
    directed,
    item_columns,
    pairs_sha256,
    split_pairs,
)
from mlim.pairs.variation import VariationRule, rule_of, variation_pairs

__all__ = [
    "BOOSTED_TREES",
    "LEARNED",
    "MATCH",
    "MISMATCH",
    "READ_COLUMNS",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "BestRule",
    "SplitPairs",
    "VariationRule",
    "audit_leaks",
    "best_rules",
    "count_pairs",
    "deal_components",
    "directed",
    "find_components",
    "item_columns",
    "labelled_pairs",
    "pairs_sha256",
    "read_labelled",
    "rule_of",
    "split_pairs",
    "variation_pairs",
]
