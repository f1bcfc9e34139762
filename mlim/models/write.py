"""Texts word after word: greedy and beam search over whatever predicts the next token."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NextLogits = Callable[[Tensor, Tensor], Tensor]
"""Of texts (N, T) for what is written about (N, ...): logits (N, V) of the token after each."""


class Writing(NamedTuple):
    """How texts are written: they begin with `first` (not counted), end with `last`, and have at most `most` tokens.

    `beam` texts of each are followed at a time; 1, without a penalty: greedy search. What is chosen has the highest
    log-likelihood, divided by ((5 + tokens) / 6) ** `length_penalty`, which is not negative (Wu et al. 2016). Tokens in
    `forbidden` are never written.
    """

    first: int
    last: int
    most: int
    beam: int = 1
    length_penalty: float = 0.0
    forbidden: tuple[int, ...] = ()


class _Beam(NamedTuple):
    """Texts that go on, (N * beam, T), their log-likelihoods (N, beam), and the best that ended so far."""

    texts: Tensor
    scores: Tensor
    ended: Tensor  # (N, most) tokens, `last` behind their end
    best: Tensor  # (N,) scores of these with the penalty, -inf where none has ended


@torch.no_grad()
def write(next_logits: NextLogits, about: Tensor, settings: Writing) -> list[list[int]]:
    """For each of `about` (N, ...) the tokens of a text, without the first and the last one.

    A text that does not end within `most` tokens is cut there.
    """
    seen = about.repeat_interleave(settings.beam, dim=0)
    rows, device = len(about), about.device
    scores = torch.full((rows, settings.beam), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all texts begin alike: one of each goes on
    texts = torch.full((rows * settings.beam, 1), settings.first, device=device)
    ended = torch.full((rows, settings.most), settings.last, device=device)
    beam = _Beam(texts, scores, ended, torch.full((rows,), -torch.inf, device=device))
    for length in range(1, settings.most + 1):
        beam, chosen = _step(beam, next_logits(beam.texts, seen), settings, length)
        seen = seen[chosen]
        if not (_highest_left(beam, settings) > beam.best).any():
            break
    return [_until(row, settings.last) for row in beam.ended.tolist()]


def _step(beam: _Beam, logits: Tensor, settings: Writing, length: int) -> tuple[_Beam, Tensor]:
    """One more token, the `length`-th, for every text; also the rows that the texts go on from.

    Of the best `beam` ways to go on those end that have ended, as many of the next best ones take their places.
    """
    rows, width = beam.scores.shape
    logits = logits.float().index_fill(1, torch.tensor(settings.forbidden, device=logits.device).long(), -torch.inf)
    words = logits.shape[1]
    chances = beam.scores.unsqueeze(2) + logits.log_softmax(-1).view(rows, width, words)
    scores, places = chances.flatten(1).topk(2 * width)  # a text has one way to end, so that `width` go on
    came = places // words + width * torch.arange(rows, device=places.device)[:, None]
    texts = torch.cat([beam.texts[came], places.unsqueeze(2) % words], dim=2)  # (N, 2 * beam, T)
    last = texts[:, :, -1] == settings.last
    ends = (last | (length == settings.most))[:, :width]
    beam = _ending(beam, texts[:, :width], scores[:, :width].masked_fill(~ends, -torch.inf), settings, length)
    further = scores.masked_fill(last, -torch.inf).topk(width).indices
    kept = beam._replace(
        texts=texts.gather(1, further.unsqueeze(2).expand(-1, -1, length + 1)).flatten(0, 1),
        scores=scores.masked_fill(last, -torch.inf).gather(1, further),
    )
    return kept, came.gather(1, further).flatten()


def _ending(beam: _Beam, texts: Tensor, scores: Tensor, settings: Writing, length: int) -> _Beam:
    """The beam after some of `texts` (N, beam, 1 + length) have ended, with `scores` (N, beam), -inf for the others."""
    best, which = (scores / _penalty(length, settings)).max(dim=1)
    better = best > beam.best
    rows = better.nonzero().squeeze(1)
    ended = torch.full_like(beam.ended[rows], settings.last)
    ended[:, :length] = texts[rows, which[rows], 1:]
    return beam._replace(ended=beam.ended.index_copy(0, rows, ended), best=torch.where(better, best, beam.best))


def _highest_left(beam: _Beam, settings: Writing) -> Tensor:
    """The highest score (N,) that a text which goes on can still have: no further token costs anything."""
    return beam.scores.max(dim=1).values / _penalty(settings.most, settings)


def _penalty(length: int, settings: Writing) -> float:
    return float(((5 + length) / 6) ** settings.length_penalty)


def _until(tokens: Sequence[int], last: int) -> list[int]:
    return list(tokens[: tokens.index(last)]) if last in tokens else list(tokens)
