"""The values that an attribute can take: those of the training items, told apart by their tokens."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlim.data.attributes import FEWEST_ITEMS, MOST_CLASSES
from mlim.data.tokenize import TextTokenizer

LONGEST: Final = 16  # tokens of a value; a longer one is a sentence
ABSENT: Final = -1  # the place of a value that is no candidate

Tokens = tuple[int, ...]


class Candidates(NamedTuple):
    """Values by their places: as they are most often written, their tokens, and how many training items have them.

    The most frequent one is first.
    """

    values: tuple[str, ...]
    tokens: tuple[Tokens, ...]
    counts: tuple[int, ...]

    @classmethod
    def learn(cls, values: Sequence[str], tokenizer: TextTokenizer) -> Self:
        """The candidates among the values of training items; spellings of the same tokens are one.

        A value that fewer than `FEWEST_ITEMS` items have, that has more than `LONGEST` tokens or that holds an unknown
        one is none; of the others the `MOST_CLASSES` most frequent ones are.
        """
        spellings: defaultdict[Tokens, Counter[str]] = defaultdict(Counter)
        for value, tokens in zip(values, tokenizer.encode_all(values), strict=True):
            if 0 < len(tokens) <= LONGEST and tokenizer.unknown not in tokens:
                spellings[tuple(tokens)][value] += 1
        counted = [(written.total(), tokens, written) for tokens, written in spellings.items()]
        kept = sorted((one for one in counted if one[0] >= FEWEST_ITEMS), key=lambda one: (-one[0], one[1]))
        kept = kept[:MOST_CLASSES]
        return cls(
            tuple(min(written, key=lambda value: (-written[value], value)) for _, _, written in kept),
            tuple(tokens for _, tokens, _ in kept),
            tuple(count for count, _, _ in kept),
        )

    def places(self, values: Sequence[str], tokenizer: TextTokenizer) -> list[int]:
        """The place of each value among the candidates; ABSENT for what is none."""
        known = {tokens: place for place, tokens in enumerate(self.tokens)}
        return [known.get(tuple(tokens), ABSENT) for tokens in tokenizer.encode_all(values)]

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens each value has."""
        return tuple(map(len, self.tokens))

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each value (values,) among the training items that have one of them."""
        counts = np.array(self.counts, dtype=np.float64)
        return np.asarray(counts / counts.sum())
