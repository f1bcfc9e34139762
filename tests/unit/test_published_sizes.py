"""The recipes in the papers' sizes make networks as large as published; nothing is built, only counted."""

import pytest

from mlim.data.tokenize import TextTokenizer
from mlim.models.system import System
from mlim.models.systems import plan_system
from mlim.recipe import load_recipe


def planned(name: str, *settings: str) -> System:
    """The network of a system on the meta device, with a handful of words."""
    recipe = load_recipe(name, settings)
    return plan_system(recipe.systems[name], recipe.network, TextTokenizer.learn(["a few words"], 100), seed=0).model


def millions(*modules) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def test_lxmert_has_the_published_183_million_weights():
    """E2E-VLP's Table 1 counts the three encoders and what reads regions, but neither words, heads nor the detector."""
    model = planned("lxmert", "systems.lxmert.image.features.start=random")
    network = millions(model.regions.side) - 2048 * 768 / 1e6  # without its projection, which is LXMERT's own
    encoders = millions(model.text_encoder, model.region_encoder, model.crossing, model.regions) - network
    assert encoders == pytest.approx(183, abs=1)
    assert network == pytest.approx(42.5, rel=0.01)  # ResNet-101


def test_e2e_vlp_is_within_an_eighth_of_the_published_94_million_weights():
    """Its Table 5 adds 10 M for six blocks, where blocks of width 256 with 1,024 inside have 0.8 M each."""
    model = planned("e2e-vlp", "systems.e2e-vlp.image.start=random")
    recipe = load_recipe("e2e-vlp")
    words = recipe.text.vocabulary_size * recipe.systems["e2e-vlp"].width / 1e6
    whole = millions(model) - millions(model.word_embeddings) + words
    assert whole == pytest.approx(94, rel=0.125)
    assert millions(model.image) == pytest.approx(58.1 + 0.5, rel=0.01)  # ResNet-152 and its projection
    assert millions(model.encoder) / 12 == pytest.approx(0.79, rel=0.01)
