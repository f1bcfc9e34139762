"""The tables of annotations as trainings read them: by item, in whatever order they were written."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.data.annotated import AnnotationTables, _ByItem
from mlim.data.objects import Posed
from mlim.errors import DataError
from mlim.losses import UNKNOWN

NAMES = {"labels": ["mug", "bag"], "attributes": {"": ["green", "tall"], "colour": ["red"]}, "answers": ["no", "yes"]}
SIDES = {"x0": 0.0, "y0": 0.25, "x1": 0.5, "y1": 1.0}

items = st.lists(st.sampled_from("dacb"), max_size=12)
kinds, values = st.sampled_from(["", "colour", "size"]), st.sampled_from(["green", "tall", "red", "odd"])
words = st.lists(st.tuples(kinds, values), max_size=4)


def write(folder, table, rows, rows_at_a_time=3):
    path = table_file(folder, table)
    path.unlink(missing_ok=True)  # tables that were read before still map it
    with pa.ipc.new_file(str(path), SCHEMAS[table]) as writer:
        for start in range(0, len(rows), rows_at_a_time):
            part = rows[start : start + rows_at_a_time]
            writer.write_table(pa.Table.from_pylist(part, schema=SCHEMAS[table]))


def region(item, label="mug", attributes=(), crowd=False):
    told = {"attributes": attributes, "score": 0.5, "crowd": crowd}
    return {"id": item, "split": "train", "label": label, **told, **SIDES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations")
    (folder / "vocabularies.json").write_text(json.dumps(NAMES))
    return folder


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_objects_of_an_item_are_its_rows_with_the_first_known_attribute_of_each_kind(folder, data):
    rows = [
        region(item, data.draw(st.sampled_from(NAMES["labels"])), data.draw(words), data.draw(st.booleans()))
        for item in data.draw(items)
    ]
    write(folder, "regions", rows)
    tables, kept = AnnotationTables(folder), [row for row in rows if not row["crowd"]]
    for item in "abcde":
        expected = [
            (tuple(SIDES.values()), NAMES["labels"].index(row["label"]), numbers_of(row["attributes"]), 0.5)
            for row in kept
            if row["id"] == item
        ]
        assert [tuple(one) for one in tables.regions(item)] == expected


def numbers_of(told):
    found = []
    for kind, known in NAMES["attributes"].items():
        numbers = [known.index(value) for name, value in told if name == kind and value in known]
        found.append(numbers[0] if numbers else UNKNOWN)
    return tuple(found)


@given(items)
@settings(deadline=None, max_examples=25)
def test_texts_of_an_item_are_its_rows_in_their_order(folder, names):
    about = [{"id": item, "split": "train"} for item in names]
    captions = [{**one, "caption_id": str(n), "caption": f"text {n}"} for n, one in enumerate(about)]
    answers = [{"answer": "yes", "score": 1.0}, {"answer": "no", "score": 0.5}]
    rest = {"answers": answers, "kind": "binary", "template": "", "entailed": []}
    questions = [{**one, "question_id": str(n), "question": f"is it {n}?", **rest} for n, one in enumerate(about)]
    write(folder, "captions", captions)
    write(folder, "questions", questions)
    tables = AnnotationTables(folder)
    for item in "abcde":
        places = [n for n, name in enumerate(names) if name == item]
        assert tables.captions(item) == [f"text {n}" for n in places]
        assert tables.questions(item) == [Posed(f"is it {n}?", {"yes": 1.0, "no": 0.5}) for n in places]


def test_texts_stay_in_the_file_that_all_processes_map():
    together = pa.table({"id": ["b", "b", "a", "c"], "caption": list("wxyz")})
    assert _ByItem.of(together).table is together
    apart = pa.table({"id": ["b", "a", "b"], "caption": list("xyz")})
    assert _ByItem.of(apart).table["caption"].to_pylist() == ["x", "z", "y"]


def test_a_label_without_a_number_is_refused(folder):
    write(folder, "regions", [region("a"), region("b", "hat")])
    with pytest.raises(DataError, match=r"regions.arrow: label `hat` is not in vocabularies.json beside it"):
        AnnotationTables(folder).regions("a")
