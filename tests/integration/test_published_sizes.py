"""The networks of recipes `lxmert` and `e2e-vlp` really train: one step of two items on a CPU, from random weights."""

import resource
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mlim.data.collate import ItemCollator
from mlim.data.objects import Beside, Known, ObjectNames, Region
from mlim.data.tokenize import TextTokenizer
from mlim.models.systems import plan_system
from mlim.recipe import load_recipe
from mlim.tasks.build import pretrain_objective
from mlim.training.device import DeviceContext
from mlim.training.loop import one_step
from mlim.training.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MOST_MEMORY = 12  # GiB
STARTS = {"lxmert": "systems.lxmert.image.features.start=random", "e2e-vlp": "systems.e2e-vlp.image.start=random"}


class Photographs:
    """One picture of noise with a long text, two objects and a caption."""

    names = ObjectNames(labels=("left", "right"), attributes={"size": ("small", "large")})

    def __init__(self, size: int) -> None:
        self._size = size

    def text(self, item: str, /) -> str:
        return " ".join(f"word{number}" for number in range(60))

    def image(self, item: str, /) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (self._size, self._size, 3), dtype=np.uint8)

    def regions(self, item: str, /) -> Sequence[Region]:
        return [Region((0.0, 0.0, 0.5, 1.0), 0, (0,)), Region((0.5, 0.0, 1.0, 1.0), 1, (1,))]

    def captions(self, item: str, /) -> Sequence[str]:
        return ["word1 word2"]

    def questions(self, item: str, /) -> Sequence[None]:
        return []


@pytest.mark.parametrize("name", STARTS)
def test_one_step_of_the_published_size(name):
    recipe = load_recipe(name, [STARTS[name], "device=cpu", "compute.compile=false"])
    photographs = Photographs(recipe.image.size)
    tokenizer = TextTokenizer.learn([photographs.text("a")], recipe.text.vocabulary_size)
    known = Known(objects=photographs.names)
    model = plan_system(recipe.systems[name], recipe.network, tokenizer, seed=0, known=known).build()
    beside = Beside(photographs, objects=True, captions=True)
    batch = ItemCollator(photographs, tokenizer, recipe.text.limit, beside=beside)(["a", "b"])
    before = {key: value.detach().clone() for key, value in model.named_parameters() if "norm" in key}
    objective = pretrain_objective(model, recipe.pretrain, recipe.pretrainings[name], recipe.text.limit, seed=0)
    one_step(objective, batch, recipe.pretrain.optim, DeviceContext(torch.device("cpu"), Ranks(), recipe.compute))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters() if key in before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2 <= MOST_MEMORY
