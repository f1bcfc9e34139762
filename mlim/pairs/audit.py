"""The leak audit: how far simple baselines get that learn no representation. They are the bar a model must beat.

A rule compares two values: the texts, the bytes or the perceptual hashes of the pictures, one attribute. A learned
classifier weighs words (`bag of words`) or similarities of text, attributes and image hash (`boosted trees`). All read
only what the model reads, and only the index: no picture is opened. Values that the catalog compares as equal are equal
here too.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mlim.catalog.values import DEFAULT, Values
from mlim.pairs.labels import MATCH, TEST, TRAIN, VALIDATION
from mlim.pairs.learned import Labels, Scores, fit_trees, fit_words
from mlim.pairs.similarities import (
    attribute_similarities,
    comparable_attributes,
    hash_similarities,
    text_similarities,
    word_vectors,
)
from mlim.quality.near_duplicates import hash_numbers
from mlim.recipe.data import PairsConfig

AUDIT_DECIMALS = 6
BAG_OF_WORDS, BOOSTED_TREES = "bag of words", "boosted trees"
RULE, LEARNED = "rule", "learned"
READ_COLUMNS = ["id", "text", "attributes", "image_sha256", "image_hash"]

Places = NDArray[np.int64]
Column = NDArray[Any]


@dataclass(frozen=True)
class BestRule:
    """The rule that solves most of the pairs of a split; `solved` is its `solved_share` there."""

    rule: str
    solved: float


def solved_share(accuracy: float, majority: float) -> float:
    """How much a way gains over always saying the majority's label: 0 for nothing, 1 when it is always right.

    This is what `pairs.leak_limit` limits.
    """
    room = 1 - majority
    return round((accuracy - majority) / room, AUDIT_DECIMALS) if room > 0 else 0.0


def best_rules(pairs: pd.DataFrame, items: pd.DataFrame, values: Values | None = None) -> dict[str, BestRule]:
    """For each split that has pairs the rule that solves most of them; arguments as in `audit_leaks`."""
    used, first, second = _sides(pairs, items)
    compared, match = _compared(used, _attributes(used), values or Values()), pairs["label"].to_numpy() == MATCH
    best = {}
    for split, places in pairs.reset_index(drop=True).groupby("split").indices.items():
        equal = {name: values[first[places]] == values[second[places]] for name, values in compared.items()}
        rules = [_rule_of(name, each, match[places]) for name, each in equal.items()]
        best[str(split)] = max(rules, key=lambda rule: rule.solved)
    return best


def _rule_of(name: str, equal: NDArray[np.bool_], match: NDArray[np.bool_]) -> BestRule:
    word, _, right = _spoken(equal, match)
    share = float(match.mean())
    return BestRule(f"{name} {word}", solved_share(right, max(share, 1 - share)))


def _spoken(equal: NDArray[np.bool_], match: NDArray[np.bool_]) -> tuple[str, NDArray[np.bool_], float]:
    """What a rule calls a match and how often it is right; of the rule and its negation the more accurate one."""
    agreement = float((equal == match).mean())
    word, said = ("is equal", equal) if agreement >= 1 - agreement else ("differs", ~equal)
    return word, said, max(agreement, 1 - agreement)


def audit_leaks(
    pairs: pd.DataFrame, items: pd.DataFrame, config: PairsConfig, seed: int, values: Values | None = None
) -> list[dict[str, Any]]:
    """An entry for each rule and each learned classifier, the rules first.

    `pairs` has item_a, item_b, label, split; `items` has READ_COLUMNS for each of their items; `values` tells which
    attributes are equal and which are empty. `rule` names the way,
    `method` is rule or learned, `pr_auc` is its average precision on the test pairs and `prevalence` the share of
    matches there, which chance would reach. `accuracy` and `majority` are of all pairs for a rule, of the test pairs
    for a classifier, cut where the validation pairs say; it `leaks` when its `solved_share` reaches config.leak_limit.
    Of a rule and its negation the more accurate one is told. Classifiers learn from at most config.audit_pairs
    training pairs, drawn with `seed`.
    """
    used, first, second = _sides(pairs, items)
    audit, attributes = _Audit(pairs, first, second, config, values or Values()), _attributes(used)
    rules = [audit.rule(name, compared) for name, compared in _compared(used, attributes, audit.values).items()]
    return [*rules, *_classifiers(audit, used, attributes, seed)]


def _sides(pairs: pd.DataFrame, items: pd.DataFrame) -> tuple[pd.DataFrame, Places, Places]:
    """The items that are in pairs, by id, and the places of the first and the second item of each pair among them."""
    used = items.set_index("id").loc[sorted({*pairs["item_a"], *pairs["item_b"]})]
    place = pd.Index(used.index)
    first, second = (np.asarray(place.get_indexer(pairs[column]), dtype=np.int64) for column in ("item_a", "item_b"))
    return used, first, second


def _attributes(used: pd.DataFrame) -> list[dict[str, Any]]:
    return [json.loads(text) for text in used["attributes"]]


class _Audit:
    """The pairs as arrays, and how an entry is made of what a rule says or a classifier scores."""

    def __init__(self, pairs: pd.DataFrame, first: Places, second: Places, config: PairsConfig, values: Values) -> None:
        self.first, self.second, self.config, self.values = first, second, config, values
        self.labels: Labels = (pairs["label"].to_numpy() == MATCH).astype(np.int64)
        self.split = pairs["split"].to_numpy(dtype=object)

    def of(self, split: str) -> NDArray[np.bool_]:
        """Which pairs are of the split."""
        return np.asarray(self.split == split)

    def rule(self, name: str, values: Column) -> dict[str, Any]:
        """The rule that compares one value of each item, or its negation."""
        equal = values[self.first] == values[self.second]
        word, said, right = _spoken(equal, self.labels == MATCH)
        return self._entry(f"{name} {word}", RULE, said.astype(np.float64), right, self.labels)

    def classifier(self, name: str, scores: Scores) -> dict[str, Any]:
        """A learned classifier by its probabilities of a match for all pairs."""
        test, validation = self.of(TEST), self.of(VALIDATION)
        said = scores[test] >= best_cut(self.labels[validation], scores[validation])
        right = float((said == (self.labels[test] == MATCH)).mean())
        return self._entry(name, LEARNED, scores, right, self.labels[test])

    def _entry(self, name: str, method: str, scores: Scores, accuracy: float, judged: Labels) -> dict[str, Any]:
        test, share = self.of(TEST), float(judged.mean())
        majority = max(share, 1 - share)
        figures = {
            "pr_auc": float(average_precision_score(self.labels[test], scores[test])),
            "prevalence": float(self.labels[test].mean()),
            "accuracy": accuracy,
            "majority": majority,
        }
        rounded = {key: round(value, AUDIT_DECIMALS) for key, value in figures.items()}
        leaks = solved_share(accuracy, majority) >= self.config.leak_limit
        return {"rule": name, "method": method, **rounded, "leaks": leaks}


def best_cut(labels: Labels, scores: Scores) -> float:
    """The score from which on a pair is best called a match: the most right answers for 0/1 `labels`.

    Not 0.5: a few trees put every match above every mismatch long before their probabilities reach it.
    """
    order = np.argsort(-scores, kind="stable")
    gained = np.cumsum(np.where(labels[order] == MATCH, 1, -1))
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    ends = np.flatnonzero(last_of_ties)
    best = ends[np.argmax(gained[ends])]
    return float(scores[order][best]) if gained[best] > 0 else float("inf")


def _compared(used: pd.DataFrame, attributes: list[dict[str, Any]], values: Values) -> dict[str, Column]:
    """What rules compare: the name and the values of all items."""
    compared = comparable_attributes(attributes, values)
    named = {
        "text": np.array([DEFAULT.comparable(text) for text in used["text"]], dtype=object),
        "picture": used["image_sha256"].to_numpy(dtype=object),
        "picture's hash": used["image_hash"].to_numpy(dtype=object),
    }
    for column in dict.fromkeys(name for one in compared for name in one):
        named[f"`{column}`"] = np.array([one.get(column, "") for one in compared], dtype=object)
    return named


def _classifiers(
    audit: _Audit, used: pd.DataFrame, attributes: list[dict[str, Any]], seed: int
) -> list[dict[str, Any]]:
    texts, first, second = used["text"].tolist(), audit.first, audit.second
    training, validation = _training(audit, seed), audit.of(VALIDATION)
    read = [texts[place] for place in np.union1d(first[training], second[training])]
    similar = {
        **text_similarities(texts, word_vectors(read), first, second),
        **attribute_similarities(attributes, first, second, audit.values),
        **hash_similarities(hash_numbers(used["image_hash"].tolist()), first, second),
    }
    features = np.column_stack(list(similar.values()))
    words = fit_words(texts, first, second, audit.labels, training, validation)
    trees = fit_trees(features, audit.labels, training, validation, seed)
    return [
        audit.classifier(BAG_OF_WORDS, words.score(texts, first, second)),
        audit.classifier(BOOSTED_TREES, trees.score(features)),
    ]


def _training(audit: _Audit, seed: int) -> NDArray[np.bool_]:
    """The training pairs that classifiers learn from."""
    places = np.flatnonzero(audit.of(TRAIN))
    if len(places) > audit.config.audit_pairs:
        places = np.random.default_rng(seed).choice(places, audit.config.audit_pairs, replace=False)
    chosen = np.zeros(len(audit.labels), dtype=bool)
    chosen[places] = True
    return chosen
