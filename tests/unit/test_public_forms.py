"""Results in the forms of public data sets name pictures and statements as these do."""

import json

import pandas as pd

from mlim.annotations.lxmert import read_texts
from mlim.steps.public_forms import write_public_forms


def test_captions_have_cocos_numbers(tmp_path):
    items = ["COCO_val2014_000000391895", "000000391896", "42", "s000001"]
    scores = pd.DataFrame({"id": items, "written": ["a"] * len(items), "split": "test"})
    write_public_forms(tmp_path, "caption", scores)
    found = json.loads((tmp_path / "coco_captions.json").read_text())
    assert [one["image_id"] for one in found] == [391895, 391896, 42, "s000001"]


def test_statements_of_lxmerts_files_are_named_as_nlvr2_names_them(tmp_path):
    entry = {"identifier": "dev-8-0-1", "uid": "nlvr2_dev_7", "img0": "x", "img1": "y", "sent": "Two.", "label": 0}
    (tmp_path / "s.json").write_text(json.dumps([entry]))
    (stated,) = read_texts(tmp_path / "s.json")
    scores = pd.DataFrame({"statement_id": [stated.statement_id], "given": ["true"], "split": "test"})
    write_public_forms(tmp_path, "statement", scores)
    assert (tmp_path / "nlvr2_predictions.csv").read_text() == "dev-8-0-1,True\n"
