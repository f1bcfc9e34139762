"""Importers on files of a few lines, and one broken file for every rule."""

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from mlim.annotations import json_stream
from mlim.annotations.answers import AnswerSpellings
from mlim.annotations.coco import read_captions, read_instances, read_karpathy
from mlim.annotations.columns import ItemValues, ValueReader, annotate_columns, find_foreground
from mlim.annotations.genome import read_genome
from mlim.annotations.json_stream import entries
from mlim.annotations.lxmert import read_features, read_regions, read_texts
from mlim.annotations.measures import find_items, measure, measure_together
from mlim.annotations.names import Names
from mlim.annotations.pictures import Pictures
from mlim.annotations.priors import Posed, measure_priors
from mlim.annotations.questions import read_gqa, read_scene_graphs, read_vqa
from mlim.annotations.records import Caption, Place, Question, Region, Statement
from mlim.annotations.sources import read_files, read_pairs
from mlim.annotations.statements import read_nlvr2
from mlim.catalog.annotation_rules import AnnotationFiles, AnnotationRules, GenomeFiles
from mlim.catalog.description import CatalogDescription
from mlim.errors import InputError
from mlim.validation import Validation
from tests.small_catalog import described

IMAGES = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 200, "height": 100} for number in (1, 2)]
COCO = {
    "info": {"year": 2017},
    "images": IMAGES,
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 90, "bbox": [20, 10, 100, 50.0], "area": 5000, "iscrowd": 0},
        {"id": 8, "image_id": 2, "category_id": 3, "bbox": [0, 0, 200, 100], "iscrowd": 1,
         "attributes": {"colour": "red"}},
    ],
    "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}],
}  # fmt: skip
CAPTIONS = {"images": IMAGES, "annotations": [{"id": 5, "image_id": 2, "caption": "two cars"}]}
QUESTIONS = {"questions": [{"question_id": 11, "image_id": 1, "question": "what is it?"}]}
ANSWERS = {
    "annotations": [
        {"question_id": 11, "image_id": 1, "question_type": "what is", "answer_type": "other",
         "answers": [{"answer_id": n, "answer": a} for n, a in enumerate(["brush"] * 6 + ["Comb"] * 3 + ["broom"])]},
    ]
}  # fmt: skip
GQA = {
    "201": {
        "imageId": "n1", "question": "Is it red?", "answer": "yes", "entailed": ["201", "202"],
        "types": {"structural": "verify", "detailed": "verifyAttr"},
    },
    "202": {"imageId": "n1", "question": "What colour?", "answer": "red", "types": {"structural": "query"}},
}  # fmt: skip
GRAPHS = {
    "n1": {
        "width": 10, "height": 20,
        "objects": {"1": {"name": "cup", "x": 1, "y": 2, "w": 4, "h": 6, "attributes": ["red"], "relations": []}},
    }
}  # fmt: skip
NLVR2 = {"identifier": "dev-8-0-1", "sentence": "Two.", "label": "True", "left_url": "a/l.jpg", "right_url": "r.png"}
LXMERT_STATEMENT = {"identifier": "dev-8-0-1", "uid": "u", "img0": "x", "img1": "y", "sent": "Two.", "label": 0}
LXMERT_TEXT = {"img_id": "n1", "sentf": {"mscoco": ["a cup"], "vqa": ["is it?"]}, "labelf": {"vqa": [{"yes": 1.0}]}}


def write(path: Path, value: Any, indent: int | None = None) -> Path:
    path.write_text(json.dumps(value, indent=indent))
    return path


def without(value: Any, *keys: Any, change: Any = None) -> Any:
    """A copy in which one inner value is missing, or another."""
    copy = json.loads(json.dumps(value))
    node = copy
    for key in keys[:-1]:
        node = node[key]
    if change is None:
        del node[keys[-1]]
    else:
        node[keys[-1]] = change
    return copy


def test_coco_instances_have_fractions_classes_attributes_and_crowds(tmp_path):
    first, second = read_instances(write(tmp_path / "i.json", COCO))
    assert first.box == pytest.approx((0.1, 0.1, 0.6, 0.6))
    assert (first.label, first.crowd, first.picture) == (
        "toothbrush",
        False,
        Names(("000000000001", "000000000001.jpg"), 1),
    )
    assert (second.attributes, second.crowd) == ((("colour", "red"),), True)


def test_captions_and_lists_of_pairs(tmp_path):
    (caption,) = read_captions(write(tmp_path / "c.json", CAPTIONS))
    assert (caption.caption_id, caption.caption) == ("5", "two cars")
    karpathy = {
        "images": [{"filename": "a.jpg", "cocoid": 9, "split": "restval", "sentences": [{"raw": "hi", "sentid": 1}]}]
    }
    path = write(tmp_path / "k.json", karpathy)
    assert [(found.picture, found.caption) for found in read_karpathy(path)] == [(Names(("a", "a.jpg"), 9), "hi")]
    pairs = write(
        tmp_path / "p.json", [{"image": "b.jpg", "caption": ["one", "two"]}, {"image": "c.jpg", "caption": "x"}]
    )
    assert [found.caption for found in read_pairs(pairs)] == ["one", "two", "x"]


def test_vqa_scores_answers_by_how_many_people_gave_them(tmp_path):
    files = [
        write(tmp_path / name, value) for name, value in (("q", QUESTIONS), ("a", ANSWERS), ("e", {"11": [12, 13]}))
    ]
    (found,) = read_vqa(*files, AnswerSpellings())
    assert found.answers == (("brush", 1.0), ("comb", 0.9), ("broom", 0.3))
    assert (found.kind, found.template, found.entailed) == ("open", "what is", ("12", "13"))


def test_gqa_questions_and_scene_graphs(tmp_path):
    binary, open_ = read_gqa(write(tmp_path / "q.json", GQA))
    assert (binary.kind, binary.template, binary.entailed) == ("binary", "verifyAttr", ("202",))
    assert (open_.kind, open_.answers) == ("open", (("red", 1.0),))
    (region,) = read_scene_graphs(write(tmp_path / "g.json", GRAPHS))
    assert region.box == pytest.approx((0.1, 0.1, 0.5, 0.4))
    assert (region.label, region.attributes) == ("cup", (("", "red"),))


def test_nlvr2_lines(tmp_path):
    (found,) = read_nlvr2(write(tmp_path / "s.jsonl", NLVR2))
    assert found.left == Names(("dev-8-0-img0", "l", "a/l.jpg"))
    assert found.right == Names(("dev-8-0-img1", "r", "r.png"))
    assert (found.label, found.set) == (True, "dev-8-1")


def test_visual_genome(tmp_path):
    thing = {"object_id": 4, "x": 1, "y": 2, "w": 4, "h": 6, "names": ["Cup"]}
    files = GenomeFiles(
        images=write(tmp_path / "i", [{"image_id": 1, "width": 10, "height": 20, "url": "http://x/VG_100K/1.jpg"}]),
        objects=write(tmp_path / "o", [{"image_id": 1, "objects": [thing]}]),
        attributes=write(tmp_path / "a", [{"image_id": 1, "attributes": [{**thing, "attributes": ["red "]}]}]),
        regions=write(tmp_path / "r", [{"id": 1, "regions": [{"region_id": 3, "image_id": 1, "phrase": "a red cup"}]}]),
        questions=write(tmp_path / "q", [{"id": 1, "qas": [{"qa_id": 2, "question": "How many?", "answer": "2."}]}]),
    )
    region, caption, question = read_genome(files, AnswerSpellings())
    assert (region.label, region.attributes, region.box) == ("cup", (("", "red"),), pytest.approx((0.1, 0.1, 0.5, 0.4)))
    assert (caption.caption, question.kind, question.template) == ("a red cup", "number", "how")


def tsv_row(**changes: str) -> str:
    def packed(values: Any, kind: str) -> str:
        return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()

    cells = {
        "img_id": "n1", "img_h": "100", "img_w": "200", "objects_id": packed([1, 0], "<i8"),
        "objects_conf": packed([0.5, 0.25], "<f4"), "attrs_id": packed([0, 0], "<i8"),
        "attrs_conf": packed([1, 1], "<f4"), "num_boxes": "2",
        "boxes": packed([[0, 0, 100, 50], [50, 25, 200, 100]], "<f4"), "features": packed(np.ones((2, 9000)), "<f4"),
    } | changes  # fmt: skip
    return "\t".join(cells.values()) + "\n"


def test_lxmert_regions_and_texts(tmp_path):
    path, names = tmp_path / "f.tsv", tmp_path / "names.txt"
    path.write_text(tsv_row() * 2)
    names.write_text("cup,mug\nplate\n")
    found = list(read_features(path))
    assert [entry.place.row for entry in found] == [1, 2]
    assert found[0].features.shape == (2, 9000)
    first, second = list(read_regions(path, labels=names))[:2]
    assert (first.label, first.score, first.box) == ("plate", 0.5, (0.0, 0.0, 0.5, 0.5))
    assert (second.label, second.attributes) == ("cup", (("", "0"),))
    statement = {"identifier": "dev-8-0-1", "uid": "u", "img0": "x", "img1": "y", "sent": "Two.", "label": 0}
    question = {"question_id": 3, "img_id": "n1", "sent": "how many?", "label": {"2": 1, "3": 0.3}}
    caption, asked, stated, posed = read_texts(write(tmp_path / "t.json", [LXMERT_TEXT, statement, question]))
    assert (caption.caption, asked.answers, stated.label, stated.set) == ("a cup", (("yes", 1.0),), False, "dev-8-1")
    assert (posed.kind, posed.answers) == ("number", (("2", 1.0), ("3", 0.3)))
    assert stated.statement_id == "dev-8-0-1"  # as NLVR2 names it, not LXMERT's uid


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"label": {"many": 1}, "answer_type": "number", "question_type": "how"}, ("number", "how", False)),
        ({"label": {"2": 1}, "answer_type": "other"}, ("open", "other", False)),
        ({"label": {"yes": 1}, "answer_type": None}, ("binary", "binary", False)),
        ({"label": {}, "answer_type": "yes/no"}, ("binary", "yes/no", True)),
        ({"answer_type": "yes/no"}, ("binary", "yes/no", False)),
    ],
)
def test_lxmerts_questions_have_the_kind_that_they_say(tmp_path, told, expected):
    entry = {"question_id": 3, "img_id": "n1", "sent": "how many?", **told}
    (found,) = read_texts(write(tmp_path / "t.json", [entry]))
    assert (found.kind, found.template, found.outside) == expected


def test_what_an_entry_lacks_costs_that_entry_alone(tmp_path):
    gqa = {"1": {"imageId": "n1", "question": "Is it?"}, "2": {"imageId": "n1", "question": "Is it?", "answer": "Yes"}}
    bare, answered = read_gqa(write(tmp_path / "q.json", gqa))
    assert (bare.answers, bare.kind) == ((), "open")
    assert (answered.answers, answered.kind, answered.template) == ((("yes", 1.0),), "binary", "binary")
    box = {"x": 1, "y": 2, "w": 4, "h": 6, "names": ["Cup"]}
    kept = [{"object_id": 4, "attributes": None}, {"object_id": 5}, {"object_id": 6, "attributes": ["Red"]}]
    files = GenomeFiles(
        images=write(tmp_path / "i", [{"image_id": 1, "width": 10, "height": 20}]),
        objects=write(tmp_path / "o", [{"image_id": 1, "objects": [{"object_id": n, **box} for n in (4, 5, 6)]}]),
        attributes=write(tmp_path / "a", [{"image_id": 1, "attributes": kept}]),
    )
    found = list(read_genome(files, AnswerSpellings()))
    assert [region.attributes for region in found] == [(), (), (("", "red"),)]
    assert {region.picture for region in found} == {Names(("1",))}


def test_regions_that_a_detector_found_are_no_annotations_unless_asked_for(tmp_path):
    (tmp_path / "f.tsv").write_text(tsv_row())
    files = {"lxmert": {"features": str(tmp_path / "f.tsv")}}
    assert not list(read_files(AnnotationFiles.model_validate(files)))
    files["lxmert"]["boxes"] = True
    assert len(list(read_files(AnnotationFiles.model_validate(files)))) == 2


BROKEN = [
    (read_instances, without(COCO, "annotations", 0, "bbox"), "`annotations`[0]: has no `bbox`"),
    (read_instances, without(COCO, "annotations", 1, "bbox", change=[1, 2, 3]), "it has 3 numbers"),
    (read_instances, without(COCO, "annotations", 1, "bbox", change=[1, 2, 3, "x"]), "`bbox` must be a number"),
    (read_instances, without(COCO, "annotations", 0, "image_id", change=5), "`image_id` 5 is not among"),
    (read_instances, without(COCO, "annotations", 0, "category_id", change=5), "`category_id` 5 is not among"),
    (read_instances, without(COCO, "images", 0, "width", change=-1), "`width` must be above 0"),
    (read_instances, without(COCO, "annotations"), "has no entries in `annotations`"),
    (read_captions, without(CAPTIONS, "annotations", 0, "image_id", change=5), "`image_id` 5 is not among"),
    (read_captions, without(CAPTIONS, "annotations", 0, "caption", change=5), "`caption` must be a text, it is 5"),
    (read_gqa, without(GQA, "201", "types", change=[1]), "`types` must be an object"),
    (read_scene_graphs, without(GRAPHS, "n1", "width", change=-1), "must be above 0"),
    (read_scene_graphs, without(GRAPHS, "n1", "objects", "1", "h"), "has no `h`"),
    (read_nlvr2, without(NLVR2, "identifier", change="x"), "must be SPLIT-SET-PAIR-SENTENCE"),
    (read_nlvr2, without(NLVR2, "label", change="maybe"), "must be True or False"),
    (read_nlvr2, {**NLVR2, "middle_url": "m.png"}, "a statement is about two pictures, left_url and right_url"),
    (read_nlvr2, {**NLVR2, "left_url": ["a.png", "b.png"]}, "`left_url` must be a text"),
    (read_texts, [{**LXMERT_STATEMENT, "img2": "z"}], "a statement is about two pictures, img0 and img1"),
    (read_texts, [without(LXMERT_TEXT, "labelf", "vqa", change=[])], "has 0 answers for 1 sentences"),
    (read_texts, [1], "entry 0: must be an object, it is 1"),
    (read_texts, [without(LXMERT_TEXT, "labelf", "vqa", change=1)], "`labelf.vqa` must be a list, it is 1"),
    (read_karpathy, {"images": [["x"]]}, "must be an object"),
    (read_pairs, [{"image": "x"}], "has no `caption`"),
    (read_pairs, ["x"], "must be an object"),
    (read_karpathy, {"images": [{"filename": "x", "sentences": [{"raw": "x"}]}]}, "has no `sentid`"),
]


@pytest.mark.parametrize(("read", "value", "problem"), BROKEN)
def test_a_broken_entry_is_refused_with_file_and_line(tmp_path, read, value, problem):
    with pytest.raises(InputError) as refused:
        list(read(write(tmp_path / "broken.json", value)))
    assert problem in str(refused.value)
    assert "broken.json" in str(refused.value)


def test_answers_to_unknown_questions_and_of_unknown_types_are_refused(tmp_path):
    questions = write(tmp_path / "q", QUESTIONS)
    for change, problem in (({"question_id": 9}, "9 is not among"), ({"answer_type": "x"}, "must be one of yes/no")):
        answers = write(tmp_path / "a", {"annotations": [{**ANSWERS["annotations"][0], **change}]})
        with pytest.raises(InputError, match=problem):
            list(read_vqa(questions, answers, None, AnswerSpellings()))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a\tb\n", "must have 10 columns between tabs, it has 2"),
        (tsv_row(img_h="x"), "`img_h` must be a whole number above 0"),
        (tsv_row(boxes="?"), "`boxes` is not base64"),
        (tsv_row(boxes="AAAA"), "`boxes` has 3 bytes"),
        (tsv_row(num_boxes="3"), "`boxes` has 32 bytes"),
    ],
)
def test_a_broken_line_of_regions_is_refused_with_its_number(tmp_path, row, problem):
    (tmp_path / "f.tsv").write_text(tsv_row() + row)
    with pytest.raises(InputError, match="line 2") as refused:
        list(read_features(tmp_path / "f.tsv"))
    assert problem in str(refused.value)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_json_is_read_in_pieces_of_any_size(monkeypatch, tmp_path, piece):
    monkeypatch.setattr(json_stream, "READ_CHARACTERS", piece)
    path = write(tmp_path / "f.json", {"n": 12345, "list": [1, {"a": "é]"}, 23], "empty": []}, indent=1)
    found = [(entry.key, entry.number, entry.value, entry.place.row) for entry in entries(path)]
    assert found == [("n", 0, 12345, 2), ("list", 0, 1, 4), ("list", 1, {"a": "é]"}, 5), ("list", 2, 23, 8)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1,\n2", "line 2: needs a comma or ]"),
        ('{"a":\n[1,\nx]}', "line 3: is not JSON"),
        ("x", "must begin with"),
        ("[1] 2", "something after its end"),
        ('{"a" 1}', "an object needs"),
    ],
)
def test_broken_json_is_refused_with_its_line(tmp_path, text, problem):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputError) as refused:
        list(entries(tmp_path / "f.json"))
    assert problem in str(refused.value)


PLACE = Place("f", 1)
A, B, C = Names(("a",)), Names(("b",)), Names(("c",))
BAD = {
    "unknown-picture": Caption(PLACE, Names(("?",)), "1", "x"),
    "box-outside": Region(PLACE, A, (0.5, 0, 1.5, 1), "cup"),
    "box-too-small": Region(PLACE, A, (0.5, 0.5, 0.501, 0.501), "cup"),
    "no-label": Region(PLACE, A, (0, 0, 1, 1), " "),
    "no-text": Caption(PLACE, A, "1", " ?! "),
    "no-answer": Question(PLACE, A, "1", "what?", (), "open", "t"),
    "bad-score": Question(PLACE, A, "1", "what?", (("x", 1.5),), "open", "t"),
    "two-splits": Statement(PLACE, A, C, "1", "x", True, "both"),
    "rare-label": Region(PLACE, A, (0, 0, 1, 1), "plate"),
    "one-sided": Statement(PLACE, A, B, "2", "y", True, "lonely"),
}
GOOD = [
    Region(PLACE, A, (0, 0, 1, 1), "cup"),
    Question(PLACE, B, "1", "what?", (("x", 1.0),), "open", "t"),
    Statement(PLACE, A, B, "3", "x", False, "both"),
    Statement(PLACE, B, A, "4", "x", True, "both"),
]


def test_an_id_that_comes_again_is_rejected_with_its_table_and_the_labels_of_accepted_statements_count():
    pictures = Pictures({"a": "train", "b": "train"}, {})
    annotations = [
        Question(PLACE, A, "1", "what?", (("x", 1.0),), "open", "t"),
        Caption(PLACE, A, "1", "x"),
        Caption(PLACE, B, "1", "x"),  # a caption is named within its picture
        Statement(PLACE, A, B, "1", "x", True, "s"),
        Statement(PLACE, A, B, "1", "x", False, "s"),  # so that `s` has one label
        Region(PLACE, A, (0, 0, 1, 1), "cup"),
        Region(PLACE, A, (0, 0, 1, 1), "cup"),
    ]
    found, taken = [find_items(annotation, pictures) for annotation in annotations], set[int]()
    first = measure_together(found, taken)
    assert first["id_new"].fillna(-1).tolist() == [1, 1, 1, 1, 0, -1, -1]
    assert first["set_labels"].fillna(-1).tolist() == [-1, -1, -1, 1, -1, -1, -1]
    assert measure_together(found, taken)["id_new"].fillna(-1).tolist() == [0, 0, 0, 0, 0, -1, -1]


def test_a_question_whose_answer_is_no_class_is_judged_where_nothing_is_learned():
    pictures = Pictures({"a": "train", "c": "test"}, {})
    asked = [
        Question(PLACE, on, "1", "what?", (), "open", "t", outside=known) for on in (A, C) for known in (True, False)
    ]
    measured = measure([find_items(one, pictures) for one in asked], pictures, "train")
    assert measured["answers"].fillna(-1).tolist() == [0, 0, -1, 0]


def test_the_suite_rejects_each_kind_of_bad_annotation_and_no_other(tmp_path):
    """Each by itself, then those that are left together: `both` is said of an accepted statement alone."""
    pictures = Pictures({"a": "train", "b": "train", "c": "test"}, {})
    check = Validation(tmp_path).start("annotations")
    found = [find_items(annotation, pictures) for annotation in (*BAD.values(), *GOOD)]
    parameters = {"min_box_area": 0.001, "min_known_share": 0.5}
    rejected: dict[int, str] = {}
    alone = dict(enumerate(found))
    for measured in (lambda few: measure(few, pictures, "train", {"cup"}), lambda few: measure_together(few, set())):
        places = [row for row in alone if row not in rejected]
        for rejection in check.rows(measured([alone[row] for row in places]), parameters):
            for row in rejection.rows.tolist():
                rejected.setdefault(places[row], rejection.id)
    check.whole(pd.DataFrame({"is_known": [0.4]}), parameters)
    findings = check.findings()
    codes = {finding.id: finding.code for finding in findings}
    assert [codes[rejected[row]] for row in sorted(rejected)] == list(BAD)
    assert len(found) - len(rejected) == len(GOOD)
    assert [finding.success for finding in findings if not finding.row_level] == [False]


def test_priors_learn_from_train_alone_and_by_the_words():
    train = [Posed("open", "colour", "what colour?", {"red": 1.0})] * 3 + [
        Posed("binary", "is", "is it?", {"yes": 1.0})
    ]
    judged = [Posed("open", "colour", "what colour?", {"red": 0.3}), Posed("binary", "is", "new?", {"no": 1.0})]
    priors = measure_priors(train, judged)
    assert priors["all"] == (2, 0.15, 0.15)
    assert priors["kind/binary"] == priors["template/is"] == (1, 0.0, 0.0)


def test_columns_ask_tell_and_verify_half_of_the_time_with_a_wrong_value():
    rules = AnnotationRules.model_validate(
        {
            "questions": [{"column": "colour", "ask": "what colour?", "verify": "is it {value}?"}],
            "captions": ["title", "{colour} {title}"],
        }
    )
    items = [
        ItemValues(row, f"i{row}", {"colour": ("red", "blue", "green")[row % 3], "title": "mug"})
        for row in range(1, 401)
    ]
    found = list(annotate_columns(rules, [*items, ItemValues(999, "none", {})], 0, Counter()))
    verified = [entry for entry in found if isinstance(entry, Question) and entry.kind == "binary"]
    assert len(verified) == 400
    assert sum(entry.answers[0][0] == "yes" for entry in verified) == pytest.approx(200, abs=40)
    true = {item.id: item.values["colour"] for item in items}
    assert all((true[entry.picture.first] in entry.question) == (entry.answers[0][0] == "yes") for entry in verified)
    assert [entry.caption for entry in found if isinstance(entry, Caption)][:2] == ["mug", "blue mug"]


def stored(row, **cells):
    """An item as index.parquet has it."""
    return {"id": f"i{row}", "attributes": json.dumps({"title": cells.pop("title", "mug")}), "facts": json.dumps(cells)}


def test_columns_are_told_as_the_catalog_compares_them():
    """A value has one spelling, n/a is none, and markup is no word; else a question about `RED` is answered wrongly."""
    rules = {
        "questions": [{"column": "colour", "ask": "what colour?", "verify": "is it {value}?"}],
        "captions": ["title", "{size.eu} of {colour}"],
    }
    description = CatalogDescription.model_validate(described(annotations=rules))
    cells = [{"colour": ("Red", "red ", "RED", "blue", "n/a")[row % 5], "size.eu": "40"} for row in range(100)]
    items = [stored(row, title="<b>mug</b> &amp; cup", **values) for row, values in enumerate(cells)]
    reader = ValueReader(description.annotations, description)
    found = list(
        annotate_columns(
            description.annotations, [reader.read(*numbered) for numbered in enumerate(items)], 0, Counter()
        )
    )
    asked = [entry for entry in found if isinstance(entry, Question) and entry.kind != "binary"]
    assert Counter(entry.answers[0][0] for entry in asked) == {"red": 60, "blue": 20}
    for entry in found:
        if isinstance(entry, Question) and entry.kind == "binary":
            row = int(entry.picture.first.removeprefix("i"))
            assert (entry.answers[0][0] == "yes") == ((cells[row]["colour"] == "blue") == ("blue" in entry.question))
    captions = Counter(entry.caption for entry in found if isinstance(entry, Caption))
    assert captions == {"mug & cup": 100, "40 of Red": 60, "40 of blue": 20}


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({"captions": ["{title"]}, "write {{ and }} for braces of the text itself"),
        ({"captions": ["a {} mug"]}, "between braces stands the name of a column"),
        ({"captions": ["{title:5d}"]}, "between braces stands the name of a column"),
        ({"questions": [{"column": "colour", "ask": "?", "verify": "is it red?"}]}, "has no {value} to ask about"),
        (
            {"questions": [{"column": "colour", "ask": "?", "verify": "is it {value} ({unit})?"}]},
            "{value} is all that can stand between braces",
        ),
    ],
)
def test_texts_with_other_braces_are_refused(rules, problem):
    with pytest.raises(ValidationError, match=re.escape(problem)):
        AnnotationRules.model_validate(rules)


def test_columns_that_decide_pairs_are_refused_unless_they_may_be_told():
    rules = {"captions": ["{pattern} {title}"], "questions": [{"column": "size", "ask": "how large?"}]}
    problems = list(AnnotationRules.model_validate(rules).problems(("pattern", "size")))
    assert [problem.split("`")[1] for problem in problems] == ["size", "pattern"]
    told = AnnotationRules.model_validate(rules | {"may_tell": ["pattern", "size"]})
    assert not list(told.problems(("pattern", "size")))


def test_the_foreground_is_what_differs_from_a_plain_border(jpeg):
    plain = np.full((60, 100, 3), 230, dtype=np.uint8)
    plain[15:45, 20:80] = (200, 30, 30)
    assert find_foreground(jpeg(plain)) == pytest.approx((0.2, 0.25, 0.8, 0.75), abs=0.03)
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    assert find_foreground(jpeg(noise)) is None
    assert find_foreground(jpeg(np.full((60, 100, 3), 230, dtype=np.uint8))) is None
    rules, unboxed = AnnotationRules.model_validate({"regions": {"label": "kind"}}), Counter[str]()
    shown = [(plain, "mug"), (noise, "mug"), (plain, "")]
    items = [ItemValues(n, str(n), {"kind": kind} if kind else {}, jpeg(each)) for n, (each, kind) in enumerate(shown)]
    assert [region.picture for region in annotate_columns(rules, items, 0, unboxed)] == [Names(("0",))]
    assert unboxed == {"no-foreground": 1, "no-label": 1}


@pytest.fixture
def jpeg():
    import io

    from PIL import Image

    def encode(pixels: Any) -> bytes:
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "JPEG", quality=95)
        return target.getvalue()

    return encode
