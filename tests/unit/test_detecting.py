"""Fine-tuning to detect: what its figures mean, which heads are kept, and which recipes are refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.config import override, parse
from mlim.data.objects import ObjectNames
from mlim.errors import InputError
from mlim.evaluation.detected import found_rows
from mlim.evaluation.detections import coco_forms, detection_figures, detection_measure, truth_row
from mlim.evaluation.metrics.measure import plain_figures
from mlim.models.detection import Detected, plan_detector
from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.joint import Joint, JointConfig
from mlim.recipe import Recipe
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.joint import JointSystem
from mlim.steps.detecting import _truth_by_item, _with_objects
from mlim.steps.public_forms import write_public_forms
from mlim.workspace import Workspace
from tests.decoder_recipe import SETTINGS

NAMES = ObjectNames(labels=("mug", "bag"), attributes={"colour": ("red", "blue")})
CNN = {"kind": "cnn", "stem": 8, "depths": [1, 1], "widths": [8, 16]}
SHAPE = {"image": CNN, "depth": 1, "decoder_depth": 1, "queries": 3, "width": 16, "heads": 2}
INPUTS = {"vocabulary_size": 30, "text_positions": 12, "image_size": 16}


def box(x0: float, label: str, colour: str, score: float = 1.0, **more: bool) -> dict[str, object]:
    """One of 10 x 10 pixels."""
    sides = {"x0": x0, "y0": 0.0, "x1": x0 + 10, "y1": 10.0}
    return {**sides, "label": label, "score": score, "attributes": [colour], **more}


def judged(truth: list[list[dict[str, object]]], found: list[list[dict[str, object]]]) -> dict[str, float]:
    scores = pd.DataFrame({"id": [f"p{n}" for n in range(len(truth))], "truth": truth, "found": found})
    names = [figure.name for figure in detection_figures(scores)]
    return dict(zip(names, plain_figures(detection_measure(scores), len(truth)).tolist(), strict=True))


def test_attributes_count_on_hits_and_numbers_by_sure_detections():
    truth = [
        [box(0, "mug", "red", crowd=False), box(20, "bag", "blue", crowd=False), box(40, "bag", "", crowd=False)],
        [box(0, "mug", "red", crowd=False)],
    ]
    found = [
        # a hit with the right colour, one with a wrong one, one on a bag whose colour is not known
        [box(1, "mug", "red", 0.9), box(21, "bag", "red", 0.8), box(40, "bag", "red", 0.6), box(0, "mug", "blue", 0.4)],
        # the same place with another class is no hit; the surer of two detections takes the object
        [box(0, "bag", "blue", 0.9), box(1, "mug", "blue", 0.3), box(0, "mug", "red", 0.2)],
    ]
    figures = judged(truth, found)
    assert figures["attributes"] == pytest.approx(1 / 3)
    assert figures["count"] == 1.0  # three of at least 0.5, then one
    assert 0.5 < figures["ap50"] < 1.0
    assert list(figures) == ["ap", "ap50", "ap75", "ap_small", "attributes", "count"]  # all objects are small


def test_a_picture_of_a_crowd_has_no_number_and_its_box_is_no_mistake():
    figures = judged(
        [[box(0, "mug", "", crowd=True), box(20, "mug", "", crowd=False)]],
        [[box(0, "mug", "", 0.9), box(20, "mug", "", 0.8)]],
    )
    assert figures["ap"] == pytest.approx(1.0)
    assert np.isnan(figures["count"])
    assert "attributes" not in figures  # none is known


def test_rows_are_the_likeliest_class_of_each_query_in_pixels():
    classes = torch.tensor([[0.0, 3.0, 5.0], [2.0, 0.0, -9.0]]).view(1, 1, 2, 3)
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.0, 0.0, 0.5, 0.5]]).view(1, 1, 2, 4)
    found = found_rows(Detected(classes, boxes, [torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(1, 1, 2, 2)]), NAMES, 16)
    first, second = found[0]
    assert [first[side] for side in ("x0", "y0", "x1", "y1")] == [4.0, 6.0, 12.0, 10.0]
    assert [second[side] for side in ("x0", "y0", "x1", "y1")] == [0.0, 0.0, 4.0, 4.0]  # cut at the picture's edge
    assert (first["label"], first["attributes"], second["label"]) == ("bag", ["blue"], "mug")
    assert first["score"] == pytest.approx(float(torch.tensor([0.0, 3.0, 5.0]).softmax(0)[1]), abs=1e-4)


def test_cocos_files_hold_the_same_boxes():
    region = {"x0": 0.25, "y0": 0.5, "x1": 0.75, "y1": 1.0, "label": "mug", "attributes": [("colour", "red")]}
    truth = truth_row({**region, "crowd": False}, ["pattern", "colour"], 32)
    assert truth["attributes"] == ["", "red"]
    scores = pd.DataFrame({"id": ["b", "a"], "truth": [[truth], []], "found": [[], [box(3, "bag", "red", 0.5)]]})
    instances, results = coco_forms(scores)
    numbers = {image["file_name"]: image["id"] for image in instances["images"]}
    classes = {category["name"]: category["id"] for category in instances["categories"]}
    one = instances["annotations"][0]
    assert (one["image_id"], one["category_id"], one["bbox"], one["area"], one["iscrowd"]) == (
        *(numbers["b"], classes["mug"]),
        *([8.0, 16.0, 16.0, 16.0], 256.0, 0),
    )
    assert results == [
        {"image_id": numbers["a"], "category_id": classes["bag"], "bbox": [3.0, 0.0, 10.0, 10.0], "score": 0.5}
    ]


def test_any_attribute_of_an_object_is_right_where_kinds_are_not_told_apart(tmp_path):
    told = [("", "green"), ("", "tall"), ("", "leafy")]
    region = {"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.5, "label": "tree", "attributes": told, "crowd": False}
    truth = [[truth_row(region, [""], 20)] for _ in range(4)]
    assert truth[0][0]["attributes"] == ["green"]
    found = [[box(0, "tree", colour, 0.9)] for colour in ("green", "tall", "leafy", "red")]
    assert judged(truth, found)["attributes"] == pytest.approx(0.75)
    path = tmp_path / "scores.parquet"
    plain = truth_row({**region, "attributes": []}, [""], 20)  # of this one nothing is known
    pd.DataFrame({"truth": [*truth, [plain]], "found": [*found, found[0]]}).to_parquet(path)
    stored = pd.read_parquet(path)
    assert judged([*stored["truth"]], [*stored["found"]])["attributes"] == pytest.approx(0.75)


def test_scores_of_an_earlier_version_have_one_attribute_of_each_kind():
    old = [box(0, "mug", "red", crowd=False), box(20, "mug", "", crowd=False)]
    assert "accepted" not in old[0]
    assert judged([old], [[box(0, "mug", "red", 0.9), box(20, "mug", "red", 0.8)]])["attributes"] == 1.0


def test_pictures_of_crowds_are_judged_but_not_learnt_and_only_their_split_is_read(tmp_path, write_regions):
    workspace = Workspace(tmp_path)
    write_regions(
        workspace.annotations,
        [("a", "train", False), ("b", "train", True), ("c", "test", True), ("d", "test", False), ("d", "test", True)],
    )
    assert _with_objects(workspace) == {"a", "d"}
    truth = _truth_by_item(workspace, "test", ["colour"], 16)
    assert {item: [row["crowd"] for row in rows] for item, rows in truth.items()} == {"c": [True], "d": [False, True]}
    # what is detected beside a crowd is a mistake, in a picture of crowds alone, too
    kept = judged([truth["d"]], [[box(0, "mug", "red", 0.5) | {"x1": 8.0, "y1": 8.0}]])
    beside = box(40, "mug", "red", 0.9)
    both = judged([truth["d"], truth["c"]], [[box(0, "mug", "red", 0.5) | {"x1": 8.0, "y1": 8.0}], [beside]])
    assert (kept["ap"], both["ap"]) == (pytest.approx(1.0), pytest.approx(0.5))


@pytest.fixture
def write_regions():
    def write(folder, rows):
        folder.mkdir(parents=True)
        sides = {"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.5}
        table = [
            {"id": item, "split": split, "label": "mug", "attributes": {"colour": "red"}, "score": 1.0, "crowd": crowd}
            | sides
            for item, split, crowd in rows
        ]
        with pa.ipc.new_file(str(table_file(folder, "regions")), SCHEMAS["regions"]) as writer:
            writer.write_table(pa.Table.from_pylist(table, schema=SCHEMAS["regions"]))

    return write


class TestHeads:
    """Of pre-training, where they fit."""

    def start(self, objects: ObjectNames):
        return E2eVlp.planned(E2eVlpConfig(**INPUTS, shape=E2eVlpSystem.model_validate(SHAPE), objects=objects), 0)

    def test_they_are_kept_where_objects_have_the_same_names(self):
        start = self.start(NAMES)
        assert plan_detector(start, NAMES, 1) is start

    def test_they_are_new_for_other_names_and_all_else_stays(self):
        model = plan_detector(self.start(ObjectNames()), NAMES, 1).build()
        before = self.start(ObjectNames()).build().state_dict()
        assert model.config.objects == NAMES
        assert model.detection.classes.out_features == len(NAMES.labels) + 1
        for name, value in model.state_dict().items():
            if not name.startswith("detection."):
                assert torch.equal(value, before[name]), name
        again = plan_detector(self.start(ObjectNames()), NAMES, 1).build().state_dict()
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())

    def test_a_system_without_them_is_refused(self):
        shape = JointSystem.model_validate({"image": {"kind": "patch", "size": 8}, "depth": 1, "width": 16, "heads": 2})
        with pytest.raises(InputError, match="system joint finds no objects"):
            plan_detector(Joint.planned(JointConfig(**INPUTS, shape=shape), 0), NAMES, 1)


def changed(recipe: Recipe, *settings: str) -> Recipe:
    told = (*SETTINGS, "tasks.detect={steps: 5}", *settings)
    return parse(Recipe, override(recipe.model_dump(mode="json"), told), "recipe tiny")


@pytest.mark.parametrize(
    ("variant", "problem"),
    [
        ("pretraining: lxmert, task: detect", "detect needs objects, which system crossed does not offer"),
        ("pretraining: detector, task: detect, modality: text", "detect needs both or image, not text alone"),
        ("pretraining: detector, task: detect, modality: image, text_of: other", "reads no other text"),
        ("pretraining: git, task: caption, text_of: other", "caption with modality both reads no other text"),
        ("pretraining: null, text_of: other", "pairs have the items' own texts"),
        ("pretraining: null, system: e2e-vlp, task: detect, zero_shot: true", "needs a pre-training with task detect"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_recipe(tiny_recipe, variant, problem):
    with pytest.raises(InputError, match=problem):
        changed(tiny_recipe, f"variants.found={{label: finds, {variant}}}")


def test_whose_text_is_read_decides_the_training(tiny_recipe):
    keys = set()
    for told in ("", ", text_of: other", ", modality: image", ", zero_shot: true"):
        recipe = changed(tiny_recipe, f"variants.found={{label: finds, pretraining: e2e-vlp, task: detect{told}}}")
        keys.add(recipe.training_key("finetune", "found"))
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("task", "columns", "files"),
    [
        ("caption", {"id": ["7", "x"], "written": ["a mug", ""]},
         {"coco_captions.json": '[{"image_id": 7, "caption": "a mug"}, {"image_id": "x", "caption": ""}]'}),
        ("answer", {"question_id": ["1", "q"], "given": ["no", "2"]},
         {"vqa_results.json": '[{"question_id": 1, "answer": "no"}, {"question_id": "q", "answer": "2"}]',
          "gqa_predictions.json": '[{"questionId": "1", "prediction": "no"}, {"questionId": "q", "prediction": "2"}]'}),
        ("statement", {"statement_id": ["t-0-0-0", "t-0-1-0"], "given": ["true", "false"]},
         {"nlvr2_predictions.csv": "t-0-0-0,True\nt-0-1-0,False\n"}),
    ],
)  # fmt: skip
def test_results_are_also_written_as_public_data_sets_have_them(tmp_path, task, columns, files):
    scores = pd.DataFrame({**columns, "split": ["test", "test"]})
    unseen = scores.head(1).assign(split="validation")
    write_public_forms(tmp_path, task, pd.concat([unseen, scores]))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files
