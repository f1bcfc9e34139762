"""`mlim annotate` on files of a few entries: what is kept, what is quarantined with which code, what is refused."""

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mlim.annotations.tables import load_questions, load_statements, read_table
from mlim.errors import InputError
from mlim.files import MARKER, read_json
from mlim.steps import annotate as step
from mlim.workspace import Workspace

ITEMS = {"t1": "train", "t2": "train", "v1": "validation", "e1": "test"}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path / "work")
    made.pairs.mkdir(parents=True)
    (made.root / MARKER).touch()
    pq.write_table(pa.table({"id": list(ITEMS), "split": list(ITEMS.values())}), made.pairs / "items.parquet")
    return made


@pytest.fixture
def annotated(tmp_path, workspace, tiny_recipe, quiet):
    """Runs the step on `files`, each a value that is written as JSON under its name."""

    def run(names: dict, values: dict | None = None, if_any: bool = False, **rules) -> dict:
        for name, value in (values or {}).items():
            text = value if isinstance(value, str) else json.dumps(value)
            (tmp_path / name).write_text(text)
        described = {
            **{"table": "none.csv", "images": ".", "pairs": "none"},
            "columns": {"id": "id", "image": "image", "text": ["title"]},
            "annotations": {"files": names, **rules},
        }
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(described))
        return step.annotate(tiny_recipe, tmp_path / "catalog.yaml", workspace, quiet, if_any)

    return run


def asked(*pictures: str, first: int = 1) -> list[dict]:
    """LXMERT's questions, one of each picture."""
    return [
        {"question_id": first + place, "img_id": picture, "sent": "what?", "label": {"cup": 1}}
        for place, picture in enumerate(pictures)
    ]


def boxes(*labels: str, picture: str = "t1") -> dict:
    """COCO's boxes of one picture."""
    names = sorted({*labels})
    return {
        "images": [{"id": 1, "file_name": f"{picture}.jpg", "width": 10, "height": 10}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": names.index(label), "bbox": [0, 0, 5, 5]}
            | {"attributes": {"shape": f"shape {min(place, 2)}"}}
            for place, label in enumerate(labels)
        ],
    }


def quarantined(workspace: Workspace) -> list[dict]:
    return pq.read_table(workspace.annotations / "quarantine.parquet").to_pylist()


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_file_that_is_named_twice_is_counted_once(annotated, workspace, monkeypatch, chunk):
    monkeypatch.setattr(step, "CHUNK", chunk)
    captions = {**boxes("cup"), "annotations": [{"id": 1, "image_id": 1, "caption": "a cup"}]}
    stated = [
        {
            "identifier": f"s-0-{pair}-0",
            "sentence": "x",
            "label": str(not pair),
            "left_url": "t1.jpg",
            "right_url": "t2",
        }
        for pair in (0, 1)
    ]
    files = {
        "q.json": asked("t1", "e1"),
        "c.json": captions,
        "s.json": "".join(f"{json.dumps(one)}\n" for one in stated),
    }
    summary = annotated(
        {"lxmert": {"texts": ["q.json", "q.json"]}, "captions": ["c.json"] * 2, "statements": ["s.json"] * 2}, files
    )
    assert summary["quarantined"] == {"repeated-id": 5}
    assert [row["reason"] for row in quarantined(workspace)] == ["repeated-id"] * 5
    assert {row["id"] for row in quarantined(workspace)} == {"t1", "e1", "s-0-0-img0", "s-0-1-img0"}
    assert [row.question_id for split in ("train", "test") for row in load_questions(workspace.annotations, split)] == [
        *("1", "2")
    ]
    assert len(load_statements(workspace.annotations, "train")) == 2
    assert {name: sum(by.values()) for name, by in summary["counts"].items()} == {
        **{"regions": 0, "captions": 1, "questions": 2, "statements": 2}
    }


def test_an_id_is_taken_by_the_first_annotation_that_is_kept(annotated, workspace):
    """The question of a picture that the catalog does not have takes nothing from the one that it has."""
    files = {"bad.json": asked("elsewhere"), "good.json": asked("t1"), "again.json": asked("t2")}
    summary = annotated({"lxmert": {"texts": list(files)}}, files, limits={"max_unknown_share": 1})
    assert summary["quarantined"] == {"repeated-id": 1, "unknown-picture": 1}
    assert [row.id for row in load_questions(workspace.annotations, "train")] == ["t1"]


def test_a_sentence_whose_other_label_is_rejected_is_one_sided(annotated):
    def stated(pair: int, label: bool, left: str) -> str:
        line = {"identifier": f"s-0-{pair}-0", "sentence": "x", "label": str(label)}
        return json.dumps({**line, "left_url": f"{left}.jpg", "right_url": "t2.jpg"}) + "\n"

    lines = stated(0, True, "t1") + stated(1, False, "elsewhere")
    summary = annotated({"statements": "s.json"}, {"s.json": lines})
    assert summary["quarantined"] == {"one-sided": 1, "unknown-picture": 1}


def test_questions_without_a_known_answer_are_judged_but_not_learned(annotated, workspace):
    outside = [{**one, "label": {}, "answer_type": "number"} for one in asked("t1", "v1", "e1", first=5)]
    missing = [{key: value for key, value in one.items() if key != "label"} for one in asked("e1", first=9)]
    summary = annotated({"lxmert": {"texts": "q.json"}}, {"q.json": [*asked("t1"), *outside, *missing]})
    assert summary["quarantined"] == {"no-answer": 2}
    assert summary["unanswerable"] == {"validation": 1, "test": 1}
    (kept,) = load_questions(workspace.annotations, "test")
    assert (kept.question_id, kept.answers, kept.kind) == ("7", {}, "number")
    assert summary["priors"]["all"] == {"questions": 1, "majority": 0.0, "words": 0.0}


def test_only_the_most_frequent_labels_and_attributes_are_kept(annotated, workspace):
    files = {"t.json": boxes(*["cup"] * 3, *["bag"] * 2, "plate"), "e.json": boxes(*["plate"] * 4, "bag", picture="e1")}
    limits = {"labels": 2, "attributes": 1}
    summary = annotated({"instances": list(files)}, files, limits=limits)
    assert summary["quarantined"] == {"rare-label": 5}
    assert "label plate" in quarantined(workspace)[0]["detail"]
    names = read_json(workspace.annotations / "vocabularies.json")
    assert (names["labels"], names["attributes"]) == (["cup", "bag"], {"shape": ["shape 2"]})
    assert names["counts"]["labels"] == {"cup": 3, "bag": 2}
    assert set(read_table(workspace.annotations, "regions")["label"].to_pylist()) == {"cup", "bag"}
    assert annotated({"instances": list(files)})["quarantined"] == {}
    names = read_json(workspace.annotations / "vocabularies.json")
    assert names["labels"] == ["cup", "bag", "plate"]


def test_a_catalog_with_regions_of_a_detector_alone_has_no_annotations(annotated, workspace, tmp_path):
    def packed(values, kind: str) -> str:
        return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()

    whole, one = packed([[0, 0, 10, 10]], "<f4"), packed([1], "<f4")
    cells = ["t1", "10", "10", packed([1], "<i8"), one, packed([1], "<i8"), one, "1", whole, one]
    features = {"f.tsv": "\t".join(cells) + "\n"}
    with pytest.raises(
        InputError, match=r"catalog.yaml: nothing that the section `annotations` names is an annotation"
    ):
        annotated({"lxmert": {"features": "f.tsv"}}, features)
    assert not workspace.annotations.exists()
    assert annotated({"lxmert": {"features": "f.tsv"}}, if_any=True)["counts"]["regions"]["train"] == 0
    assert annotated({"lxmert": {"features": "f.tsv", "boxes": True}})["counts"]["regions"]["train"] == 1


def test_a_picture_that_two_items_may_be_is_refused(annotated, workspace, tmp_path):
    items = ["COCO_val2014_000000000007", "000000000007"]
    pq.write_table(pa.table({"id": items, "split": ["train"] * 2}), workspace.pairs / "items.parquet")
    files = {"c.json": boxes("cup", picture="COCO_train2014_000000000007")}
    with pytest.raises(InputError, match=r"c.json: line 1: the picture `COCO_train2014_000000000007` may be item"):
        annotated({"instances": "c.json"}, files)
    assert not workspace.annotations.exists()


def test_rejected_annotations_are_written_as_they_come(annotated, workspace, monkeypatch):
    """What is held at a time is a chunk, however many are rejected."""
    held, write = [], step.QuarantineWriter.add

    def add(self, row):
        held.append(len(held))
        return write(self, row)

    monkeypatch.setattr(step, "CHUNK", 3)
    monkeypatch.setattr(step.QuarantineWriter, "add", add)
    conclude = step._Judge.conclude
    monkeypatch.setattr(step._Judge, "conclude", lambda judge: (held.append("concluded"), conclude(judge))[1])
    summary = annotated({"lxmert": {"texts": "q.json"}}, {"q.json": asked(*["elsewhere"] * 7, "t1")},
                        limits={"max_unknown_share": 1})  # fmt: skip
    assert held == [*range(7), "concluded"]
    assert summary["quarantined"] == {"unknown-picture": 7}
    assert [Path(row["source"]).name for row in quarantined(workspace)] == ["q.json"] * 7
