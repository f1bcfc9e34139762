"""A stack whose classifiers read features of a frozen network: alike wherever it scores, without the package too."""

import asyncio
import base64
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlim.console import SilentBar
from mlim.data.images import as_floats, to_pixels
from mlim.errors import InputError
from mlim.http_api.options import ApiOptions
from mlim.http_api.schema import ScoreRequest
from mlim.http_api.service import Service
from mlim.loading import load
from mlim.matching.prepared import caches_for
from mlim.models.images.build import build_image_side
from mlim.models.images.lite import PACKAGE
from mlim.models.weights import fill, named_tensors
from mlim.recipe import load_recipe
from mlim.recipe.image_sides import LiteSide
from mlim.shards.items import ItemStore
from mlim.stacking.features import LiteFeatures
from mlim.stacking.items import describe
from mlim.stacking.parts import fit_parts
from mlim.stacking.pictures import from_row, picture_of, to_row
from mlim.stacking.storage import FEATURES_FILE, copy_stack, load_stack, save_stack
from mlim.steps.explain import explain_pairs
from tests.unit.test_stacking import FOLDS, SEED, few_trees, learned, parts, stack_of  # noqa: F401 (fixtures)
from tests.unit.test_steps_explain import PAIR, scores_of_table, stacked_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"needs the package {PACKAGE} (pip install .[lite])"
)
WIDTHS = {16: 112, 32: 320}  # channels of the grid of each stride
SIZE = 48


@pytest.fixture(scope="module")
def network():
    return LiteFeatures.from_package()


@pytest.fixture(scope="module")
def store(tiny_workspace):
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


@pytest.fixture(scope="module")
def seen(learned, store, network):  # noqa: F811
    """What the parts learn from, with the features of every picture."""
    return replace(learned, items=describe(store, list(store.ids), SilentBar(), network.measure))


@pytest.fixture(scope="module")
def seeing(seen):
    return fit_parts(seen, FOLDS, SEED)


@pytest.fixture
def model(tiny_recipe, seeing, seen, network):
    model = stacked_model(tiny_recipe, seeing, seen)
    model._stack = model._stack._replace(features=network)
    return model


def drawn(number=1):
    return np.random.default_rng(number).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


def test_features_are_the_mean_cells_of_the_grids_that_a_network_reads(network):
    parts_ = np.split(network.of(drawn()), [WIDTHS[16]])
    for (stride, width), found in zip(WIDTHS.items(), parts_, strict=True):
        side = build_image_side(LiteSide(stride=stride), 1).eval()
        fill(side, (*named_tensors(side).items(), *side.start()))
        with torch.no_grad():
            expected = side.grid(as_floats(to_pixels([drawn()], 1))).mean(dim=(2, 3))[0]
        assert found.shape == (width,)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_kept_of_a_picture_comes_back(network):
    for measure in (picture_of, network.measure):
        picture = measure(drawn())
        again = from_row(to_row(picture))
        for found, expected in zip(again, picture, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
        np.testing.assert_array_equal(again.measures, picture.measures)


def test_the_classifiers_read_them(seeing, parts):  # noqa: F811
    more, fewer = (each.classifiers.pictures.n_features_in_ for each in (seeing, parts))
    assert more == fewer + sum(WIDTHS.values())


def test_a_stored_stack_needs_no_package(seeing, seen, network, tmp_path, monkeypatch):
    stack = stack_of(seeing, seen)._replace(features=network)
    made, copied = tmp_path / "made", tmp_path / "copied"
    for folder in (made, copied):
        folder.mkdir()
    save_stack(made, stack)
    copy_stack(made, copied)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install mlim\[lite\]"):
        LiteFeatures.from_package()
    again = load_stack(copied)
    np.testing.assert_array_equal(again.measure(drawn()).features, network.of(drawn()))
    places = seen.first, seen.second
    given = [each.score(seen.items, *places, lambda: pytest.fail("no matcher is asked")) for each in (again, stack)]
    np.testing.assert_array_equal(*given)


def test_weights_of_another_network_are_refused(seeing, seen, network, tmp_path):
    save_stack(tmp_path, stack_of(seeing, seen)._replace(features=network))
    path = tmp_path / FEATURES_FILE
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if not name.startswith("stem")}, path)
    with pytest.raises(InputError, match="other weights than those of EfficientNet-Lite0"):
        load_stack(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=FEATURES_FILE):
        load_stack(tmp_path)


def test_it_scores_alike_a_catalog_items_of_python_and_of_http(tiny_recipe, tiny_workspace, model, store, tmp_path):
    expected = scores_of_table(model, tiny_recipe, tiny_workspace, tmp_path)
    fields = [{**store.columns(item), "image": store.jpeg(item)} for item in PAIR]
    items_in = [{"fields": store.columns(item), "image": base64.b64encode(store.jpeg(item)).decode()} for item in PAIR]
    request = ScoreRequest.model_validate({"pairs": [dict(zip("ab", items_in, strict=True))]})
    served = asyncio.run(Service(model, ApiOptions()).score(request)).results[0].score
    assert served == pytest.approx(model.score([tuple(fields)])[0], abs=1e-6)
    model.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.picture_features == "lite0"
    (tmp_path / "again").mkdir()
    assert scores_of_table(again, tiny_recipe, tiny_workspace, tmp_path / "again") == pytest.approx(expected, abs=1e-6)


def test_it_is_explained_as_it_decides(tiny_recipe, tiny_workspace, model, tmp_path, quiet):
    model.settings = model.settings.model_copy(update={"batch_size": 64})
    (found,) = explain_pairs(model, [PAIR], tiny_recipe, tiny_workspace, 0.5, quiet).values()
    assert found.score == pytest.approx(scores_of_table(model, tiny_recipe, tiny_workspace, tmp_path)[0], abs=1e-6)


def test_measures_with_and_without_features_are_kept_apart(tiny_recipe, model, seeing, seen, tmp_path):
    plain = stacked_model(tiny_recipe, seeing, seen)
    folders = {caches_for(each, "both", tmp_path, tmp_path).measures.folder for each in (model, plain)}
    assert {folder.name for folder in folders} == {"measures-lite0-1", "measures-1"}


def test_a_recipe_says_what_its_stack_has_seen():
    plain, seeing = load_recipe("small"), load_recipe("small", ["stack.features=lite0"])
    assert plain.stack_saw(matcher=True) == plain.stack_saw(matcher=False) == ()
    assert seeing.stack_saw(matcher=True) == seeing.stack_saw(matcher=False) == ("ImageNet",)
    assert (plain.reads_lite, seeing.reads_lite) == (False, True)
    photos = load_recipe("photos", ["stack.features=null"])
    assert (photos.stack_saw(matcher=True), photos.stack_saw(matcher=False)) == (("ImageNet",), ())
