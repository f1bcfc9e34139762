"""How much of the catalog's texts the model reads: their lengths in tokens, and what `text.max_tokens` leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlim.data.tokenize import TextTokenizer
from mlim.recipe.data import AUTO, FEWEST_TOKENS, TextConfig

KEPT_SHARE = 0.95  # of the tokens: so much a limit should keep
DIGITS = 4


@dataclass(frozen=True)
class TokenCut:
    """What a limit of `max_tokens` leaves out of `texts` texts.

    The shares of the texts and of their tokens that are cut off, and the smallest limit that keeps 95 % of the tokens.
    """

    texts: int
    max_tokens: int
    texts_cut: float
    tokens_cut: float
    max_tokens_for_95_percent: int

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self | None:
        """What the summary of `mlim validate` says of it; None where it was not measured."""
        tokens = summary.get("tokens", {})
        return None if "texts" not in tokens else cls(**tokens)

    def __str__(self) -> str:
        return (
            f"text.max_tokens {self.max_tokens} cuts {self.texts_cut:.1%} of the texts and leaves out "
            f"{self.tokens_cut:.1%} of their tokens"
        )

    @property
    def warning(self) -> str:
        """What to do, when more than 5 % of the tokens are cut off; else empty."""
        if self.tokens_cut <= 1 - KEPT_SHARE:
            return ""
        return (
            f"{self}, which the model then never reads; text.max_tokens={self.max_tokens_for_95_percent} keeps 95 % of "
            "them (and takes longer to train), or name fewer columns in columns.text, the telling ones first"
        )


def measure_cut(texts: list[str], tokenizer: TextTokenizer, text: TextConfig) -> TokenCut:
    """How many tokens the texts have and how many of them are beyond the limit; shares are 0 where there are none."""
    lengths = np.array([len(ids) for ids in tokenizer.encode_all(texts)], dtype=np.int64)
    max_tokens = choose_limit(text, lengths)
    total = max(int(lengths.sum()), 1)
    return TokenCut(
        texts=len(texts),
        max_tokens=max_tokens,
        texts_cut=round(float((lengths > max_tokens).mean()) if len(lengths) else 0.0, DIGITS),
        tokens_cut=round(float(np.maximum(lengths - max_tokens, 0).sum()) / total, DIGITS),
        max_tokens_for_95_percent=limit_keeping(lengths, KEPT_SHARE),
    )


def choose_limit(text: TextConfig, lengths: NDArray[np.int64]) -> int:
    """The longest text that is read, tokens: the recipe's number, or with `auto` one that fits texts of `lengths`."""
    if text.max_tokens != AUTO:
        return text.max_tokens
    return min(max(limit_keeping(lengths, text.kept_share), FEWEST_TOKENS), text.most_tokens)


def limit_keeping(lengths: NDArray[np.int64], share: float) -> int:
    """The smallest limit within which at least `share` of all tokens of texts of these lengths (n,) lie."""
    wanted = share * int(lengths.sum())
    fewest, most = 0, int(lengths.max(initial=0))
    while fewest < most:
        middle = (fewest + most) // 2
        enough = int(np.minimum(lengths, middle).sum()) >= wanted
        fewest, most = (fewest, middle) if enough else (middle + 1, most)
    return most
