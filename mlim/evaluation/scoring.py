"""Scores of pairs: the probability that a matcher gives to a match, from both modalities or from one."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.data.batches import PairBatch
from mlim.data.collate import Pair
from mlim.data.loader import chunks, fetch_ahead
from mlim.data.transfer import to_device
from mlim.models.pair_network import PairNetwork
from mlim.recipe.base import Modality

# Scores stay inside (0, 1), also where a sigmoid in double precision would give exactly 0 or 1.
LARGEST_LOGIT = 30.0


@torch.no_grad()
def pair_logits(
    matcher: PairNetwork,
    pairs: Sequence[Pair],
    collate: Callable[[Sequence[Pair]], PairBatch],
    modality: Modality,
    batch_size: int,
) -> NDArray[np.float64]:
    """Logits (pairs,) on the matcher's device, in the order of `pairs`; the training mode is left as it was."""
    device = next(matcher.parameters()).device
    training = matcher.training
    matcher.eval()
    try:
        found = []
        for batch in fetch_ahead(collate, chunks(pairs, batch_size)):
            shown = to_device(batch, device).with_floats()
            found.append(matcher(shown.first, shown.second, modality))
    finally:
        matcher.train(training)
    logits = torch.cat(found) if found else torch.zeros(0)
    return np.asarray(logits.cpu().double().numpy(), dtype=np.float64)


def scores_of(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of a match in (0, 1), strictly, from logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT))))


def score_pairs(
    matcher: PairNetwork,
    pairs: Sequence[Pair],
    collate: Callable[[Sequence[Pair]], PairBatch],
    modality: Modality,
    batch_size: int,
) -> NDArray[np.float64]:
    """Scores (pairs,) in (0, 1) by the matcher, from what `modality` shows of each pair."""
    return scores_of(pair_logits(matcher, pairs, collate, modality, batch_size))
