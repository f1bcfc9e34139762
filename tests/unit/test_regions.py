"""Stored regions: what `mlim regions` writes of every source, and how batches and LXMERT hold it."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import LxmertConfig, LxmertModel

from mlim.config import override, parse
from mlim.data.batches import ItemBatch, RegionLabels
from mlim.data.collate import ItemCollator
from mlim.data.images import as_floats, to_pixels
from mlim.data.objects import Known, ObjectNames
from mlim.data.regions import StoredRegions, is_packed, open_regions, unpack
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.losses import UNKNOWN
from mlim.models.crossed import Crossed, CrossedConfig
from mlim.models.images.regions import grid_boxes, pooled
from mlim.models.system import Shown
from mlim.recipe import Recipe
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.pretrain import MaskingConfig, PretrainConfig, Pretraining
from mlim.report.tasks import task_header, task_rows
from mlim.shards.items import open_items
from mlim.steps import regions as step
from mlim.steps.annotate import annotate as run_annotate
from mlim.steps.annotated import annotations_for, known_from
from mlim.steps.plan import Stage, everything
from mlim.steps.region_sources import frozen_side
from mlim.steps.stages import define_stages
from mlim.steps.task_tables import with_seen
from mlim.tasks.build import pretrain_objective
from mlim.workspace import Workspace
from tests.region_files import NAMES, annotate, packed, tsv_line, write_tsv
from tests.regions_recipe import SETTINGS
from tests.small_catalog import described
from tests.unit.test_crossed import copy_lxmert, shown


@pytest.fixture(scope="module")
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


@pytest.fixture
def catalog(tmp_path):
    return describe(tmp_path)


def describe(folder, **sections):
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(described(pairs={"decided_by": ["pattern"]}, **sections)))
    return path


def opened(recipe: Recipe, workspace: Workspace, system: str) -> StoredRegions:
    side = recipe.systems[system].image
    return open_regions(workspace.regions(side.source), open_items(recipe.loader, workspace), side.most, side.store)


def test_annotated_regions_are_means_inside_the_boxes_and_the_same_bytes_each_time(
    recipe, own_workspace, catalog, quiet, monkeypatch
):
    with pytest.raises(InputError, match=r"regions/annotated is missing; run `mlim regions annotated` first"):
        opened(recipe, own_workspace, "annotated")
    with pytest.raises(InputError, match="no objects are annotated; run `mlim annotate` first"):
        step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    annotate(own_workspace)
    monkeypatch.setattr(step, "CHUNK", 16)
    summary = step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    assert (summary["pictures"], summary["regions"], summary["pictures_without"]) == (40, 39, 14)
    assert summary["names"] == NAMES
    folder = own_workspace.regions("annotated")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(step, "CHUNK", 7)
    step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    stored, store = opened(recipe, own_workspace, "annotated"), open_items(recipe.loader, own_workspace)
    item = "item-002"  # two objects, of which the second one is surer
    pixels = as_floats(to_pixels([store.image(item)], 1))
    side, _ = frozen_side(recipe.systems["annotated"].image.features)
    boxes = torch.tensor([[0.5, 0.2, 0.8, 0.7], [0.1, 0.2, 0.4, 0.7]])
    seen = unpack(to_pixels([stored.image(item), stored.image("item-000")], 2))
    assert torch.allclose(seen.boxes[0], boxes)
    assert torch.allclose(seen.features[0], pooled(side.grid(pixels), boxes)[0], atol=1e-3)  # stored as float16
    assert seen.present.tolist() == [[True, True], [True, False]]
    assert seen.boxes[1, 0].tolist() == [0, 0, 1, 1]  # without objects: the picture, of which nothing is known
    assert not seen.features[1].any()
    assert np.array_equal(pickle.loads(pickle.dumps(stored)).image(item), stored.image(item))  # in another process
    labels = stored.labels([item, "item-001", "item-000"])
    assert labels.labels.tolist() == [[1, 0], [0, UNKNOWN], [UNKNOWN, UNKNOWN]]
    assert labels.scores.tolist() == [[1, 0.5], [0.5, 0], [0, 0]]
    assert labels.attributes[..., 0].tolist() == labels.labels.tolist()


def test_a_step_that_was_stopped_continues_with_the_pictures_that_are_left(
    recipe, own_workspace, catalog, quiet, monkeypatch
):
    annotate(own_workspace)
    monkeypatch.setattr(step, "CHUNK", 16)
    whole = step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    shutil.rmtree(own_workspace.regions("annotated"))
    find, asked = step.SampledRegions.find, []

    def stops(self, items):
        asked.append(items[0])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return find(self, items)

    monkeypatch.setattr(step.SampledRegions, "find", stops)
    with pytest.raises(KeyboardInterrupt):
        step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    assert not own_workspace.regions("annotated").exists()
    assert step.regions(recipe, catalog, own_workspace, quiet, "annotated") == whole
    assert asked == ["item-000", "item-016", "item-016", "item-032"]


def test_squares_are_stored_as_the_network_would_read_them_off_the_picture(recipe, own_workspace, catalog, quiet):
    summary = step.regions(recipe, catalog, own_workspace, quiet, "grid")
    assert (summary["regions"], summary["names"]["labels"]) == (40 * 5, [])
    stored, store = opened(recipe, own_workspace, "grid"), open_items(recipe.loader, own_workspace)
    seen = unpack(to_pixels([stored.image("item-007")], 1))
    side, _ = frozen_side(recipe.systems["grid"].image.features)
    wanted = pooled(side.grid(as_floats(to_pixels([store.image("item-007")], 1))), grid_boxes(2))
    by_box = {tuple(box): feature for box, feature in zip(seen.boxes[0].tolist(), seen.features[0], strict=True)}
    for box, feature in zip(grid_boxes(2).tolist(), wanted[0], strict=True):
        assert torch.allclose(by_box[tuple(box)], feature, atol=1e-3)
    other = parse(Recipe, override(recipe.model_dump(mode="json"), ["systems.grid.image.side=3"]), "recipe")
    with pytest.raises(InputError, match="other settings than those of the recipe; run `mlim regions grid` again"):
        opened(other, own_workspace, "grid")


def test_files_of_regions_are_read_in_the_order_of_the_items(recipe, own_workspace, catalog, quiet, tmp_path):
    path = write_tsv(tmp_path / "f.tsv")
    nan, outside = np.full((2, 6), np.nan), [[0, 0, 100, 50], [50, 25, 900, 100]]
    bad = [tsv_line("item-038", features=packed(nan, "<f4")), tsv_line("item-039", boxes=packed(outside, "<f4"))]
    path.write_text(path.read_text() + "".join([*bad, tsv_line("item-003")]))
    summary = step.regions(recipe, catalog, own_workspace, quiet, f"tsv:{path}")
    assert summary["quarantined"] == {"box-outside": 1, "not-finite": 1, "repeated-picture": 1}
    counts = ("regions", "pictures_without", "unknown_pictures", "feature_size")
    assert [summary[key] for key in counts] == [2 * 38 + 1, 1, 1, 6]
    assert summary["names"] == {"labels": ["0", "1"], "attributes": {"attribute": ["0", "1", "2"]}}
    stored = opened(recipe, own_workspace, "tsv")
    seen, labels = unpack(to_pixels([stored.image("item-005")], 1)), stored.labels(["item-005"])
    assert seen.boxes[0].tolist() == [[0.25, 0.25, 1, 1], [0, 0, 0.5, 0.5]]  # the surer one comes first
    wanted = np.random.default_rng(5).random((2, 6))[::-1].astype(np.float16)
    assert np.array_equal(seen.features[0].numpy().astype(np.float16), wanted)
    assert (labels.labels.tolist(), labels.scores.tolist()) == ([[0, 1]], [[0.75, 0.5]])
    assert labels.attribute_scores[0, :, 0].tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (tsv_line("item-001")[:60], "line 2: must have 10 columns between tabs, it has 6"),
        (tsv_line("item-001")[:-20], "line 2: `features`"),
        (tsv_line("item-001", num_boxes="3"), "line 2: `boxes` has 32 bytes"),
        (tsv_line("item-001", size=7), "line 2: features of 7 numbers, those before 6"),
    ],
)
def test_files_that_are_not_of_their_layout_are_refused_with_their_line(
    recipe, own_workspace, catalog, quiet, tmp_path, line, message
):
    (tmp_path / "f.tsv").write_text(tsv_line("item-000") + line)
    with pytest.raises(InputError, match=f"f.tsv: {message}"):
        step.regions(recipe, catalog, own_workspace, quiet, f"tsv:{tmp_path / 'f.tsv'}")
    assert not own_workspace.regions("tsv").exists()


def test_regions_never_tell_what_decides_the_pairs(recipe, own_workspace, catalog, quiet):
    annotate(own_workspace, pattern="striped")
    with pytest.raises(InputError, match="the attribute `pattern` of these regions decides which pairs match"):
        step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    catalog = describe(catalog.parent, annotations={"may_tell": ["pattern"]})
    summary = step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    assert [*summary["names"]["attributes"]] == ["size", "pattern"]


def test_labels_come_with_a_batch_where_a_task_asks_for_them(recipe, own_workspace, catalog, quiet):
    annotate(own_workspace)
    step.regions(recipe, catalog, own_workspace, quiet, "annotated")
    stored = opened(recipe, own_workspace, "annotated")
    beside = annotations_for(recipe.pretrainings["annotated"], own_workspace, stored)
    assert known_from(beside, stored) == Known(stored.facts.names, 48)
    batch = ItemCollator(stored, TextTokenizer.learn(["a"], 10), 8, None, beside)(["item-002", "item-001"])
    assert is_packed(batch.pixels)
    swapped = batch.with_pictures_of(torch.tensor([1, 0]))
    assert swapped.region_labels.labels.tolist() == [[0, UNKNOWN], [1, 0]]
    assert torch.equal(swapped.pixels[0], batch.pixels[1])


def a_model(**config) -> Crossed:
    shape = {"image": {"kind": "regions", "source": "tsv", "count": 3}, "width": 16, "heads": 2, "dropout": 0.0}
    system = CrossedSystem.model_validate(shape)
    config = CrossedConfig(vocabulary_size=30, text_positions=12, image_size=16, shape=system, feature_size=7, **config)
    return Crossed.planned(config, 0).build().eval()


def regions_of(numbers: list[int], size: int = 7, most: int = 3) -> torch.Tensor:
    """Random regions of pictures that have so many."""
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(len(numbers), most, 2, generator=generator) / 2
    present = (torch.arange(most) < torch.tensor(numbers)[:, None]).float()[..., None]
    features = torch.rand(len(numbers), most, size, generator=generator)
    return torch.cat([features, low, low + 0.4, torch.ones_like(present)], dim=-1) * present


def test_outputs_with_stored_features_equal_the_librarys_and_read_no_region_that_is_not_there():
    torch.manual_seed(0)
    theirs = LxmertModel(
        LxmertConfig(
            vocab_size=30, hidden_size=16, num_attention_heads=2, intermediate_size=64, l_layers=2, r_layers=1,
            x_layers=2, visual_feat_dim=7, max_position_embeddings=12, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    model, item, packed_regions = a_model(), shown(), regions_of([3, 1, 2, 3])
    copy_lxmert(theirs, model)
    seen = unpack(packed_regions)
    other = torch.where(seen.present[..., None], packed_regions, torch.rand_like(packed_regions))
    other[..., -1] = packed_regions[..., -1]
    with torch.no_grad():
        wanted = theirs(
            item.input_ids,
            visual_feats=seen.features,
            visual_pos=seen.boxes,
            attention_mask=item.text_attention.float(),
            visual_attention_mask=seen.present.float(),
        )
        found, again = (model.fuse(item._replace(pixels=each)) for each in (packed_regions, other))
        vectors = [model.encode_items(item._replace(pixels=each), "both") for each in (packed_regions, other)]
        pooled_output = torch.tanh(model.itm_head.dense(found.text[:, 0]))
    assert torch.allclose(found.text[item.text_attention], wanted.language_output[item.text_attention], atol=1e-5)
    assert torch.allclose(found.patches[seen.present], wanted.vision_output[seen.present], atol=1e-5)
    assert torch.allclose(pooled_output, wanted.pooled_output, atol=1e-5)
    assert torch.allclose(found.text, again.text, atol=1e-6)
    assert torch.allclose(*vectors, atol=1e-6)
    with pytest.raises(InputError, match=r"reads stored regions \(source tsv\) was shown pictures"):
        model.fuse(item)


def labelled_batch() -> ItemBatch:
    item, labels = (
        shown(lengths=(7, 6, 7, 5)),
        torch.tensor([[0, 1, 1], [0, UNKNOWN, UNKNOWN], [1, 0, UNKNOWN], [1, 1, 0]]),
    )
    maskable = item.text_attention & (item.input_ids >= 5)
    scores = torch.rand(4, 3, generator=torch.Generator().manual_seed(2)) * (labels != UNKNOWN)
    told = RegionLabels(labels, scores, labels[..., None], scores[..., None])
    return ItemBatch(
        item.input_ids, item.text_attention, maskable, regions_of([3, 1, 2, 3]), list("abcd"), region_labels=told
    )


def test_labels_and_attributes_of_hidden_regions_weigh_as_much_as_they_are_sure():
    model, batch = a_model(objects=ObjectNames.model_validate(NAMES)), labelled_batch()
    tasks = [{"task": f"region-{kind}"} for kind in ("feature", "label", "attribute")]
    pretraining = Pretraining(losses=("mlm", "itm"), masking="text", tasks=tasks)
    config = PretrainConfig(masking=MaskingConfig(regions=0.6))
    prepared = pretrain_objective(model, config, pretraining, 10, 0).prepare(batch, 1)
    output = pretrain_objective(model, config, pretraining, 10, 0).losses(prepared)
    found = {term.name: term.term for term in output.terms}
    assert {name: term.count.item() for name, term in found.items()} == prepared.counts
    hidden = prepared.masks.image
    assert 0 < hidden.sum() == prepared.counts["region-feature"] == prepared.counts["region-label"]
    assert not (hidden & ~unpack(prepared.batch.pixels).present).any()
    told = prepared.batch.region_labels
    with torch.no_grad():
        fused = model.fuse(
            Shown(batch.input_ids, batch.text_attention, prepared.batch.pixels, prepared.masks.text, hidden)
        )
        logits = model.region_label_head(fused.patches[hidden])
        single = torch.nn.functional.cross_entropy(logits, told.labels[hidden], reduction="none")
        assert torch.isclose(found["region-label"].total, (single * told.scores[hidden]).sum(), atol=1e-5)
        logits = model.region_attribute_head(fused.patches[hidden])
        single = torch.nn.functional.cross_entropy(logits, told.attributes[hidden][:, 0], reduction="none")
        assert torch.isclose(found["region-attribute"].total, (single * told.scores[hidden]).sum(), atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("systems.tsv.image.source=null", "systems.tsv.*source"),
        ("systems.tsv.image.source=boxes", "regions come from grid, annotated, detector:PRETRAINING or tsv"),
        ("systems.third={kind: crossed, image: {source: annotated}}", "a CNN with random weights says little of them"),
        ("systems.detected.image.source='detector:found'", "no pre-training `found`"),
        (
            "systems.detected.image.source='detector:tsv'",
            "pre-training tsv has no task detect that reads pictures alone",
        ),
        (
            "systems.second={kind: crossed, image: {source: annotated, features: {kind: patch, size: 8}}}",
            "wants other regions",
        ),
        ("pretrainings.grid.tasks=[{task: region-attribute}]", "needs regions with attributes, which a grid has not"),
        ("main=tsv", "main: variant `tsv` reads regions that are stored beside the catalog"),
        ("variants.tsv.label=LXMERT", "has also seen TSV, which others have not"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(recipe, setting, message):
    with pytest.raises(InputError, match=message):
        parse(Recipe, override(recipe.model_dump(mode="json"), [setting]), "recipe tiny")


def test_detected_regions_follow_their_detector_in_plan_and_key(recipe):
    used = {name: recipe.variants[name] for name in ("detected", "annotated", recipe.main)}
    small = recipe.model_copy(update={"variants": used})
    targets = [stage.target for stage in everything(small)]
    ordered = ["annotate", "pretrain-detector@detector-0", "regions-detector-detector", "pretrain@annotated-0"]
    assert [target for target in targets if target in ordered] == ordered
    assert Stage("regions", "annotated", group="regions-annotated").arguments == ["regions", "annotated"]
    defined = define_stages(small, Workspace(Path("work")))
    assert Path("work/regions/detector-detector") in defined["regions-detector-detector"].writes
    assert Path("work/pretrain/detector-s${seeds[0]}/model") in defined["regions-detector-detector"].reads
    assert Path("work/regions/annotated") in defined["pretrain"].reads
    twice = define_stages(small.model_copy(update={"seeds": (0, 1)}), Workspace(Path("work")))
    assert [name for name, stage in twice.items() if stage.runs and stage.first_seed] == ["pretrain-detector"]
    longer = override(
        recipe.model_dump(mode="json"), ["pretrainings.detector.tasks=[{task: detect, text: false, weight: 2}]"]
    )
    other = parse(Recipe, longer, "recipe")
    changed = {
        name
        for name in recipe.variants
        if recipe.training_key("finetune", name) != other.training_key("finetune", name)
    }
    assert changed == {"detected"}


def test_captions_are_declared_and_a_catalog_may_have_none(recipe, own_workspace, catalog, quiet):
    system = "{kind: writer, image: {kind: patch, size: 4}, image_depth: 1, depth: 1, width: 16, heads: 2}"
    git = ["systems.git=" + system, "pretrainings.git={system: git, tasks: [{task: caption}]}"]
    values = override(recipe.model_dump(mode="json"), [*git, "variants.git={label: GIT, pretraining: git}"])
    writes = parse(Recipe, values, "recipe")
    writes = writes.model_copy(update={"variants": {name: writes.variants[name] for name in ("git", recipe.main)}})
    assert "mlim annotate --if-any" in [" ".join(["mlim", *stage.arguments]) for stage in everything(writes)]
    defined = define_stages(writes, Workspace(Path("work")))
    assert Path("work/annotations/captions.arrow") in defined["pretrain"].reads
    assert [*defined["annotate"].arguments] == ["--if-any"]
    with pytest.raises(InputError, match="has no section `annotations`"):
        run_annotate(writes, catalog, own_workspace, quiet)
    assert run_annotate(writes, catalog, own_workspace, quiet, if_any=True)["priors"] == {}
    assert annotations_for(writes.pretrainings["git"], own_workspace) is None
    needed = recipe.model_copy(
        update={"variants": {name: recipe.variants[name] for name in ("annotated", recipe.main)}}
    )
    assert [*define_stages(needed, Workspace(Path("work")))["annotate"].arguments] == []


def test_columns_that_the_items_were_ingested_without_are_named(recipe, own_workspace, tmp_path, quiet):
    asked = {"questions": [{"column": "size", "ask": "how large is it?"}], "captions": ["title"]}
    with pytest.raises(InputError, match=r"reads size, title, which the items in .* were ingested without; run"):
        run_annotate(recipe, describe(tmp_path, annotations=asked), own_workspace, quiet)
    assert not own_workspace.annotations.exists()


def test_tables_say_what_variants_have_seen_that_others_may_not_have(recipe):
    saw = {
        name: recipe.also_saw(recipe.variants[name]) for name in ("annotated", "grid", "detected", "tsv", recipe.main)
    }
    labelled = ("boxes", "attributes")
    assert saw == {"annotated": labelled, "detected": labelled, "tsv": (*labelled, "TSV"), "grid": (), recipe.main: ()}
    lite = "systems.lite={kind: crossed, image: {features: {kind: lite}}}"
    asks = "pretrainings.lite={system: lite, tasks: [{task: answer}]}"
    labelled = "variants.lite={label: ImageNet, pretraining: lite}"
    other = parse(Recipe, override(recipe.model_dump(mode="json"), [lite, asks, labelled]), "recipe")
    assert other.also_saw(other.variants["lite"]) == ("questions", "ImageNet")
    for kind in ("e2e-vlp", "writer", "joint"):
        system, named = (
            f"systems.lite={{kind: {kind}, image: {{kind: lite}}}}",
            "variants.lite={label: LABEL, system: lite",
        )
        shown = [system, f"{named}, pretraining: null}}"]
        with pytest.raises(InputError, match="its network has also seen ImageNet"):
            parse(Recipe, override(recipe.model_dump(mode="json"), shown), "recipe")
        labelled = [each.replace("LABEL", "ImageNet") for each in shown]
        of_kind = parse(Recipe, override(recipe.model_dump(mode="json"), labelled), "recipe")
        assert of_kind.also_saw(of_kind.variants["lite"]) == ("ImageNet",)
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = {name: {"label": name, "zero_shot": False, "seeds": 1, "r1": value} for name in ("grid", "annotated")}
    figure = {"name": "r1", "title": "recall"}
    tables = {"retrieval": {"title": "t", "main": "grid", "figures": [figure], "rows": rows}}
    assert task_header(tables["retrieval"])[:2] == ("variant", "seeds")
    table = with_seen(recipe, tables)["retrieval"]
    assert task_header(table)[:3] == ("variant", "also saw", "seeds")
    assert [cells[:2] for cells in task_rows(table)] == [("grid", "\u2013"), ("annotated", "boxes, attributes")]
