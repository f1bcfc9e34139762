"""Completing an attribute: what is read, hidden, scored, calibrated and judged, where the answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from mlim.completion.baselines import by_frequency, by_trees
from mlim.completion.calibration import Calibration, Usual, evidence, log_loss
from mlim.completion.cells import Cell, read_cells
from mlim.completion.compared import MODEL
from mlim.completion.fill import CellFiller, MaskedCells
from mlim.completion.judging import Judge
from mlim.completion.probe import Completer, Known, Reading
from mlim.completion.review import Rule, likeliest
from mlim.completion.values import ABSENT, LONGEST, Candidates
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.threshold import calibration_error
from mlim.models.system import Fused

COLUMNS = ("title", "colour", "details")
TEXTS = ["red shirt; colour: red; cotton", "bag; colour: navy blue", "bag; colour: red", "a hat; size M"]
VALUES = ("red", "navy blue")
SIDE = 8


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.learn(TEXTS * 5, 200)


@pytest.fixture(scope="module")
def candidates(tokenizer):
    return Candidates.learn(["red", "Red", "Red", "navy blue", "navy blue"], tokenizer)


def attributes(*values):
    return dict(zip(COLUMNS, values, strict=True))


def test_a_cell_is_found_in_its_text_and_a_missing_one_gets_the_label_of_the_others():
    texts = ["red shirt; colour: red; cotton", "bag; size M", "colour: blue", "something else"]
    given = [attributes("red shirt", "red", "cotton"), attributes("bag", "", "size M"), attributes("", "blue", "")]
    cells = read_cells(texts, [*given, attributes("not", "joined", "from it")], "colour")
    assert cells == [
        Cell("red shirt", "colour: ", "red", "cotton"),
        Cell("bag", "colour: ", "", "size M"),
        Cell("", "colour: ", "blue", ""),
        None,
    ]
    assert ["".join((*cell.around[:1], cell.value, cell.around[1])) for cell in (cells[0], cells[2])] == [
        texts[0],
        texts[2],
    ]


def test_a_column_without_label_and_one_with_markup_are_found_too():
    text = "shirt; soft & warm; cotton"
    (cell,) = read_cells([text], [attributes("shirt", "<b>soft &amp; warm</b>", "cotton")], "colour")
    assert cell == Cell("shirt", "", "soft & warm", "cotton")


def test_a_value_is_hidden_wherever_the_text_repeats_one_of_its_words():
    cell = Cell("Navy bag, BLUE-ish blues", "blue: ", "navy blue", "in blue; size M")
    assert cell.hidden() == Cell("bag, -ish blues", "blue: ", "navy blue", "in ; size M")
    assert cell.hidden().rest == "bag, -ish blues; in ; size M"
    assert Cell("red bag", "colour: ", "", "x").hidden() == Cell("red bag", "colour: ", "", "x")


def test_candidates_are_values_of_the_same_tokens_that_repeat(tokenizer):
    long = " ".join(["red"] * (LONGEST + 1))
    values = ["Red", "red", "red", "navy blue", "navy blue", "bag", long, long, "✿", "✿", ""]
    found = Candidates.learn(values, tokenizer)
    assert found.values == VALUES
    assert found.counts == (3, 2)
    assert found.lengths == tuple(len(tokenizer.encode(value, 99)) for value in VALUES)
    assert found.shares.tolist() == [0.6, 0.4]
    assert found.places(["NAVY  BLUE", "red", "bag", ""], tokenizer) == [1, 0, ABSENT, ABSENT]


class Reader(nn.Module):
    """A system that knows: the token behind the cell's mask number n is that of the value that the picture shows."""

    patches = 1

    def __init__(self, tokenizer, values):
        super().__init__()
        self.mlm_head = nn.Linear(1, 1)
        self._values, self._vocabulary, self._mask = values, tokenizer.vocabulary_size, tokenizer.mask
        self.seen = []

    def fuse(self, shown):
        """At every token: which value is shown, and which mask of its text it is."""
        self.seen += shown.input_ids.tolist()
        assert shown.text_mask is not None  # says what is hidden, for blocks that do not read it
        assert torch.equal(shown.text_mask, shown.input_ids == self._mask)
        value = (shown.pixels.mean(dim=(1, 2, 3)) * 255).round()
        if shown.image_mask is not None:
            assert shown.image_mask.all()
            value = torch.zeros_like(value)
        order = (shown.input_ids == self._mask).cumsum(dim=1) - 1
        return Fused(torch.stack([value[:, None].expand(order.shape), order], dim=-1).float(), None)

    def mlm_logits(self, hidden):
        logits = torch.zeros(len(hidden), self._vocabulary)
        for row, (value, order) in enumerate(hidden.long().tolist()):
            tokens = self._values[value]
            logits[row, tokens[min(order, len(tokens) - 1)]] = 5.0
        return logits

    def mlm_operations(self, masked):
        return masked


class Pictures:
    """Every item's picture is as bright as the number in its id says."""

    def text(self, item):
        raise AssertionError("texts come from the cells")

    def image(self, item):
        return np.full((SIDE, SIDE, 3), int(item[-1]), dtype=np.uint8)


def filler(tokenizer, candidates, max_tokens=20):
    model = Reader(tokenizer, candidates.tokens)
    return model, CellFiller(model, tokenizer, Pictures(), candidates, max_tokens, batch_size=2)


def test_the_value_that_the_picture_shows_fits_best_and_is_seen_nowhere_in_the_text(tokenizer, candidates):
    model, fill = filler(tokenizer, candidates)
    written = {"a0": "navy blue", "b1": "red", "c0": ""}  # the first two are wrong
    cells = {item: Cell("shirt", "colour: ", value, "cotton").hidden() for item, value in written.items()}
    scores = fill.read(cells).scores
    assert scores.shape == (3, 2)
    assert scores.argmax(axis=1).tolist() == [0, 1, 0]
    hit, miss = (float(np.log(np.exp(x) / (np.exp(5) + tokenizer.vocabulary_size - 1))) for x in (5, 0))
    np.testing.assert_allclose(scores[0, 0], hit * len(candidates.tokens[0]), rtol=1e-5)
    np.testing.assert_allclose(scores[0, 1], miss * len(candidates.tokens[1]), rtol=1e-5)
    hidden = {token for value in candidates.tokens for token in value}
    assert all(hidden.isdisjoint(row) for row in model.seen)
    masks = {row.count(tokenizer.mask) for row in model.seen}
    assert masks == {*candidates.lengths}
    assert fill.read(cells, pictures=False).scores.argmax(axis=1).tolist() == [0, 0, 0]


def test_the_texts_ends_are_cut_and_never_the_masks():
    around = {"a": ([1, 2, 3], [4, 5])}
    assert MaskedCells(around, 9, 2).ids("a", 20) == [1, 2, 3, 9, 9, 4, 5]
    assert MaskedCells(around, 9, 2).ids("a", 6) == [1, 2, 3, 9, 9, 4]
    assert MaskedCells(around, 9, 2).ids("a", 4) == [2, 3, 9, 9]
    assert MaskedCells(around, 9, 2).ids("a", 1) == [9, 9]


def made(counts, lengths=None):
    lengths = lengths or [1] * len(counts)
    tokens = tuple((place,) * length for place, length in enumerate(lengths))
    return Candidates(tuple(f"v{place}" for place in range(len(counts))), tokens, tuple(counts))


def drawn(temperature, shares, cells=4000, seed=0):
    """Scores whose softmax at a temperature is the truth, and values drawn from that."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(cells, len(shares)), scale=1.5) + np.log(shares)
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (truth.cumsum(axis=1) > generator.random((cells, 1))).argmax(axis=1)
    return np.log(truth) * temperature, true, truth


def test_calibration_finds_the_temperature_and_takes_out_what_a_network_prefers():
    scores, true, truth = drawn(3.0, [0.5, 0.3, 0.2])
    candidates = made(np.bincount(true))
    preferring = scores + np.array([0.0, 9.0, -6.0])
    for given in (scores, preferring):
        found = Calibration.fit(given, true, candidates.lengths, candidates.shares)
        assert found.temperature == pytest.approx(3, rel=0.1)
        probabilities = found.probabilities(given)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert np.abs(probabilities - truth).mean() < 0.03
        right = probabilities.argmax(axis=1) == true
        assert calibration_error(probabilities.max(axis=1), right) < 0.03


def test_without_evidence_the_shares_remain():
    generator = np.random.default_rng(0)
    scores, true = generator.normal(size=(500, 3)), generator.choice(3, 500, p=[0.6, 0.3, 0.1])
    candidates = made(np.bincount(true))
    fitted = Calibration.fit(scores, true, candidates.lengths, candidates.shares)
    probabilities = fitted.probabilities(scores)
    np.testing.assert_allclose(probabilities, np.tile(candidates.shares, (500, 1)), atol=0.1)
    assert log_loss(probabilities, true) <= log_loss(by_frequency(candidates, 500), true) + 1e-3


def test_long_values_are_normalised_by_length_where_that_fits():
    scores, true, _ = drawn(1.0, [0.5, 0.5])
    candidates = made(np.bincount(true), lengths=[1, 4])
    of_values = (candidates.lengths, candidates.shares)
    assert Calibration.fit(scores * [1, 4], true, *of_values).exponent == 1
    assert Calibration.fit(scores, true, *of_values).exponent == 0


def known(scores, states, places):
    return Known(Reading(scores, states), places)


@pytest.mark.parametrize("told_by", ["head", "outputs"])
def test_a_value_is_completed_by_what_tells_it(told_by):
    generator = np.random.default_rng(0)
    places = generator.integers(0, 3, 300)
    noise = generator.normal(size=(300, 3))
    telling = np.eye(3)[places] * 4 + generator.normal(size=(300, 3))
    scores, states = (telling, noise) if told_by == "head" else (noise, telling)
    parts = [known(scores[part], states[part], places[part]) for part in np.split(np.arange(300), 3)]
    training, validation, test = parts
    completer = Completer.fit(training, validation, made(np.bincount(places)), seed=0)
    found = completer.probabilities(test.reading)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == test.places).mean() > 0.9
    alone = (completer.by_head(test.reading).argmax(axis=1) == test.places).mean()
    assert alone > 0.9 if told_by == "head" else alone < 0.6


def test_a_value_that_was_not_learned_stays_possible():
    states = np.repeat(np.eye(2), 20, axis=0)
    places = np.repeat([0, 1], 20)
    cells = known(np.zeros((40, 3)), states, places)
    found = Completer.fit(cells, cells, made([20, 20, 10]), seed=0).probabilities(cells.reading)
    assert (found > 0).all()
    only = cells.reading.of(places == 0)
    single = Completer.fit(Known(only, places[:20]), cells, made([20, 20, 10]), seed=0)
    np.testing.assert_allclose(single.probabilities(only).sum(axis=1), 1)


def test_the_calibration_error_is_the_gap_between_confidence_and_right():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    assert calibration_error(confidence, np.array([True, True, True, False])) == pytest.approx(0.05)
    assert calibration_error(confidence, np.array([False] * 4)) == pytest.approx(0.75)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


def test_evidence_does_not_hold_against_a_value_that_it_is_rare():
    shares = np.array([0.9, 0.1])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.99, 0.01]])
    found = evidence(probabilities, np.array([0, 1, 1]), shares)
    np.testing.assert_allclose(found[:2], 0, atol=1e-12)
    assert found[2] < -2


def test_a_value_far_below_the_usual_evidence_contradicts_and_an_unknown_one_is_not_judged():
    shares = np.array([0.5, 0.5])
    usual = np.array([[chance, 1 - chance] for chance in (0.6, 0.8, 0.9)])
    rule = Rule.learn(usual, np.zeros(3, dtype=np.int64), shares, sigmas=3, below=None)
    assert rule.usual.median == pytest.approx(np.log(4))
    cells = np.array([[0.8, 0.2], [0.01, 0.99], [0.01, 0.99]])
    found = rule.judge(cells, np.array([0, 0, ABSENT]))
    assert found["contradicts"].tolist()[:2] == [False, True]
    assert found.loc[2].isna().all()
    assert found.loc[0, "sigmas"] == pytest.approx(0, abs=1e-9)
    assert found.loc[1, "sigmas"] == rule.usual.sigmas(np.log([0.01 / 0.99]))[0]
    assert found.loc[1, "probability"] == 0.01
    lenient = Rule(rule.usual, shares, sigmas=3, below=0.005)
    assert not lenient.judge(cells, np.array([0, 0, ABSENT]))["contradicts"].fillna(False).any()
    assert Rule(rule.usual, shares, sigmas=3, below=0.9).judge(cells, np.array([0, 0, 0]))["contradicts"].all()
    power = rule.power(np.array([[0.99, 0.01], [0.01, 0.99]]), np.array([0, 1]), seed=0)
    assert power == {"of_written": 0, "of_planted": 1}
    assert rule.power(cells, np.full(3, ABSENT), seed=0) == {"of_written": None, "of_planted": None}


def test_equal_evidence_has_no_infinite_sigmas():
    assert np.isfinite(Usual.of(np.zeros(5)).sigmas(np.array([0.0, -1.0]))).all()


def test_the_likeliest_values_come_first():
    found = likeliest(np.array([[0.1, 0.6, 0.3]]), made([3, 2, 1]), 2)
    assert found.loc[0].to_dict() == {"value_1": "v1", "probability_1": 0.6, "value_2": "v2", "probability_2": 0.3}
    assert [*likeliest(np.array([[0.4, 0.6]]), made([2, 2]), 5)] == [
        *("value_1", "probability_1", "value_2", "probability_2")
    ]


def test_trees_read_the_value_where_a_text_gives_it_away():
    texts = [f"{'fire' if place else 'sky'} shirt {number}" for number in range(40) for place in (0, 1)]
    places = np.array([0, 1] * 40)
    found = by_trees(texts, places, ["a fire bag", "sky", ""], made([40, 40, 2]), seed=0)
    assert found.shape == (3, 3)
    assert found[:2].argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[:, 2] == 0).all()


def test_figures_count_never_seen_values_as_wrong_and_compare_with_baselines():
    true = np.array([0, 1, 0, ABSENT] * 6)
    families = np.repeat(np.arange(12), 2)
    model = np.tile([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1]], (6, 1))
    found = Judge(true, families, 200, 0.95, 0).figures(
        {MODEL: model, "most frequent": by_frequency(made([2, 1, 1]), 24)}, 2
    )
    assert (found["cells"], found["families"], found["never_seen"]) == (24, 12, 6)
    assert found["exact_match"][MODEL]["value"] == 0.5
    assert found["exact_match"]["most frequent"]["value"] == 0.5
    assert found["among_2"][MODEL]["value"] == 0.5
    assert found["among_2"]["most frequent"]["value"] == 0.75
    assert found["exact_match"][MODEL]["low"] <= 0.5 <= found["exact_match"][MODEL]["high"]
    assert found["model_minus"]["most frequent"]["value"] == 0
    assert found["log_loss"][MODEL] == pytest.approx(-(2 * np.log(0.8) + np.log(0.2)) / 3)


def test_few_families_give_no_interval():
    found = Judge(np.zeros(4, dtype=np.int64), np.arange(4), 50, 0.95, 0).figures({MODEL: np.eye(4)}, 1)
    assert found["exact_match"][MODEL] == {"value": 0.25, "low": None, "high": None}


def test_where_a_model_knows_nothing_nothing_contradicts():
    """Log-odds that hardly differ have a tiny spread; a value is not suspicious for a thousandth."""
    generator = np.random.default_rng(0)
    chances = 0.5 + 0.001 * generator.normal(size=(200, 1))
    cells, places = np.hstack([chances, 1 - chances]), np.zeros(200, dtype=np.int64)
    rule = Rule.learn(cells, places, np.array([0.5, 0.5]), sigmas=3, below=None)
    assert not rule.judge(np.array([[0.49, 0.51]]), np.array([0]))["contradicts"].any()


def test_trees_are_not_certain_of_what_no_text_tells():
    """Many values of few items each, and texts that say nothing: certain leaves would have a log loss without end."""
    generator = np.random.default_rng(0)
    places, judged = generator.integers(10, size=100), generator.integers(10, size=60)
    texts = [f"w{one} w{other}" for one, other in generator.integers(40, size=(160, 2))]
    found = by_trees(texts[:100], places, texts[100:], made([10] * 10), seed=0)
    assert log_loss(found, judged) < 4.5  # 2.3 for equal shares, 8.1 without a penalty
