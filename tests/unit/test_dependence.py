"""What an answer depends on: cells that are gray, one after the other."""

from functools import partial

import pytest
import torch

from mlim.data.asked import AskedBatch
from mlim.evaluation.dependence import CELLS, dependence, with_gray_cells
from mlim.models.item_classifier import ItemClassifier
from mlim.models.joint import Joint, JointConfig
from mlim.recipe.joint import JointSystem

SHAPE = {"image": {"kind": "patch", "size": 4}, "depth": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def model() -> ItemClassifier:
    config = JointConfig(vocabulary_size=30, text_positions=12, image_size=16, shape=JointSystem.model_validate(SHAPE))
    return ItemClassifier.planned(Joint.planned(config, 0), 1, ["red", "blue", "two"], 0).build().eval()


def batch_of(pixels: torch.Tensor) -> AskedBatch:
    ids = torch.tensor([[2, 7, 9, 3]])
    return AskedBatch(ids, torch.ones_like(ids, dtype=torch.bool), pixels[None], torch.zeros(1, 3), ["item"])


def test_each_cell_is_gray_once_and_all_else_stays():
    pixels = torch.rand(3, 18, 18)  # which 4 cells do not divide evenly
    shown = with_gray_cells(pixels)
    changed = (shown != pixels).any(dim=1)
    assert changed.sum(dim=0).eq(1).all()
    assert len(shown) == CELLS**2
    assert (shown[5][:, changed[5]] == 0.5).all()


def test_a_fall_is_that_of_the_log_probability_of_the_answer(model):
    pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    falls = dependence(partial(model.chances, batch_of(pixels), 2), pixels[None])
    with torch.no_grad():
        whole, without = (
            float(model(batch_of(each), "both").log_softmax(dim=1)[0, 2])
            for each in (pixels, with_gray_cells(pixels)[6])
        )
    assert falls[6] == pytest.approx(whole - without, abs=1e-5)
    assert max(map(abs, falls)) > 1e-4


def test_a_gray_picture_has_nothing_to_lose(model):
    pixels = torch.full((3, 16, 16), 0.5)
    falls = dependence(partial(model.chances, batch_of(pixels), 0), pixels[None])
    assert falls == pytest.approx([0.0] * CELLS**2, abs=1e-6)
