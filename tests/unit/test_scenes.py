"""Scenes: what is drawn, where its boxes are, what its questions and statements give away."""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mlim.catalog.description import load_description
from mlim.catalog.pair_rules import PairRules
from mlim.console import Terminal
from mlim.embedded import render as rendering
from mlim.embedded.render import render_all
from mlim.embedded.scenes.facts import Difficulty, draw_scenes
from mlim.embedded.scenes.generate import Drawn, measure_ceilings, plan_scenes, synthesize_scenes
from mlim.embedded.scenes.words import NOUNS
from mlim.errors import InputError
from mlim.pairs.splits import split_pairs
from mlim.recipe.data import PairsConfig

QUIET = Terminal(quiet=True)
SIDE = 64


@pytest.fixture(scope="module")
def made() -> Drawn:
    return plan_scenes(400, 1, Difficulty())


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_arguments_give_equal_bytes_and_the_description_can_be_read(tmp_path):
    for name in ("a", "b"):
        synthesize_scenes(tmp_path / name, 16, 3, 16, 1, QUIET, Difficulty(32, 14, 3, crowded=True))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    description = load_description(tmp_path / "a" / "catalog.yaml")
    assert description.pairs.none
    assert description.columns.split == "split"
    assert description.annotations.files.vqa[0].answers == tmp_path / "a" / "annotations" / "answers.json"


def test_a_larger_catalog_begins_with_the_same_scenes():
    assert list(draw_scenes(20, 0, Difficulty()))[:8] == list(draw_scenes(8, 0, Difficulty()))


@pytest.mark.parametrize("crowded", [False, True])
def test_boxes_are_the_extents_of_what_is_painted_to_a_pixel(monkeypatch, crowded):
    """Without shadows and noise, what differs from the empty background is the product."""
    for name in ("SHADOW", "CONTACT", "SENSOR_NOISE"):
        monkeypatch.setattr(rendering, name, 0.0)
    for scene in list(draw_scenes(40, 2, Difficulty(32, 14, 1, crowded)))[:16]:
        (look,), (thing,) = scene.looks, scene.objects
        away = look._replace(view=look.view._replace(offset=(9.0, 9.0)))
        with_it, without = (np.asarray(render_all([given], SIDE), dtype=int) for given in (look, away))
        rows, columns = np.nonzero(np.abs(with_it - without).max(axis=2) > 0)
        painted = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(painted - np.array(thing.box) * SIDE).max() <= 1.5


def test_products_of_a_crowded_scene_that_are_hidden_are_no_objects():
    scenes = list(draw_scenes(20, 0, Difficulty(12, 8, 6, crowded=True)))
    assert any(len(scene.objects) < len(scene.looks) for scene in scenes)
    assert all(scene.objects for scene in scenes)


def test_every_value_is_as_frequent_as_another():
    things = [thing for scene in draw_scenes(500, 0, Difficulty()) for thing in scene.objects]
    for name, known in (("product", 12), ("colour", 8), ("pattern", 5)):
        counts = Counter(getattr(thing, name) for thing in things)
        assert len(counts) == known
        assert max(counts.values()) < 1.6 * min(counts.values())


def test_words_of_questions_tell_little(made):
    split_of = {scene.number: scene.split for scene in made.scenes}
    answers = defaultdict(Counter)
    for number, asked in made.asked:
        subject = asked.fields.get("product", "") if asked.template.kind == "binary" else ""
        answers[split_of[number], asked.template.kind, asked.template.name, subject][asked.answer] += 1
    assert {key[1] for key in answers} == {"binary", "number", "open"}
    for (_, kind, _, _), counts in answers.items():
        if kind == "binary":
            assert counts["yes"] == counts["no"]
        elif kind == "number":
            assert len(set(counts.values())) == 1
        else:
            assert max(counts.values()) <= 2 * min(counts.values())


def test_a_reader_of_the_facts_is_always_right_and_one_of_words_is_not(made):
    ceilings = measure_ceilings(made)
    assert ceilings["questions_facts"] == ceilings["statements"]["facts"] == 1
    assert ceilings["questions"]["kind/binary"]["majority"] == 0.5
    assert ceilings["questions"]["all"]["words"] < 0.5


def test_each_sentence_is_true_of_two_pairs_of_its_split_and_false_of_two(made):
    assert all(made.stated.values())
    for split, sentences in made.stated.items():
        for sentence in sentences:
            assert sorted(truth for _, _, truth in sentence.pairs) == [False, False, True, True]
            assert {scene.split for left, right, _ in sentence.pairs for scene in (left, right)} == {split}


def test_the_first_caption_names_every_product(made):
    for scene, captions in zip(made.scenes, made.captions, strict=True):
        assert len(captions) >= 4
        assert all(NOUNS[thing.product].rstrip("f") in captions[0] for thing in scene.objects)


def test_files_have_the_public_layouts(tmp_path):
    synthesize_scenes(tmp_path / "c", 40, 0, 32, 1, QUIET, Difficulty())
    read = {path.stem: path.read_text() for path in (tmp_path / "c" / "annotations").iterdir()}
    instances, answers, questions = (json.loads(read[name]) for name in ("instances", "answers", "questions"))
    known = {image["id"] for image in instances["images"]}
    assert all(set(entry["attributes"]) == {"colour", "pattern", "material"} for entry in instances["annotations"])
    assert {entry["image_id"] for entry in instances["annotations"]} <= known
    ids = [entry["question_id"] for entry in questions["questions"]]
    assert ids == [entry["question_id"] for entry in answers["annotations"]]
    assert all(len(entry["answers"]) == 10 for entry in answers["annotations"])
    assert {int(place) for place in json.loads(read["entailed"])} <= set(ids)
    assert json.loads(read["statements"].splitlines()[0])["label"] in ("True", "False")
    assert yaml.safe_load((tmp_path / "c" / "catalog.yaml").read_text())["pairs"] == "none"


def test_impossible_requests_are_refused_all_at_once(tmp_path):
    with pytest.raises(InputError) as refused:
        synthesize_scenes(tmp_path / "x", 1, 0, 2, 1, QUIET, Difficulty(99, 1, 0))
    assert len(refused.value.problems) == 5


def test_given_splits_are_kept_and_copies_of_a_picture_stay_together():
    """A picture that its maker put into train and test is tested on, not trained on."""
    items = pd.DataFrame({"id": list("dcba"), "family": None, "image_sha256": ["x", "y", "z", "x"]})
    none = pd.DataFrame({"item_a": [], "item_b": [], "label": pd.Series([], dtype=int), "kind": []})
    given = ["train", "train", "validation", "test"]
    made = split_pairs(items, none, PairsConfig(), 0, PairRules(none=True), given=given)
    assert dict(zip(made.items["id"], made.items["split"], strict=True)) == {
        "a": "test", "b": "validation", "c": "train", "d": "test",
    }  # fmt: skip
    assert made.pairs.empty
