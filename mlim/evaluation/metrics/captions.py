"""BLEU-4, CIDEr-D and ROUGE-L of captions, as the evaluation code of COCO computes them (tests compare).

Papineni et al. 2002, Vedantam et al. 2015, Lin 2004. An example is a picture: one caption and several references.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np

from mlim.evaluation.metrics.measure import Figure, Flags, Together, Values, WeightedMeans
from mlim.evaluation.pr_auc import Weights

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]

FIGURES: Final = (Figure("cider", "CIDEr-D", most=10.0), Figure("bleu4", "BLEU-4"), Figure("rouge", "ROUGE-L"))
LONGEST: Final = 4  # words in an n-gram
SMALL, TINY = 1e-9, 1e-15  # keep logarithms and quotients of nothing finite, as the reference does
SIGMA, SCALE = 6.0, 10.0  # of CIDEr-D: how much lengths may differ; what a perfect caption gets
BETA: Final = 1.2  # of ROUGE-L: recall counts more than precision

_CONTRACTION: Final = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_WORD: Final = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|\w+(?:[.,:/'-]\w+)*|[^\w\s]")
_LEFT_OUT: Final = frozenset("'`.?!,:-;\"")
_BRACKETS: Final = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-"}  # as the reference's tokenizer has them


def words_of(caption: str) -> list[str]:
    """Lower-case words without punctuation, contractions in two (it 's): the tokens of the reference's tokenizer."""
    parted = _CONTRACTION.sub(r" \1", caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [_BRACKETS.get(word, word) for word in _WORD.findall(parted) if word not in _LEFT_OUT]


def grams_of(words: Words) -> Grams:
    """How often each run of one to four words occurs."""
    runs = (zip(*(words[start:] for start in range(size)), strict=False) for size in range(1, LONGEST + 1))
    return Counter(chain.from_iterable(runs))


def captions(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> Together:
    """The FIGURES of captions beside the references of each picture, at least one."""
    return Together(cider(written, references), Bleu(written, references), rouge(written, references))


class Bleu:
    """BLEU-4 of a whole set: counts are added up over pictures before anything is divided."""

    def __init__(self, written: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
        counts = [_bleu_counts(*each) for each in zip(written, references, strict=True)]
        self._counts = np.array(counts, dtype=np.float64).reshape(len(written), 2 * LONGEST + 2).T

    def figures(self, weights: Weights) -> Values:
        """BLEU-4 (1, samples) of the pictures weighted by `weights` (n, samples)."""
        counts = self._counts @ weights
        right, shown, (own, wanted) = counts[:LONGEST], counts[LONGEST : 2 * LONGEST], counts[2 * LONGEST :]
        precision = np.prod((right + TINY) / (shown + SMALL), axis=0) ** (1 / LONGEST)
        ratio = (own + TINY) / (wanted + SMALL)
        return np.asarray(precision * np.exp(np.minimum(0.0, 1 - 1 / ratio)))[None]

    def about(self) -> Flags:
        """Every picture (1, n)."""
        return np.ones((1, self._counts.shape[1]), dtype=bool)


def _bleu_counts(words: Words, references: Sequence[Words]) -> list[int]:
    """Right n-grams and all n-grams by length, the caption's length and that of the reference closest to it."""
    grams, known = grams_of(words), Counter[tuple[str, ...]]()
    for reference in references:
        known |= grams_of(reference)
    right, shown = [0] * LONGEST, [max(0, len(words) - size) for size in range(LONGEST)]
    for gram, count in (grams & known).items():
        right[len(gram) - 1] += count
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    return [*right, *shown, len(words), closest]


def cider(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> WeightedMeans:
    """CIDEr-D, whose document frequencies are those of all references and stay when pictures get other weights."""
    grams = [[grams_of(reference) for reference in each] for each in references]
    frequencies = Counter(chain.from_iterable(set(chain.from_iterable(each)) for each in grams))
    weigher = _Weigher(frequencies, math.log(max(len(references), 1)))
    scores = [weigher.score(grams_of(words), each) for words, each in zip(written, grams, strict=True)]
    return WeightedMeans(np.array([scores]))


class _Weigher:
    """N-grams weighted by how rare they are among the pictures."""

    def __init__(self, frequencies: Counter[tuple[str, ...]], pictures: float) -> None:
        self._frequencies, self._pictures = frequencies, pictures

    def score(self, grams: Grams, references: Sequence[Grams]) -> float:
        """CIDEr-D of one caption."""
        own = self._weighted(grams)
        found = [self._similarity(own, grams, self._weighted(each), each) for each in references]
        return SCALE * float(np.mean(found))

    def _weighted(self, grams: Grams) -> list[dict[tuple[str, ...], float]]:
        """The weights of n-grams by their length."""
        parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, count in grams.items():
            rarity = self._pictures - math.log(max(1.0, self._frequencies[gram]))
            parts[len(gram) - 1][gram] = count * rarity
        return parts

    def _similarity(
        self,
        own: Sequence[dict[tuple[str, ...], float]],
        own_grams: Grams,
        other: Sequence[dict[tuple[str, ...], float]],
        other_grams: Grams,
    ) -> float:
        """The mean of the clipped cosines of each length, less where lengths differ (as the reference: in bigrams)."""
        apart = _bigrams(own_grams) - _bigrams(other_grams)
        cosines = [_clipped_cosine(first, second) for first, second in zip(own, other, strict=True)]
        return math.exp(-(apart**2) / (2 * SIGMA**2)) * sum(cosines) / LONGEST


def _bigrams(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _clipped_cosine(own: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    """What both have, no n-gram counted more often than the reference has it, over both lengths."""
    common = sum(min(weight, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, weight in own.items())
    lengths = math.hypot(*own.values()) * math.hypot(*other.values())
    return common / lengths if lengths else common


def rouge(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> WeightedMeans:
    """ROUGE-L: the best precision and the best recall of the longest common subsequence with any reference."""
    scores = [_rouge(*each) for each in zip(written, references, strict=True)]
    return WeightedMeans(np.array([scores]))


def _rouge(words: Words, references: Sequence[Words]) -> float:
    if not words:
        return 0.0
    common = [_longest_common(words, reference) for reference in references]
    precision = max(length / len(words) for length in common)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(first: Words, second: Words) -> int:
    """How many words both have in one order."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for at, other in enumerate(second, start=1):
            before, lengths[at] = lengths[at], before + 1 if word == other else max(lengths[at], lengths[at - 1])
    return lengths[-1]
