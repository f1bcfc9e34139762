"""Models as ONNX graphs: the scores of torch for every read-out and modality, and `mlim export` from end to end."""

import numpy as np
import pandas as pd
import pytest
import torch

import mlim
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, sha256_of
from mlim.manifest import MANIFEST, ChangedFilesError
from mlim.matching.batch import ScoringRun, score_table
from mlim.matching.pairs_table import PairsTable
from mlim.models.config import SpecialIds
from mlim.models.dual import Dual, DualConfig
from mlim.models.joint import Joint, JointConfig
from mlim.models.separate_matcher import SeparateMatcher
from mlim.onnx.export import export_matcher, quantized
from mlim.onnx.matcher import OnnxMatcher
from mlim.recipe.dual import DualSystem
from mlim.recipe.joint import JointSystem
from mlim.shards.items import ItemStore
from mlim.steps.export import INT8, ONNX, TORCH, export, random_side
from tests.unit.test_loading import build, items

pytestmark = pytest.mark.integration
SIZES = ((1, 1, 7), (5, 12, 12), (3, 7, 2))  # pairs, and the longest text of either side


def as_graphs(model, modality):
    settings = model.settings
    return model.with_network(export_matcher(model.network, modality, settings.max_tokens, settings.image_size))


def assert_same_scores(model, other, modality, tolerance):
    source = torch.Generator().manual_seed(0)
    for pairs, first, second in SIZES:
        sides = [random_side(model, pairs, longest, source) for longest in (first, second)]
        expected = model.matcher_scores(*sides, modality)
        np.testing.assert_allclose(other.matcher_scores(*sides, modality), expected, atol=tolerance)
        assert pairs == 1 or np.ptp(expected) > 100 * tolerance or tolerance > 1e-4


@pytest.mark.parametrize(
    ("read_out", "joint_blocks", "modality"),
    [
        ("joint", None, "both"),
        ("joint", 1, "both"),
        pytest.param("cls", None, "text", marks=pytest.mark.slow),
        pytest.param("cls", 1, "image", marks=pytest.mark.slow),
    ],
)
def test_graphs_of_items_and_pairs_give_the_scores_of_torch(tiny_recipe, read_out, joint_blocks, modality):
    model = build(tiny_recipe, read_out, joint_blocks)
    exported = as_graphs(model, modality)
    assert_same_scores(model, exported, modality, 1e-5)
    assert_same_scores(model, model.with_network(quantized(exported.network)), modality, 0.2)
    with pytest.raises(InputError, match="read modality"):
        exported.check_modality("text" if modality == "image" else "image")


def test_graphs_score_tables_with_what_is_computed_once_for_an_item(tiny_recipe, tiny_workspace, tmp_path, quiet):
    model, found = build(tiny_recipe), []
    store = ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")
    pd.DataFrame({"item_a": [*store.ids[:9]] * 2, "item_b": store.ids[9:27]}).to_parquet(tmp_path / "p.parquet")
    for name, one in (("torch", model), ("onnx", as_graphs(model, "both"))):
        run = ScoringRun(one, "both", store, {}, tmp_path / name, 0.5)
        score_table(run, PairsTable(tmp_path / "p.parquet"), tmp_path / f"{name}-out.parquet", 1, quiet)
        found.append(pd.read_parquet(tmp_path / f"{name}-out.parquet")["score"])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.ptp(found[0]) > 0.01


def test_graphs_of_an_earlier_version_are_refused(tiny_recipe, tmp_path):
    exported = as_graphs(build(tiny_recipe), "both").network
    exported.save_pretrained(tmp_path)
    (tmp_path / "join.onnx").rename(tmp_path / "pair.onnx")
    with pytest.raises(InputError, match=r"has no join\.onnx.*run `mlim export` again"):
        OnnxMatcher.from_pretrained(tmp_path)


DUAL = DualSystem.model_validate({"image": {"size": 4, "depth": 1}, "text_depth": 1, "width": 16, "heads": 2})
CNN = {"kind": "cnn", "stem": 8, "depths": [1, 1], "widths": [8, 16]}
JOINT = JointSystem.model_validate({"image": CNN, "depth": 1, "width": 16, "heads": 2, "norm": "pre"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "inputs", "shape"), [(Dual, DualConfig, DUAL), (Joint, JointConfig, JOINT)], ids=["dual", "joint"]
)
def test_another_system_gives_the_scores_of_torch(tiny_recipe, system, inputs, shape):
    model = build(tiny_recipe, "separate")
    config = inputs(
        vocabulary_size=model.tokenizer.vocabulary_size,
        special=SpecialIds.of(model.tokenizer),
        text_positions=14,
        image_size=16,
        shape=shape,
    )
    network = SeparateMatcher.planned(system.planned(config, 0), 0.0, 0).build().eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
    other = model.with_network(network)
    assert_same_scores(other, as_graphs(other, "both"), "both", 1e-5)


@pytest.fixture(scope="module")
def exported(tiny_recipe, tiny_workspace, tmp_path_factory):
    """A model that encodes items alone, and what `mlim export --int8` made of it."""
    model, out = build(tiny_recipe, "separate"), tmp_path_factory.mktemp("export") / "out"
    summary = export(model, out, tiny_recipe, tiny_workspace, Terminal(quiet=True), int8=True)
    return model, out, summary


def test_what_is_exported_was_compared_with_torch_on_the_test_pairs(exported):
    _, out, summary = exported
    assert read_json(out / "summary.json") == summary
    assert summary["test_pairs"]
    assert list(summary["runtimes"]) == [TORCH, ONNX, INT8]
    assert summary["runtimes"][ONNX]["largest_difference"] < 1e-5
    assert 1e-5 < summary["runtimes"][INT8]["largest_difference"] < 0.2
    assert abs(summary["runtimes"][ONNX]["pr_auc_difference"]["value"]) < 1e-3
    assert 0 < summary["runtimes"][INT8]["pr_auc"]["value"] <= 1


def test_an_exported_model_scores_tables(exported, tiny_workspace, tmp_path, quiet):
    model, out, _ = exported
    store = ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")
    ids = list(store.ids)
    pd.DataFrame({"item_a": ids[:20], "item_b": ids[20:]}).to_csv(tmp_path / "pairs.csv", index=False)
    scores = []
    for number, one in enumerate((model, mlim.load(out))):
        run, target = ScoringRun(one, "both", store, {}, tmp_path / "cache", 0.5), tmp_path / f"{number}.parquet"
        score_table(run, PairsTable(tmp_path / "pairs.csv"), target, 1, quiet)
        scores.append(pd.read_parquet(target)["score"])
    np.testing.assert_allclose(*scores, atol=np.ptp(scores[0]) / 2)


def test_an_exported_model_is_a_model_as_any_other(exported, tmp_path, tiny_recipe, tiny_workspace, quiet):
    model, out, _ = exported
    loaded = mlim.load(out)
    assert loaded.encode(items(3)).shape == (3, model.item_width)
    loaded.save(tmp_path / "copy")
    assert sha256_of(tmp_path / "copy" / MANIFEST) == loaded.sha256 != model.sha256
    with pytest.raises(InputError, match="holds ONNX graphs already"):
        export(loaded, tmp_path / "again", tiny_recipe, tiny_workspace, quiet)
    with (tmp_path / "copy" / "item.onnx").open("ab") as graph:
        graph.write(b"!")
    with pytest.raises(ChangedFilesError, match=r"item\.onnx"):
        mlim.load(tmp_path / "copy")
