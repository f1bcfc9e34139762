"""Models that an earlier version saved (tests/pinned) are read, and give the scores that they gave."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mlim.data.batches import PairSide
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim

PINNED = Path(__file__).parents[1] / "pinned"
PIXELS = torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 8, 8)


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    return dict(json.loads((PINNED / "scores.json").read_text(encoding="utf-8")))


@torch.no_grad()
def test_a_pre_trained_model_of_before_gives_the_same_outputs(scores):
    model = Mlim.from_pretrained(PINNED / "mlim")
    ids = torch.tensor([[2, 7, 9, 3], [2, 11, 3, 0]])
    output = model.forward_items(ids, ids != 0, PIXELS)
    assert model.itm_logits(output.text[:, 0]).tolist() == pytest.approx(scores["itm"], abs=1e-5)
    assert model.mlm_logits(output.text[0, 1:3]).mean(1).tolist() == pytest.approx(scores["mlm"], abs=1e-5)
    assert model.reconstruct(output.patches).mean((1, 2, 3)).tolist() == pytest.approx(scores["recon"], abs=1e-5)


@torch.no_grad()
def test_a_matcher_of_before_gives_the_same_scores(scores):
    matcher = Matcher.from_pretrained(PINNED / "matcher")
    attention = torch.tensor([[True, True], [True, False]])
    first = PairSide(torch.tensor([[7, 9], [11, 5]]), attention, PIXELS)
    second = PairSide(torch.tensor([[7, 10], [11, 5]]), attention, PIXELS.flip(0))
    for modality in ("both", "text", "image"):
        assert matcher(first, second, modality).tolist() == pytest.approx(scores["match"][modality], abs=1e-5)
