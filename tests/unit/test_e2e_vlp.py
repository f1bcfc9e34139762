"""E2E-VLP: what its parts see, its four tasks in one step, and what recipes of it are refused."""

import math
from typing import ClassVar

import pyarrow as pa
import pytest
import torch
from torch.nn.functional import interpolate

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.config import override, parse
from mlim.data.annotated import AnnotationTables
from mlim.data.batches import ItemBatch
from mlim.data.objects import ObjectNames, Region, collate_objects
from mlim.errors import InputError
from mlim.losses import UNKNOWN
from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.system import Shown
from mlim.models.systems import load_system
from mlim.recipe import Recipe
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.recipe.tasks import loss_titles
from mlim.tasks.build import pretrain_objective
from mlim.training.optim import learning_rate_scales

SIDE = {"kind": "cnn", "stem": 8, "depths": [1, 1], "widths": [8, 16]}
SHAPE = {"image": SIDE, "depth": 1, "decoder_depth": 2, "queries": 3, "width": 16, "heads": 2, "dropout": 0.0}
NAMES = ObjectNames(labels=("mug", "bag", "hat"), attributes={"colour": ("red", "blue"), "pattern": ("dots", "plain")})
CONFIG = E2eVlpConfig(
    vocabulary_size=30, text_positions=12, image_size=16, shape=E2eVlpSystem.model_validate(SHAPE), objects=NAMES
)
ALL = {"losses": ["mlm", "itm"], "masking": "text", "tasks": [{"task": "detect"}, {"task": "caption"}]}
LOSSES = ("mlm", "itm", "detect-class", "detect-l1", "detect-giou", "detect-attribute", "caption")


@pytest.fixture(scope="module")
def model() -> E2eVlp:
    return E2eVlp.planned(CONFIG, 0).build().eval()


class Annotations:
    """Two pictures with objects, the others with none."""

    names = NAMES
    known: ClassVar = {
        "item-0": [Region((0.1, 0.2, 0.5, 0.6), 2, (1, UNKNOWN)), Region((0.0, 0.0, 1.0, 1.0), 0, (0, 1))],
        "item-1": [Region((0.3, 0.3, 0.4, 0.8), 1, (0, 0))],
    }

    def regions(self, item: str) -> list[Region]:
        return self.known.get(item, [])

    def captions(self, item: str) -> list[str]:
        return []


def shown(seed: int = 0, items: int = 4) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 30, (items, 7), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    return Shown(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(items, 3, 16, 16, generator=generator))


def batch() -> ItemBatch:
    item, ids = shown(), [f"item-{number}" for number in range(4)]
    maskable = (item.input_ids != 2) & (item.input_ids != 3)
    objects = collate_objects(Annotations(), ids)
    return ItemBatch(item.input_ids, item.text_attention, maskable, (item.pixels * 255).byte(), ids, objects)


def objective_of(model: E2eVlp, **pretraining):
    return pretrain_objective(model, PretrainConfig(), Pretraining.model_validate(pretraining), 10, 0)


def test_a_smaller_size_is_read_as_smaller_pictures_are():
    side = {**SIDE, "read_size": 8}
    reads = CONFIG.model_copy(update={"shape": E2eVlpSystem.model_validate({**SHAPE, "image": side})})
    small = E2eVlp.planned(CONFIG.model_copy(update={"image_size": 8}), 0).build().eval()
    model = E2eVlp.planned(reads, 0).build().eval()
    model.load_state_dict(small.state_dict())
    item = shown()
    pixels = interpolate(item.pixels, (8, 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        cells = model.fuse(item).patches
        assert cells.shape == (4, 1, 16)
        assert torch.equal(cells, small.fuse(item._replace(pixels=pixels)).patches)
        assert model.encoding_operations(7.0, 1) == small.encoding_operations(7.0, 1)


@pytest.mark.parametrize(
    ("size", "message"), [(32, "read_size 32 is more than image.size 16"), (12, "image.read_size 12 is not a multiple")]
)
def test_a_size_that_does_not_fit_is_refused(tiny_recipe, size, message):
    told = f"systems={{e: {{kind: e2e-vlp, image: {{kind: cnn, depths: [1, 1], widths: [8, 16], read_size: {size}}}}}}}"
    with pytest.raises(InputError, match=message):
        parse(Recipe, override(tiny_recipe.model_dump(mode="json"), [told]), "recipe tiny")


def test_objects_become_centres_and_numbers():
    objects = collate_objects(Annotations(), ["item-0", "item-9", "item-1"])
    assert objects.numbers.tolist() == [2, 0, 1]
    assert torch.allclose(objects.boxes[0, 0], torch.tensor([0.3, 0.4, 0.4, 0.4]))
    assert objects.labels.tolist() == [[2, 0], [UNKNOWN] * 2, [1, UNKNOWN]]
    assert objects.attributes[0].tolist() == [[1, UNKNOWN], [0, 1]]


def test_four_tasks_train_everything_but_each_alone_only_its_own(model):
    objective = objective_of(model, **ALL)
    prepared = objective.prepare(batch(), 0)
    output = objective.losses(prepared)
    assert tuple(term.name for term in output.terms) == LOSSES == tuple(prepared.counts)
    for term in output.terms:
        assert term.term.count.item() == pytest.approx(prepared.counts[term.name]), term.name
    assert {term.name: term.weight for term in output.terms} == {
        **dict.fromkeys(LOSSES, 1.0),
        "detect-l1": 5,
        "detect-giou": 2,
    }
    sum(term.weight * term.term.mean for term in output.terms).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert objective.operations(prepared) > 0
    model.zero_grad()
    objective_of(model, tasks=[{"task": "detect", "text": False}])
    still = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {"writing", "mlm_head", "itm_head"}
    objective_of(model, losses=["mlm"], masking="text")
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not trained & {"queries", "decoder", "decoder_norm", "detection", "writing", "itm_head"}


@pytest.mark.parametrize(("text", "attributes"), [(True, True), (False, True), (True, False)])
def test_what_a_detection_alone_leaves_untrained_is_known_before(model, text, attributes):
    """Several processes wait for the gradients of all that is trained unless they are told."""
    objective = objective_of(model, tasks=[{"task": "detect", "text": text, "attributes": attributes}])
    model.zero_grad()
    output = objective.losses(objective.prepare(batch(), 0))
    sum(term.weight * term.term.mean for term in output.terms).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained) == (text and attributes)
    assert objective.uses_everything == (text and attributes)
    model.zero_grad()


def test_a_detector_reads_no_text_and_e2e_vlp_does(model):
    items = batch()
    other = items._replace(input_ids=shown(1).input_ids)
    for text in (True, False):
        objective = objective_of(model, tasks=[{"task": "detect", "text": text, "attributes": False}])
        with torch.no_grad():
            found = [objective.losses(objective.prepare(each, 0)).terms for each in (items, other)]
        assert [term.name for term in found[0]] == ["detect-class", "detect-l1", "detect-giou"]
        same = [torch.equal(one.term.total, two.term.total) for one, two in zip(*found, strict=True)]
        assert not any(same) if text else all(same)


def test_boxes_go_with_their_picture_when_texts_are_exchanged(model):
    objective = objective_of(model, **ALL)
    for step in range(20):
        prepared = objective.prepare(batch(), step)
        if not prepared.own[:2].any() and prepared.own[2:].all():
            break
    objects = prepared.targets["detect"].wanted
    assert objects.numbers.tolist() == [1, 2, 0, 0]
    assert prepared.counts["caption"] == 2 * 6  # of those who show their own picture
    assert prepared.counts["detect-l1"] == 2 * 3


def test_padding_of_a_text_changes_neither_objects_nor_vectors(model):
    item = shown()
    longer = item._replace(
        input_ids=torch.nn.functional.pad(item.input_ids, (0, 3)),
        text_attention=torch.nn.functional.pad(item.text_attention, (0, 3)),
    )
    with torch.no_grad():
        short, long = (model.fuse(each) for each in (item, longer))
        one = model.detect(short.patches, short.text, item.text_attention)
        two = model.detect(long.patches, long.text, longer.text_attention)
        assert torch.allclose(one.boxes, two.boxes, atol=1e-6)
        for modality in ("both", "text", "image"):
            assert torch.allclose(model.encode_items(item, modality), model.encode_items(longer, modality), atol=1e-6)
        assert model.item_parts * model.item_part_width == model.encode_items(item, "both").shape[1]


def test_a_saved_one_finds_the_same_objects_and_the_image_side_has_its_own_rate(model, tmp_path, tiny_recipe):
    model.save_pretrained(tmp_path)
    again = load_system(tmp_path).build().eval()
    with torch.no_grad():
        assert torch.equal(again.detect(again.look(shown())).classes, model.detect(model.look(shown())).classes)
    assert again.config.objects == NAMES
    rates = tiny_recipe.pretrain.optim.rates.model_copy(update={"embedder": 0.1})
    scales = learning_rate_scales(model, tiny_recipe.pretrain.optim.model_copy(update={"rates": rates}))
    assert {scale for name, scale in scales.items() if name.startswith("image.")} == {0.1}
    assert {scale for name, scale in scales.items() if not name.startswith("image.")} == {1.0}


def test_a_few_steps_learn_to_find_and_to_write():
    torch.manual_seed(0)
    model, items = E2eVlp.planned(CONFIG, 1).build().train(), batch()
    objective = objective_of(model, tasks=[{"task": "detect", "text": False}, {"task": "caption"}])
    adam = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    prepared, history = objective.prepare(items, 0), []
    for _ in range(8):
        output = objective.losses(prepared)
        adam.zero_grad()
        sum(term.weight * term.term.mean for term in output.terms).backward()
        adam.step()
        history.append({term.name: term.term.mean.item() for term in output.terms})
    assert all(math.isfinite(value) for each in history for value in each.values())
    for name in ("detect-class", "detect-l1", "detect-giou", "caption"):
        assert history[-1][name] < 0.9 * history[0][name], name


def test_annotation_tables_are_read_by_item(tmp_path):
    corners = dict.fromkeys(("x0", "y0"), 0.25) | dict.fromkeys(("x1", "y1"), 0.5)
    regions = [
        {"id": item, "split": "train", "label": label, "attributes": told, "score": 1.0, "crowd": crowd, **corners}
        for item, label, told, crowd in (
            ("b", "bag", {"colour": "red"}, False),
            ("a", "mug", {}, False),
            ("b", "mug", {"colour": "green"}, False),
            ("b", "bag", {}, True),
        )
    ]
    captions = [
        {"id": "b", "split": "train", "caption_id": str(number), "caption": text}
        for number, text in enumerate(("a bag", "a mug"))
    ]
    for name, rows in (("regions", regions), ("captions", captions)):
        with pa.ipc.new_file(str(table_file(tmp_path, name)), SCHEMAS[name]) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    (tmp_path / "vocabularies.json").write_text('{"labels": ["bag", "mug"], "attributes": {"colour": ["red"]}}')
    tables = AnnotationTables(tmp_path)
    found = {item: [(each.label, each.attributes) for each in tables.regions(item)] for item in "abc"}
    assert found == {"a": [(1, (UNKNOWN,))], "b": [(0, (0,)), (1, (UNKNOWN,))], "c": []}  # without the crowd
    assert tables.regions("a")[0].corners == (0.25, 0.25, 0.5, 0.5)
    assert tables.captions("b") == ["a bag", "a mug"]
    assert [path.name for path in tables.object_files] == ["regions.arrow", "vocabularies.json"]
    assert (tables.has_captions, [path.name for path in tables.caption_files]) == (True, ["captions.arrow"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("systems.e.width=18", "width 18 is not a multiple of 4"),
        (
            "systems.e.image={kind: cnn, stem: 8, depths: [1, 1], widths: [8, 16], sample: 2}",
            "image.sample leaves parts",
        ),
        (
            "pretrainings.e={system: e, losses: [recon], masking: mam}",
            "task recon needs pictures, which system e2e-vlp",
        ),
        ("pretrainings.e={system: e, losses: [mlm], masking: mam}", "masking: mam hides parts of pictures"),
        ("pretrainings.e={system: git, tasks: [{task: detect}]}", "task detect needs objects, which system writer"),
        ("systems.git.image.size=5", "is not a multiple"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_built(tiny_recipe, setting, message):
    git = "{kind: writer, image: {kind: patch, size: 4}, width: 16}"
    systems = f"systems={{e: {{kind: e2e-vlp, width: 16, heads: 2}}, git: {git}}}"
    with pytest.raises(InputError, match=message):
        parse(Recipe, override(tiny_recipe.model_dump(mode="json"), [systems, setting]), "recipe tiny")


def test_every_loss_has_a_title():
    assert set(LOSSES) <= set(loss_titles())
