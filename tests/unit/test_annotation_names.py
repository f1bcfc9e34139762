"""What files call a picture: numbers of COCO and of Visual Genome are never taken for each other."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.annotations.answers import AnswerSpellings
from mlim.annotations.coco import read_captions, read_instances, read_karpathy
from mlim.annotations.genome import read_genome
from mlim.annotations.lxmert import read_texts
from mlim.annotations.measures import find_items
from mlim.annotations.names import Names, coco_number, file_names, id_names, vqa_names
from mlim.annotations.pictures import Pictures
from mlim.annotations.questions import read_gqa, read_vqa
from mlim.annotations.records import Place
from mlim.annotations.sources import picture_numbers
from mlim.annotations.statements import read_nlvr2
from mlim.catalog.annotation_rules import AnnotationFiles, GenomeFiles
from mlim.errors import InputError

TRAIN, VAL, PLAIN = "COCO_train2014_000000000042", "COCO_val2014_000000000042", "000000000042"
NUMBERS = st.integers(0, 10**11 - 1)  # one of twelve digits is a name of COCO itself


def coco(file_name: str) -> dict:
    return {
        "images": [{"id": 42, "file_name": file_name, "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"id": 1, "image_id": 42, "category_id": 1, "bbox": [0, 0, 5, 5], "caption": "a cup"}],
    }


def vqa(folder, **told: str):
    """A question about the picture 42."""
    asked = {**told, "questions": [{"question_id": 1, "image_id": 42, "question": "what?"}]}
    one = {"question_id": 1, "question_type": "t", "answer_type": "other", "answers": [{"answer": "cup"}]}
    (folder / "q.json").write_text(json.dumps(asked))
    (folder / "a.json").write_text(json.dumps({"annotations": [one]}))
    return read_vqa(folder / "q.json", folder / "a.json", None, AnswerSpellings())


def genome(folder):
    (folder / "i.json").write_text(json.dumps([{"image_id": 42, "width": 10, "height": 10, "coco_id": 7}]))
    (folder / "r.json").write_text(json.dumps([{"id": 42, "regions": [{"region_id": 1, "phrase": "a cup"}]}]))
    return read_genome(GenomeFiles(images=folder / "i.json", regions=folder / "r.json"), AnswerSpellings())


def lxmert(name: str):
    return {"question_id": 1, "img_id": name, "sent": "what?", "label": {"cup": 1}}


STATED = {"identifier": "dev-1-0-0", "sentence": "x", "label": "True"}
KARPATHY = {"filename": "COCO_val2014_000000000042.jpg", "cocoid": 42, "sentences": [{"raw": "x", "sentid": 1}]}


def read(folder, reader, value):
    path = folder / "f.json"
    path.write_text(json.dumps(value))
    return reader(path)


CASES = {  # what says something of a picture -> the items that it may be about, each alone in a catalog with others'
    "COCO's boxes": (lambda f: read(f, read_instances, coco(f"{VAL}.jpg")), {TRAIN, VAL, PLAIN}),
    "COCO's captions of 2017": (lambda f: read(f, read_captions, coco(f"{PLAIN}.jpg")), {TRAIN, VAL, PLAIN}),
    "own boxes": (lambda f: read(f, read_instances, coco("x/mug.jpg")), {"mug", "x/mug.jpg"}),
    "Karpathy": (lambda f: read(f, read_karpathy, {"images": [KARPATHY]}), {TRAIN, VAL, PLAIN}),
    "VQA v2": (lambda f: vqa(f, data_type="mscoco"), {TRAIN, VAL, PLAIN}),
    "questions in its layout": (vqa, {TRAIN, VAL, PLAIN}),
    "Visual Genome": (genome, {"42"}),
    "GQA": (lambda f: read(f, read_gqa, {"1": {"imageId": "42", "question": "?", "answer": "x"}}), {"42"}),
    "LXMERT of COCO": (lambda f: read(f, read_texts, [lxmert(VAL)]), {TRAIN, VAL, PLAIN}),
    "LXMERT of Visual Genome": (lambda f: read(f, read_texts, [lxmert("42")]), {"42"}),
    "NLVR2 of the web": (lambda f: read(f, read_nlvr2, {**STATED, "left_url": "https://x/42.jpg?w=3"}), set()),
    "statements of files": (lambda f: read(f, read_nlvr2, {**STATED, "left_url": "x/42.jpg"}), {"42", "x/42.jpg"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("item", [TRAIN, VAL, PLAIN, "42", "mug", "x/mug.jpg", "x/42.jpg", "42.jpg"])
def test_a_number_means_a_picture_of_its_own_data_set(tmp_path, case, item):
    reader, meant = CASES[case]
    (annotation,) = reader(tmp_path)
    found = find_items(annotation, Pictures({item: "train"}, {})).items[0]
    assert found == (item if item in meant else None)


def test_both_data_sets_in_one_catalog_are_told_apart(tmp_path):
    pictures = Pictures({TRAIN: "train", "42": "test"}, {})
    for case, item in (("VQA v2", TRAIN), ("COCO's boxes", TRAIN), ("Visual Genome", "42"), ("NLVR2 of the web", None)):
        (annotation,) = CASES[case][0](tmp_path)
        assert find_items(annotation, pictures).items[0] == item, case


@given(NUMBERS, st.sampled_from(["train2014", "val2014", "test2015"]))
def test_a_name_of_coco_is_equal_to_its_number(number, split):
    name = f"COCO_{split}_{number:012d}"
    assert coco_number(name) == coco_number(f"{number:012d}") == number
    for item in (name, f"{number:012d}"):
        pictures = Pictures({item: "train", f"{number}a": "train", str(number): "test"}, {})
        for names in (vqa_names(str(number), True), id_names(name), file_names(f"x/{number:012d}.jpg")):
            assert pictures.find(names) == item
    assert Pictures({name: "train"}, {}).find(id_names(str(number))) is None  # a number of another data set


def test_a_picture_that_several_items_may_be_is_refused_with_its_place():
    pictures = Pictures({TRAIN: "train", PLAIN: "test"}, {})
    with pytest.raises(InputError) as refused:
        pictures.find(vqa_names("42", True), Place("f.json", 7))
    assert str(refused.value) == (
        "f.json: line 7: the picture `42` may be item `000000000042` or `COCO_train2014_000000000042`; take one of "
        "them out of the catalog, or name the picture by the id of its item"
    )
    assert pictures.find(id_names(TRAIN)) == TRAIN  # an equal id is the one that is meant
    with pytest.raises(InputError, match=f"^the picture `{VAL}` may be"):
        pictures.find(id_names(VAL))


def test_numbers_that_files_of_other_pictures_give_are_theirs(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps(coco("s/scene.jpg")))
    (tmp_path / "coco.json").write_text(json.dumps(coco(f"{VAL}.jpg")))
    given = {"questions": "q.json", "answers": "a.json"}
    files = AnnotationFiles.model_validate(
        {"vqa": given, "instances": [f"{tmp_path}/own.json", f"{tmp_path}/coco.json"]}
    )
    numbers = picture_numbers(files)
    assert numbers == {"42": ("s/scene.jpg", "scene")}
    assert picture_numbers(files.model_copy(update={"vqa": ()})) == {}
    (own,) = vqa(tmp_path)
    (of_coco,) = vqa(tmp_path, data_type="mscoco")
    alone, both = Pictures({"scene": "train"}, numbers), Pictures({"scene": "train", VAL: "test"}, numbers)
    assert [pictures.find(of_coco.picture) for pictures in (alone, both)] == [None, VAL]
    assert alone.find(own.picture) == "scene"
    with pytest.raises(InputError, match=f"the picture `42` may be item `{VAL}` or `scene`"):
        both.find(own.picture)


def test_names_for_a_person():
    assert [names.first for names in (vqa_names("42", False), vqa_names("mug", True), Names(("a", "b"), 3))] == [
        "42",
        "mug",
        "a",
    ]
