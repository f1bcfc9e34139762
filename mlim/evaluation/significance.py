"""A difference of two figures."""

from typing import NamedTuple


class Difference(NamedTuple):
    """A difference of two figures with its interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0
