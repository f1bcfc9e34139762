"""A pair of a catalog's items with everything that is said of why it has its score."""

from dataclasses import dataclass
from typing import Any

from mlim.matching.explain import Explanation
from mlim.matching.item_parts import ItemParts
from mlim.matching.nearest_pairs import LabelledPair


@dataclass(frozen=True)
class ExplainedPair:
    """Two items, by id and in parts, and why they have their score.

    `nearest` are the labelled pairs that are most like it, with their items in `shown`; `no_labels` says why there are
    none. `compared` says what the pair was compared with.
    """

    names: tuple[str, str]
    items: tuple[ItemParts, ItemParts]
    explanation: Explanation
    probability: float
    compared: str
    nearest: tuple[LabelledPair, ...]
    shown: dict[str, ItemParts]
    no_labels: str
    model: str

    @property
    def summary(self) -> dict[str, Any]:
        """The same as plain values."""
        found = self.explanation
        return {
            "items": list(self.names),
            "model": self.model,
            "score": found.score,
            "probability": self.probability,
            "threshold": found.threshold,
            "match": found.match,
            "baseline": found.baseline,
            "compared_with": self.compared,
            "text": found.of("text") if found.reads("text") else None,
            "picture": found.of("picture") if found.reads("picture") else None,
            "contributions": [one._asdict() for one in found.contributions],
            "exact": found.exact,
            "regions": [one._asdict() for one in found.regions],
            "score_without_regions": found.without_regions if found.regions else None,
            "effects": None if found.effects is None else found.effects.tolist(),
            "change": None if found.change is None else found.change._asdict(),
            "nearest_labelled_pairs": [one._asdict() for one in self.nearest],
            "no_labelled_pairs": self.no_labels,
        }
