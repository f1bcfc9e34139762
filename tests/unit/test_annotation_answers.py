"""Answers as VQA compares them, and what votes for them are worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.annotations.answers import AnswerSpellings, normalised, vote
from mlim.evaluation.metrics.accuracy import soft_scores

WORDS = st.sampled_from(
    ["a", "the", "two", "none", "dog", "t-shirt", "dont", "1,000", "2.5", "yes.", "U.S.", "-", "?!"]
)
ANSWERS = st.lists(WORDS, max_size=4).map(" ".join) | st.text(max_size=12)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("A dog.", "dog"),
        ("the  left", "left"),
        ("T-shirt", "t shirt"),
        ("red/blue", "red blue"),
        ("100,978", "100978"),
        ("cats, dogs", "cats dogs"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("dont know", "don't know"),
        ("10:30", "10:30"),
        ("boy's", "boy's"),
        ("50%", "50%"),
        ("A", "a"),
        ("-", "-"),
        ("  ", ""),
    ],
)
def test_vqas_rules(answer, expected):
    assert normalised(answer) == expected


@given(ANSWERS)
def test_a_normalised_answer_is_compared_as_it_is(answer):
    assert normalised(normalised(answer)) == normalised(answer)
    assert bool(normalised(answer)) == bool(answer.strip())


@given(st.lists(ANSWERS, max_size=8))
def test_equal_answers_have_one_spelling_and_others_have_others(answers):
    spellings = AnswerSpellings()
    spelled = [spellings.of(answer) for answer in answers]
    for one, first in zip(answers, spelled, strict=True):
        assert normalised(first) == normalised(one)
        for other, second in zip(answers, spelled, strict=True):
            assert (first == second) == (normalised(one) == normalised(other))


def test_an_answer_keeps_its_hyphen_and_its_number_where_it_is_a_word():
    spellings = AnswerSpellings()
    assert [spellings.of(answer) for answer in ("two-tone", "Two tone", "t shirt", "T-shirt", "a-1", "1")] == [
        *("two-tone", "two-tone", "t shirt", "t shirt", "1", "1")
    ]


def test_votes_of_equal_spellings_add_up():
    given = ["2", "2", "2", "two", "two", "Two ", "a dog", "dog", "2.", "Two"]
    assert vote(given, AnswerSpellings()) == (("2", 1.0), ("dog", 0.6))


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        (["no"], {"no": 1.0}),
        (["no"] * 5, {"no": 1.0}),
        (["a b", "c"], {"b": 1.0, "c": 1.0}),
        (["x", *["y"] * 4], {"x": 0.6, "y": 1.0}),
        (["", " "], {}),
        (["x", ""], {"x": 1.0}),
    ],
)
def test_fewer_people_count_by_their_share(given, scores):
    assert dict(vote(given, AnswerSpellings())) == pytest.approx(scores)


@given(st.integers(1, 10))
def test_ten_people_score_as_vqa_says(count):
    answers = ["dog"] * count + [f"other {number}" for number in range(10 - count)]
    assert dict(vote(answers, AnswerSpellings()))["dog"] == pytest.approx(soft_scores([count])[0])
