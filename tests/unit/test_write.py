"""Beam search against every text that could be written, and greedy search against the best token each time."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.models.write import Writing, write

WORDS, FIRST, LAST, MOST = 4, 0, 1, 3


def table(seed: int) -> torch.Tensor:
    """Logits (WORDS, WORDS + ...) after each pair of the last two tokens, for two things that are written about."""
    return torch.randn(2, WORDS, WORDS, WORDS, generator=torch.Generator().manual_seed(seed)) * 2


def next_logits(known: torch.Tensor):
    def predict(texts: torch.Tensor, about: torch.Tensor) -> torch.Tensor:
        before = texts[:, -2] if texts.shape[1] > 1 else texts[:, -1]
        return known[about, before, texts[:, -1]]

    return predict


def likelihood(known: torch.Tensor, text: tuple[int, ...]) -> float:
    total, before, now = 0.0, FIRST, FIRST
    for word in text:
        total += known[before, now].log_softmax(-1)[word].item()
        before, now = now, word
    return total


def every_text() -> list[tuple[int, ...]]:
    others = [word for word in range(WORDS) if word != LAST]
    short = [(*text, LAST) for size in range(MOST) for text in itertools.product(others, repeat=size)]
    return short + list(itertools.product(others, repeat=MOST))


@settings(max_examples=15)
@given(st.integers(0, 9_999), st.sampled_from([0.0, 0.9]))
def test_a_beam_that_holds_all_finds_the_best_text(seed, penalty):
    known, about = table(seed), torch.tensor([0, 1])
    found = write(next_logits(known), about, Writing(FIRST, LAST, MOST, WORDS**MOST, penalty))
    for row, text in enumerate(found):
        scores = {each: likelihood(known[row], each) / ((5 + len(each)) / 6) ** penalty for each in every_text()}
        best = max(scores, key=scores.__getitem__)
        assert text == [word for word in best if word != LAST]


@settings(max_examples=15)
@given(st.integers(0, 9_999))
def test_a_beam_of_one_takes_the_best_token_each_time(seed):
    known, expected = table(seed), []
    before, now = FIRST, FIRST
    while len(expected) < 6 and (word := int(known[0, before, now].argmax())) != LAST:
        expected.append(word)
        before, now = now, word
    assert write(next_logits(known), torch.tensor([0]), Writing(FIRST, LAST, 6)) == [expected]


def test_texts_do_not_depend_on_what_they_are_searched_beside():
    known = table(3)
    for beam in (1, 2, 3):
        wanted = Writing(FIRST, LAST, 5, beam, 0.9)
        both = write(next_logits(known), torch.tensor([0, 1]), wanted)
        assert both == [write(next_logits(known), torch.tensor([row]), wanted)[0] for row in (0, 1)]


@pytest.mark.parametrize("beam", [1, 2])
def test_what_is_forbidden_is_never_written(beam):
    known = table(4)
    known[..., 3] += 10
    (text,) = write(next_logits(known), torch.tensor([0]), Writing(FIRST, LAST, 5, beam, forbidden=(3, FIRST)))
    assert 3 not in text
    assert FIRST not in text
