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
        return {
            "items": list(self.names),
            "model": self.model,
            "probability": self.probability,
            "compared_with": self.compared,
            **self.explanation.summary,
            "nearest_labelled_pairs": [one._asdict() for one in self.nearest],
            "no_labelled_pairs": self.no_labels,
        }
