"""Metrics of answers, retrieval, captions and detections: the references' figures, and what weights mean.

`tests/pinned/metrics.json` holds what pycocotools and pycocoevalcap gave for a few cases;
benchmarks/metric_references.py records it again.
"""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.evaluation.metrics import ap
from mlim.evaluation.metrics.accuracy import by_kind, entailed_consistency, kinds_in, set_consistency, soft_scores
from mlim.evaluation.metrics.ap import DetectionAp, Found, Truth, areas_of
from mlim.evaluation.metrics.captions import captions, cider, rouge, words_of
from mlim.evaluation.metrics.measure import Chosen, Together, WeightedMeans, plain_figures
from mlim.evaluation.metrics.recall import FIGURES, cross_search, recall
from mlim.evaluation.resampling import JudgedExamples, compare_drawn, resample_measures

RECORDED = json.loads((Path(__file__).parents[1] / "pinned" / "metrics.json").read_text())


def recorded_captions():
    tokens = RECORDED["captions"]["tokens"]
    return [each[0] for each in tokens], [each[1:] for each in tokens]


def test_captions_are_cut_into_the_words_of_the_reference():
    for (written, references), tokens in zip(
        RECORDED["captions"]["captions"], RECORDED["captions"]["tokens"], strict=True
    ):
        assert [words_of(each) for each in (written, *references)] == tokens


def test_figures_of_captions_are_the_references():
    recorded, (written, references) = RECORDED["captions"], recorded_captions()
    found = plain_figures(captions(written, references), len(written))
    assert found == pytest.approx([recorded[name] for name in ("cider", "bleu4", "rouge")], abs=1e-12)
    for metric, name in ((cider, "cider_each"), (rouge, "rouge_each")):
        alone = metric(written, references).figures(np.eye(len(written)))[0]
        assert alone == pytest.approx(recorded[name], abs=1e-12)


def detections(pictures):
    truths, found = [], []
    for picture in pictures:
        for rows, kept in ((picture["truths"], truths), (picture["found"], found)):
            values = np.array(rows, dtype=np.float64).reshape(-1, 6)
            boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
            labels = values[:, 4].astype(np.int64)
            if kept is truths:
                kept.append(Truth(boxes, labels, areas_of(boxes), values[:, 5] > 0))
            else:
                kept.append(Found(boxes, labels, values[:, 5]))
    return truths, found


@pytest.mark.parametrize("case", range(len(RECORDED["detection"])))
def test_average_precision_is_pycocotools(case):
    recorded = RECORDED["detection"][case]
    found = plain_figures(DetectionAp(*detections(recorded["pictures"])), len(recorded["pictures"]))
    assert np.nan_to_num(found, nan=-1.0) == pytest.approx(recorded["figures"], abs=1e-9)


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.sampled_from(["captions", "detections"]))
@settings(deadline=None, max_examples=8)
def test_a_weight_is_so_many_copies_of_a_picture(weights, kind):
    if kind == "captions":
        written, references = recorded_captions()
        copies = np.arange(len(written)).repeat(weights[: len(written)])
        weighted = captions(written, references).figures(np.array([weights[: len(written)]], dtype=float).T)[1:, 0]
        if not len(copies):
            return
        again = captions([written[at] for at in copies], [references[at] for at in copies])
        assert plain_figures(again, len(copies))[1:] == pytest.approx(weighted, abs=1e-9)  # CIDEr's frequencies stay
    else:
        truths, found = detections(RECORDED["detection"][0]["pictures"])
        weighted = DetectionAp(truths, found).figures(np.array([weights], dtype=float).T)[:, 0]
        copies = np.arange(len(truths)).repeat(weights)
        again = DetectionAp([truths[at] for at in copies], [found[at] for at in copies])
        if len(copies) and sum(len(truths[at].labels) for at in copies):
            assert plain_figures(again, len(copies)) == pytest.approx(weighted, abs=1e-9, nan_ok=True)


def drawn_detections(seed, pictures, classes=3):
    """Boxes on a coarse raster, crowds among them, and detections near them with many equal scores and overlaps."""
    generator, truths, found = np.random.default_rng(seed), [], []
    for _ in range(pictures):
        boxes, labels = raster_boxes(generator, generator.integers(0, 5)), generator.integers
        of = labels(classes, size=len(boxes))
        truths.append(Truth(boxes, of, areas_of(boxes), generator.random(len(boxes)) < 0.2))
        told = raster_boxes(generator, generator.integers(0, 8))
        kinds = labels(classes + 1, size=len(told))  # one class is nowhere
        if len(boxes):
            near = generator.random(len(told)) < 0.7
            at = labels(len(boxes), size=len(told))
            told[near], kinds[near] = boxes[at][near] + generator.integers(0, 3, (near.sum(), 4)), of[at][near]
        found.append(Found(told, kinds, labels(1, 5, size=len(told)) / 5))
    return truths, found


def raster_boxes(generator, number):
    low = generator.integers(0, 5, (number, 2)) * 20.0
    return np.concatenate([low, low + generator.integers(1, 7, (number, 2)) * 20.0], axis=1)


def plain_ap(truths, found, label, least, size):
    """Average precision of a class by COCO's definition, a box and a detection at a time; NaN with nothing to find."""
    shown, wanted = [], 0
    for truth, told in zip(truths, found, strict=True):
        own = [at for at in range(len(truth.labels)) if truth.labels[at] == label]
        counts = {at: not truth.crowds[at] and size[0] <= truth.areas[at] <= size[1] for at in own}
        wanted, taken = wanted + sum(counts.values()), set()
        ours = [at for at in range(len(told.labels)) if told.labels[at] == label]
        for at in sorted(ours, key=lambda one: -told.scores[one]):
            box, area = told.boxes[at], areas_of(told.boxes[at : at + 1])[0]
            overlap = {one: ap.overlaps(box[None], truth.boxes[[one]], truth.crowds[[one]])[0, 0] for one in own}
            free = [one for one in own if (one not in taken or truth.crowds[one]) and overlap[one] >= least]
            free = [one for one in free if counts[one]] or free
            if free:
                best = max(free, key=lambda one: (overlap[one], one))
                taken.add(best)
            if counts[best] if free else size[0] <= area <= size[1]:
                shown.append((told.scores[at], bool(free)))
    if not wanted:
        return np.nan
    right = np.cumsum([hit for _, hit in sorted(shown, key=lambda one: -one[0])])
    precision = right / np.arange(1, len(right) + 1)
    best = [precision[right / wanted >= level].max(initial=0.0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_average_precision_is_that_of_a_plain_search(seed, pictures):
    truths, found = drawn_detections(seed, pictures)
    labels = sorted({int(label) for truth in truths for label in truth.labels})
    if not labels:
        return
    sizes = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
    each = np.array(
        [
            [[plain_ap(truths, found, label, least, size) for label in labels] for least in ap.THRESHOLDS]
            for size in sizes
        ]
    )
    known = ~np.isnan(each)
    counted = known.sum(axis=2)
    means = np.divide(
        np.where(known, each, 0).sum(axis=2), counted, out=np.full(counted.shape, np.nan), where=counted > 0
    )
    expected = [means[0].mean(), means[0, 0], means[0, 5], *means[1:].mean(axis=1)]
    assert plain_figures(DetectionAp(truths, found), pictures) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_only_pictures_that_hold_a_class_are_matched(monkeypatch):
    """Of eighty classes a picture holds a few, and looking at the others took nearly all the time."""
    matched, match = [], ap._match
    monkeypatch.setattr(ap, "_match", lambda *given: matched.append(0) or match(*given))
    truths, found = drawn_detections(0, 40, classes=80)
    DetectionAp(truths, found)
    held = sum(len({*truth.labels.tolist(), *told.labels.tolist()}) for truth, told in zip(truths, found, strict=True))
    assert len(matched) <= held < 80 * 40 / 4  # once for all sizes


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_a_measure_says_what_its_figures_are_about(seed):
    """Alone, an example gives the figures that are about it, and no others."""
    truths, found = drawn_detections(seed, 5)
    if not any(len(truth.labels) for truth in truths):
        return
    kinds, (written, references) = ["a", "b", "a", "c", "b"], recorded_captions()
    entailed = entailed_consistency({"p": True, "q": True, "r": False, "s": True, "t": True}, {"p": ["q"], "r": ["s"]})
    measure = Together(
        Chosen(DetectionAp(truths, found), [0, 3, 5]),
        *(by_kind(np.ones(5), kinds), entailed, captions(written[:5], references[:5])),
    )
    np.testing.assert_array_equal(measure.about(), np.isfinite(measure.figures(np.eye(5))))


def test_a_soft_score_is_the_mean_over_nine_of_ten_people():
    for agreeing in range(11):
        others = [min(sum(nine) / 3, 1) for nine in combinations([1] * agreeing + [0] * (10 - agreeing), 9)]
        assert soft_scores([agreeing])[0] == pytest.approx(np.mean(others))


def test_accuracy_by_kind_and_what_belongs_together():
    kinds = ["open", "binary", "open", "binary"]
    assert [figure.name for figure in kinds_in(kinds)] == ["accuracy", "accuracy_binary", "accuracy_open"]
    measure = by_kind(np.array([1.0, 0.3, 0.0, 1.0]), kinds)
    assert plain_figures(measure, 4) == pytest.approx([2.3 / 4, 0.65, 0.5])
    only_open = measure.figures(np.array([[1.0, 0, 3, 0]]).T)[:, 0]
    assert only_open == pytest.approx([0.25, np.nan, 0.25], nan_ok=True)
    right = {"colour": True, "is red": True, "is blue": False, "wrong": False}
    entailed = {"colour": ["is red", "is blue", "colour"], "is red": ["unknown"], "wrong": ["is red"]}
    assert plain_figures(entailed_consistency(right, entailed), 4) == pytest.approx([0.5])
    sets = set_consistency([True, True, False, True, True], ["a", "a", "b", "b", "b"])
    assert plain_figures(sets, 5) == pytest.approx([0.5])
    assert sets.figures(np.array([[3.0, 3, 1, 1, 1]]).T)[0] == pytest.approx([0.75])


@given(st.integers(0, 1000), st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_recall_is_that_of_a_plain_search(seed, size):
    generator = np.random.default_rng(seed)
    text, image = generator.normal(size=(2, size, 3))
    texts, pictures = generator.integers(0, 12, (2, size))
    image_found, text_found = cross_search(text, image, texts, pictures)
    found = dict(
        zip(
            [figure.name for figure in FIGURES],
            plain_figures(recall(image_found.ranks, text_found.ranks), size),
            strict=True,
        )
    )
    for name, queries, gallery in (("image", text, image), ("text", image, text)):
        for cut in (1, 5, 10):
            hits = []
            for at in range(size):
                best = sorted(range(size), key=lambda other: -float(queries[at] @ gallery[other]))[:cut]
                hits.append(any(texts[one] == texts[at] or pictures[one] == pictures[at] for one in best))
            assert found[f"{name}_r{cut}"] == pytest.approx(np.mean(hits))
        shown = (image_found if name == "image" else text_found).first
        assert shown.tolist() == [
            sorted(range(size), key=lambda other: -float(queries[at] @ gallery[other]))[:5] for at in range(size)
        ]


def test_a_system_that_scores_all_alike_finds_nothing():
    vectors, names = np.ones((12, 2)), np.arange(12)
    assert plain_figures(
        recall(*(one.ranks for one in cross_search(vectors, vectors, names, names))), 12
    ) == pytest.approx([0.0] * 7)


def test_intervals_of_any_metric_cover_units_and_seeds():
    generator = np.random.default_rng(0)
    units = np.repeat(np.arange(60), 3)

    def trained(skill):
        right = generator.random((3, 180)) < skill
        return [
            [WeightedMeans(np.stack([each, each]).astype(float), np.stack([np.ones(180), units == 7]).astype(float))]
            for each in right
        ]

    good, bad = trained(0.8), trained(0.5)
    whole, rare = resample_measures(JudgedExamples(units), {"good": good, "bad": bad}, 300, 0)
    compared = compare_drawn(whole, 60, 0.95)
    assert compared["good"].figure.value == pytest.approx(np.mean([plain_figures(each[0], 180)[0] for each in good]))
    assert compared["bad"].minus_first.high < 0
    plain = np.sqrt(0.8 * 0.2 / 180)
    assert 0.3 * plain < compared["good"].figure.standard_error < 2 * plain
    kept = rare["good"].replicates.shape[1]  # resamples without unit 7 say nothing about it
    assert 0.5 * 300 < kept < 0.75 * 300
    assert np.isfinite(rare["bad"].replicates).all()
    few = resample_measures(JudgedExamples(units[:9]), {"one": [[WeightedMeans(np.ones((1, 9)))]]}, 300, 0)[0]
    assert "3 independent units" in compare_drawn(few, 3, 0.95)["one"].figure.why
