"""What a limit of tokens leaves out of texts, and which limit would keep nearly all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.data.lengths import TokenCut, choose_limit, limit_keeping, measure_cut
from mlim.data.tokenize import TextTokenizer
from mlim.recipe import TextConfig

LENGTHS = st.lists(st.integers(0, 300), max_size=40)


def reading(max_tokens: int | str, **values: float) -> TextConfig:
    return TextConfig.model_validate({"max_tokens": max_tokens, "vocabulary_size": 200, **values})


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.learn(["one two three four five six seven eight nine ten"] * 2, 200)


def test_shares_of_texts_and_of_tokens(tokenizer: TextTokenizer) -> None:
    """Point 4: 1 of 4 texts is longer than 4 tokens, and 6 of its 10 tokens, of 15 in all, are beyond them."""
    texts = ["one two three four five six seven eight nine ten", "one two", "three four three", ""]
    cut = measure_cut(texts, tokenizer, reading(4))
    assert cut == TokenCut(texts=4, max_tokens=4, texts_cut=0.25, tokens_cut=0.4, max_tokens_for_95_percent=10)
    assert "cuts 25.0% of the texts and leaves out 40.0% of their tokens" in cut.warning
    assert "text.max_tokens=10 keeps 95 %" in cut.warning


def test_a_limit_that_keeps_95_percent_is_not_warned_of(tokenizer: TextTokenizer) -> None:
    texts = ["one two three four five six seven eight nine ten"] * 10
    assert measure_cut(texts, tokenizer, reading(9)).warning
    assert not measure_cut(texts, tokenizer, reading(10)).warning
    suggested = measure_cut(texts, tokenizer, reading(4)).max_tokens_for_95_percent
    assert not measure_cut(texts, tokenizer, reading(suggested)).warning


def test_no_texts_have_no_shares(tokenizer: TextTokenizer) -> None:
    assert measure_cut([], tokenizer, reading(4)) == TokenCut(0, 4, 0.0, 0.0, 0)


@settings(deadline=None)
@given(LENGTHS, st.floats(0.01, 1.0))
def test_the_limit_is_the_smallest_one(lengths: list[int], share: float) -> None:
    found, total = np.array(lengths, dtype=np.int64), sum(lengths)
    limit = limit_keeping(found, share)
    assert np.minimum(found, limit).sum() >= share * total
    assert limit == 0 or np.minimum(found, limit - 1).sum() < share * total


def test_auto_reads_what_the_texts_need_within_its_bounds(tokenizer: TextTokenizer) -> None:
    lengths = np.array([10] * 9 + [50], dtype=np.int64)
    assert choose_limit(reading("auto", kept_share=1.0), lengths) == 50
    assert choose_limit(reading("auto", kept_share=0.8), lengths) == 22  # 9 * 10 + 22 of 140 tokens
    assert choose_limit(reading("auto", kept_share=1.0, most_tokens=20), lengths) == 20
    assert choose_limit(reading("auto"), np.zeros(3, dtype=np.int64)) == 4
    assert choose_limit(reading(7), lengths) == 7
    assert measure_cut(["one two three four five"] * 4, tokenizer, reading("auto")).max_tokens == 5


def test_what_the_summary_of_validate_says() -> None:
    cut = TokenCut(80, 24, 1.0, 0.6, 145)
    assert TokenCut.of({"tokens": vars(cut)}) == cut
    assert TokenCut.of({"tokens": {"note": "not measured"}}) is None
    assert TokenCut.of({}) is None
