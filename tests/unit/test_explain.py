"""Why a pair has its score: contributions that add up, regions that matter, the change that would decide otherwise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.matching import explain as explain_module
from mlim.matching.explain import Question, Shown, explain, hide, strongest_regions
from mlim.matching.item_parts import ItemParts, parts_of, split_text

SIDE, GRID = 16, 4
CELL = (1, 2)  # of the grid: what the scorers below look at
COLUMNS = ("title", "colour", "cloth")


def picture(brightness: int, background: int = 0) -> np.ndarray:
    """Bright in one cell, which `seen` looks at."""
    made = np.full((SIDE, SIDE, 3), background, dtype=np.uint8)
    made[4:8, 8:12] = brightness
    return made


def seen(pixels: np.ndarray) -> float:
    return float(pixels[4:8, 8:12].mean()) / 255


def item(brightness: int = 200, **columns: str) -> ItemParts:
    return ItemParts(columns, columns, picture(brightness))


def agreement(first: Shown, second: Shown) -> float:
    """A score in [0, 1] in which every part matters and none by itself: shared words times like pictures."""
    one, other = (set(shown.text.replace(";", "").split()) for shown in (first, second))
    words = len(one & other) / max(len(one | other), 1)
    return (0.2 + 0.8 * words) * (1 - abs(seen(first.picture) - seen(second.picture)))


def scorer(pairs):
    return np.array([agreement(*pair) for pair in pairs])


FIRST = item(200, title="red shirt", colour="red", cloth="cotton")
SECOND = item(180, title="shirt in red", colour="red", cloth="linen")
OTHERS = [
    (item(20, title="bag", colour="blue", cloth="leather"), item(250, title="blue bag", colour="blue", cloth="")),
    (item(90, title="scarf", colour="green", cloth="wool"), item(90, title="scarf", colour="green", cloth="wool")),
]


def asked(first=FIRST, second=SECOND, modality="both", threshold=0.3, references=OTHERS, score=scorer, **how):
    return explain(score, Question.about(first, second, modality, GRID), threshold, references, **how)


words = st.text("abc ;", max_size=6).map(str.split).map(" ".join)
shades = st.integers(0, 255)


@st.composite
def items(draw, columns=COLUMNS):
    return item(draw(shades), **{name: draw(words) for name in columns})


@given(items(), items(), st.lists(st.tuples(items(), items()), max_size=2))
def test_contributions_add_up_to_the_score_less_the_baseline(first, second, references):
    found = asked(first, second, references=references)
    assert found.score == pytest.approx(agreement(shown(first), shown(second)))
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    assert found.baseline + found.of("text") + found.of("picture") == pytest.approx(found.score)
    if references:
        mean = np.mean([agreement(shown(one), shown(other)) for one, other in map(in_order(first, second), references)])
        assert not all(first.stretches.values()) or found.baseline == pytest.approx(mean)


def shown(one: ItemParts) -> Shown:
    return Shown(one.text, one.picture)


def in_order(first, second):
    """References come with their first item for the item that sorts first."""
    key = [(one.text, one.picture.tobytes()) for one in (first, second)]
    return lambda pair: pair if key[0] <= key[1] else pair[::-1]


@given(items(), items())
def test_the_order_of_the_items_does_not_matter(first, second):
    one, other = asked(first, second), asked(second, first)
    assert [part.name for part in one.contributions] == [part.name for part in other.contributions]
    np.testing.assert_allclose(*([part.value for part in found.contributions] for found in (one, other)), atol=1e-12)
    np.testing.assert_allclose(one.effects, other.effects[::-1], atol=1e-12)
    assert (one.change is None) == (other.change is None)


def test_a_part_that_the_score_does_not_read_contributes_nothing():
    found = asked(score=lambda pairs: np.array([seen(first.picture) for first, _ in pairs]))
    assert found.of("text") == 0
    assert found.of("picture") == pytest.approx(found.score - found.baseline)


def test_texts_and_pictures_have_the_values_of_a_game_of_these_two():
    """Columns are never separated by the picture, so that their contributions add up to that of the text (Owen)."""
    found = asked(references=OTHERS[1:])
    reference = OTHERS[1]
    pairs = {
        (text, image): agreement(*(
            Shown((own if text else other).text, (own if image else other).picture)
            for own, other in zip((FIRST, SECOND), in_order(FIRST, SECOND)(reference), strict=True)
        ))
        for text in (False, True)
        for image in (False, True)
    }  # fmt: skip
    text = (pairs[True, False] - pairs[False, False] + pairs[True, True] - pairs[False, True]) / 2
    assert found.of("text") == pytest.approx(text)


def test_many_columns_are_sampled_and_still_add_up():
    names = [f"column {number}" for number in range(10)]
    first, second = (item(150, **{name: f"w{number % step}" for number, name in enumerate(names)}) for step in (5, 3))
    calls: list[int] = []

    def counted(pairs):
        calls.append(len(pairs))
        return scorer(pairs)

    found = asked(first, second, references=[], score=counted, threshold=0.0)
    assert not found.exact
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    assert sum(calls) < 2 ** len(names)
    assert asked(first, second, references=[]).contributions == found.contributions
    beside = asked(first, second, references=OTHERS)
    assert beside.baseline + sum(one.value for one in beside.contributions) == pytest.approx(beside.score)
    assert asked().exact


def test_a_sample_of_orders_is_close_to_all_of_them(monkeypatch):
    names = [f"column {number}" for number in range(6)]
    first, second = (item(150, **{name: f"w{number % step}" for number, name in enumerate(names)}) for step in (5, 3))
    exact = asked(first, second)
    monkeypatch.setattr(explain_module, "MOST_EXACT", 5)
    sampled = asked(first, second)
    assert (sampled.exact, exact.exact) == (False, True)
    apart = [one.value - other.value for one, other in zip(sampled.contributions, exact.contributions, strict=True)]
    assert np.abs(apart).max() < 0.1 * sum(abs(one.value) for one in exact.contributions)
    assert sampled.baseline == pytest.approx(exact.baseline)


def test_the_region_that_decides_is_found_and_hiding_it_moves_the_score_most():
    """The deletion test on a scorer that is known: one cell of each picture matters."""
    found = asked(item(250, title="a"), item(240, title="a"), references=[])
    best = found.regions[0]
    assert (best.row, best.column) == CELL
    assert abs(best.effect) == np.abs(found.effects).max()
    assert {one[1:3] for one in found.regions} == {CELL}
    zero = found.effects.copy()
    zero[:, CELL[0], CELL[1]] = 0
    assert not zero.any()
    assert found.without_regions == pytest.approx(found.score - sum(one.effect for one in found.regions))


def test_regions_that_matter_only_together_are_found():
    """Each half of the pattern is enough, so that hiding one of them changes nothing by itself."""

    def either(pairs):
        return np.array([float(max(first.picture[0, 0, 0], first.picture[15, 15, 0]) > 200) for first, _ in pairs])

    halves = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    halves[:4, :4] = halves[12:, 12:] = 255
    pair = (Shown("", halves), Shown("", halves))
    alone = np.zeros((2, GRID, GRID))
    alone[0, 0, 0] = 0.1  # a hint of the first half; the second one follows from hiding both
    graded = lambda pairs: either(pairs) - 0.1 * np.array([first.picture[0, 0, 0] < 200 for first, _ in pairs])  # noqa: E731
    found = strongest_regions(graded, pair, alone, 1.0, share=0.1)
    assert [one[:3] for one in found] == [(0, 0, 0), (0, 3, 3)]
    assert [one.effect for one in found] == pytest.approx([0.1, 1.0])


def test_regions_are_at_most_the_share_and_none_where_nothing_moves_the_score():
    pair = (Shown("", picture(250)), Shown("", picture(250)))
    mean = lambda pairs: np.array([first.picture.astype(float).std() for first, _ in pairs])  # noqa: E731
    effects = np.ones((2, GRID, GRID))
    assert len(strongest_regions(mean, pair, effects, float(mean([pair])[0]), share=1 / 32)) == 1
    assert strongest_regions(lambda pairs: np.zeros(len(pairs)), pair, effects, 0.0, share=0.5) == []


def test_a_hidden_region_has_the_mean_colour_and_the_rest_stays():
    made = picture(160)
    hidden = hide(made, [CELL], GRID)
    assert (hidden[4:8, 8:12] == 10).all()  # 160 in one cell of sixteen
    hidden[4:8, 8:12] = 160
    np.testing.assert_array_equal(hidden, made)
    uneven = hide(np.arange(7 * 7 * 3, dtype=np.uint8).reshape(7, 7, 3), list(np.ndindex(3, 3)), 3)
    assert len(np.unique(uneven.reshape(-1, 3), axis=0)) == 1


def test_what_would_have_to_change_for_a_mismatch_is_what_both_would_have_to_say():
    first = item(200, title="bag", colour="red", cloth="wool")
    second = item(200, title="bag", colour="blue", cloth="wool")
    found = asked(first, second, threshold=0.9)
    assert not found.match
    assert found.change is not None
    assert (found.change.parts, found.change.how) == (("colour",), "same")
    assert found.change.score == pytest.approx(1.0)


def test_what_would_have_to_change_for_a_match_is_taken_from_other_pairs():
    found = asked(FIRST, FIRST, threshold=0.5, references=OTHERS[:1])
    assert found.match
    assert found.change is not None
    assert found.change.how == "other"
    assert found.change.parts == ("picture",)  # 20 and 250: nothing alike
    assert found.change.score < 0.5


def test_where_no_few_parts_decide_there_is_no_change():
    assert asked(threshold=0.0).change is None  # every score is a match
    assert asked(threshold=2.0).change is None


@pytest.mark.parametrize(
    ("modality", "kinds"), [("text", {"text"}), ("image", {"picture"}), ("both", {"text", "picture"})]
)
def test_only_what_is_read_is_explained(modality, kinds):
    found = asked(modality=modality)
    assert {one.kind for one in found.contributions} == kinds
    assert (found.effects is None) == ("picture" not in kinds)
    assert found.effects is not None or found.regions == ()


def test_an_item_without_text_and_an_item_beside_itself_are_explained():
    bare = item(200, title="", colour="", cloth="")
    found = asked(bare, FIRST)
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    assert {one.first for one in found.contributions} == {""}
    assert [one.name for one in asked(bare, bare).contributions] == ["picture"]
    assert asked(FIRST, FIRST).score == pytest.approx(1.0)


def test_a_text_that_is_known_as_a_whole_only_is_one_part():
    whole = parts_of("red shirt; red; cotton", {}, picture(200))
    found = asked(whole, SECOND)
    assert [one.name for one in found.contributions] == ["text", "picture"]
    assert found.contributions[0].second == SECOND.text
    assert found.score == pytest.approx(agreement(shown(whole), shown(SECOND)))


def test_columns_say_what_the_text_says():
    """A part that is taken away has no value in its column, and a text that is one part takes all its columns along."""
    seen_columns = []

    def reader(pairs):
        seen_columns.extend((one.text, one.columns) for pair in pairs for one in pair)
        return np.zeros(len(pairs))

    shirt = parts_of("red; colour: shirt", {"name": "red", "colour": "shirt", "size": ""}, picture(200))
    bag = parts_of("bag; colour: blue; L", {"name": "bag", "colour": "blue", "size": "L"}, picture(200))
    asked(shirt, shirt, score=reader, references=[])
    assert ("red", {"name": "red", "colour": "", "size": ""}) in seen_columns
    asked(shirt, shirt, score=reader, references=[(bag, bag)])
    assert ("bag; colour: shirt", {"name": "bag", "colour": "shirt", "size": ""}) in seen_columns
    whole = parts_of("a shirt", {"name": "red"}, picture(200))
    asked(whole, whole, score=reader, references=[(bag, bag)])
    assert ("a shirt", {"name": "red"}) in seen_columns
    assert ("bag; colour: blue; L", bag.columns) in seen_columns


def test_items_keep_the_order_of_their_own_columns():
    texts: list[str] = []

    def reader(pairs):
        texts.extend(shown.text for pair in pairs for shown in pair)
        return np.zeros(len(pairs))

    asked(item(title="bag", colour="red"), item(colour="blue", title="scarf"), score=reader, references=[])
    assert "bag; red" in texts
    assert "blue; scarf" in texts


@pytest.mark.parametrize(
    ("text", "attributes", "expected"),
    [
        ("shirt; colour: red", {"title": "shirt", "colour": "red"}, {"title": "shirt", "colour": "colour: red"}),
        ("Size: S; wool", {"size": "S", "cloth": "wool"}, {"size": "Size: S", "cloth": "wool"}),
        ("Red; colour: Red", {"title": "Red", "colour": "Red"}, {"title": "Red", "colour": "colour: Red"}),
        ("a; b; c", {"title": "a; b", "x": "", "y": "c"}, {"title": "a; b", "x": "", "y": "c"}),
        ("bold words", {"title": "<b>bold</b> words"}, {"title": "bold words"}),
        ("something else", {"title": "shirt"}, {"text": "something else"}),
        ("shirt; more", {"title": "shirt"}, {"text": "shirt; more"}),
        ("", {}, {"text": ""}),
        ("", {"title": "<p></p>"}, {"title": ""}),
    ],
)
def test_a_text_is_split_into_the_columns_that_it_was_joined_from(text, attributes, expected):
    assert split_text(text, attributes) == expected


def test_many_columns_cost_little_and_too_many_are_refused():
    """A request of a few kilobytes must not take gigabytes: of many parts only the largest ones are combined."""
    asked_for = []

    def counting(pairs):
        asked_for.append(len(pairs))
        return np.zeros(len(pairs))

    columns = {f"f{number}": "x" for number in range(100)}
    found = asked(item(**columns), item(**columns), score=counting, regions=False)
    assert (found.change, len(found.contributions)) == (None, 101)
    assert sum(asked_for) < 20_000
    with pytest.raises(InputError, match="have 101 fields; at most 100 can be explained"):
        asked(item(**columns, other="x"), item(**columns))
