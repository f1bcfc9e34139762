"""Hard rules: which pairs never match, whatever a model says (`matching.never` and `matching.families`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlim.catalog.match_rules import MatchRules
from mlim.pairs.variation import EMPTY, Numbers

NO_FAMILY: Final = -1


@dataclass(frozen=True)
class HardRules:
    """The rules of a catalog with the values (items, columns) of its items as numbers, EMPTY for none.

    `families` (items,) are numbers too, negative for none.
    """

    rules: MatchRules
    values: Numbers
    families: Numbers

    @property
    def any(self) -> bool:
        """Whether any pair can be forbidden."""
        return bool(self.rules.never) or self.rules.families in ("within", "across")

    def reasons(self, first: Numbers, second: Numbers) -> NDArray[np.int64]:
        """For each pair (n,) of items by place: the number of the rule that forbids it in `sentences`, else -1."""
        found = np.full(len(first), -1, dtype=np.int64)
        for number, forbids in enumerate((*self._by_columns(first, second), self._by_family(first, second))):
            found = np.where((found < 0) & forbids, number, found)
        return found

    def forbidden(self, first: Numbers, second: Numbers) -> NDArray[np.bool_]:
        """Which of the pairs (n,) never match."""
        return np.asarray(self.reasons(first, second) >= 0)

    @property
    def sentences(self) -> list[str]:
        """What each number of `reasons` says."""
        family = {"within": "items of two families", "across": "items of one family"}.get(self.rules.families or "", "")
        return [*map(_sentence, ((rule.same, rule.differ) for rule in self.rules.never)), family]

    def _by_columns(self, first: Numbers, second: Numbers) -> list[NDArray[np.bool_]]:
        place = {name: number for number, name in enumerate(self.rules.columns)}
        found = []
        for rule in self.rules.never:
            columns = [place[name] for name in (*rule.same, *rule.differ)]
            one, other = self.values[first][:, columns], self.values[second][:, columns]
            asked = np.array([True] * len(rule.same) + [False] * len(rule.differ))
            found.append((((one == other) == asked) & (one != EMPTY) & (other != EMPTY)).all(axis=1))
        return found

    def _by_family(self, first: Numbers, second: Numbers) -> NDArray[np.bool_]:
        one, other = self.families[first], self.families[second]
        known, equal = (one > NO_FAMILY) & (other > NO_FAMILY), one == other
        match self.rules.families:
            case "within":
                return np.asarray(known & ~equal)
            case "across":
                return np.asarray(known & equal)
            case "any" | None:
                return np.zeros(len(first), dtype=bool)


def _sentence(rule: tuple[Sequence[str], Sequence[str]]) -> str:
    same, differ = rule
    parts = [f"same {' and '.join(same)}"] * bool(same) + [f"different {' and '.join(differ)}"] * bool(differ)
    return ", ".join(parts)
