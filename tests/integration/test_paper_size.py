"""The network in the paper's size really trains: bert-large, 384 x 384 pictures, one step on a CPU."""

import numpy as np
import pytest
import torch

from mlim.data.collate import ItemCollator
from mlim.data.tokenize import TextTokenizer
from mlim.models.hub import build_mlim
from mlim.recipe import load_recipe
from mlim.tasks.build import pretrain_objective
from mlim.training.device import DeviceContext
from mlim.training.loop import one_step
from mlim.training.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Shop:
    """Two items with long texts and pictures of noise."""

    def text(self, item: str, /) -> str:
        return " ".join(f"{item} word{number}" for number in range(60))

    def image(self, item: str, /) -> np.ndarray:
        return np.random.default_rng(len(item)).integers(0, 256, (384, 384, 3), dtype=np.uint8)


def test_one_step_of_the_papers_job(tmp_path):
    recipe = load_recipe("paper", ["model.start=random", "device=cpu"])
    shop = Shop()
    tokenizer = TextTokenizer.learn((shop.text(item) for item in ("a", "bb")), recipe.text.vocabulary_size)
    model = build_mlim(recipe, tokenizer, seed=0)
    transformer = sum(parameter.numel() for parameter in model.backbone.encoder.parameters())
    assert transformer == 302_309_376  # bert-large's 24 blocks
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == pytest.approx(2.8e6, rel=0.01)
    assert sum(parameter.numel() for parameter in model.backbone.image_embedder.parameters()) == pytest.approx(
        200e3, rel=0.01
    )
    batch = ItemCollator(shop, tokenizer, recipe.text.max_tokens)(["a", "bb"])
    assert batch.input_ids.shape == (2, 64 + 2)
    before = model.backbone.word_embeddings.weight.detach().clone()
    objective = pretrain_objective(
        model, recipe.pretrain, recipe.pretrainings["recon-mlm-mam"], recipe.text.limit, seed=0
    )
    assert objective.prepare(batch, 0).tokens == 2 * (66 + 64)
    one_step(objective, batch, recipe.pretrain.optim, DeviceContext(torch.device("cpu"), Ranks(), recipe.compute))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert not torch.equal(model.backbone.word_embeddings.weight, before)
