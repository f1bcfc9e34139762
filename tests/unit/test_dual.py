"""The dual encoder and its contrast: what they compute, and what recipes of them are refused."""

import math

import pytest
import torch

from mlim.config import override, parse
from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.models.dual import Dual, DualConfig
from mlim.models.separate_matcher import SeparateMatcher
from mlim.models.system import Shown
from mlim.models.systems import load_matcher, load_system
from mlim.models.vectors import Vectors
from mlim.recipe import Recipe
from mlim.recipe.dual import DualSystem
from mlim.recipe.tasks import loss_titles
from mlim.tasks.pretrain.itc import itc_loss, item_numbers
from mlim.training.optim import learning_rate_scales
from tests.dual_recipe import SETTINGS

SHAPE = DualSystem.model_validate(
    {"image": {"size": 4, "depth": 1}, "text_depth": 2, "width": 16, "heads": 2, "vector_size": 8, "dropout": 0.0}
)
CONFIG = DualConfig(vocabulary_size=30, text_positions=12, image_size=8, shape=SHAPE)


@pytest.fixture(scope="module")
def model() -> Dual:
    return Dual.planned(CONFIG, 0).build().eval()


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return changed(tiny_recipe, *SETTINGS)


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


def shown(seed: int = 0) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 30, (4, 7), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    return Shown(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(4, 3, 8, 8, generator=generator))


@pytest.mark.parametrize("half", [False, True])
def test_the_contrast_is_a_plain_sum_over_both_directions_in_full_precision(half):
    generator = torch.Generator().manual_seed(3)
    text, image = (torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        term = itc_loss(Vectors(text, image, torch.tensor([0.07])), torch.arange(5))
    expected = 0.0
    for i in range(5):
        to_texts = [math.exp(float(image[i] @ text[j]) / 0.07) for j in range(5)]
        to_images = [math.exp(float(text[i] @ image[j]) / 0.07) for j in range(5)]
        expected -= math.log(to_texts[i] / sum(to_texts)) + math.log(to_images[i] / sum(to_images))
    assert term.total.item() == pytest.approx(expected, rel=1e-4)
    assert term.count.item() == 5


def test_the_other_row_of_an_item_is_no_negative():
    """As if the second row of `a` were not there, for the first one, and the other way round."""
    generator = torch.Generator().manual_seed(3)
    text, image = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(2))
    temperature = torch.tensor([0.1])
    found = itc_loss(Vectors(text, image, temperature), item_numbers(["a", "b", "a", "c"]))
    products, expected = (image @ text.T / temperature).double(), 0.0
    for row, others in ((0, [0, 1, 3]), (1, [0, 1, 2, 3]), (2, [1, 2, 3]), (3, [0, 1, 2, 3])):
        expected -= float(products[row, row] - products[row, others].logsumexp(0))
        expected -= float(products[row, row] - products[others, row].logsumexp(0))
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    assert found.count.item() == 4


def test_vectors_have_length_one_and_the_temperature_stays_above_the_least(model):
    with torch.no_grad():
        found = model.vectors(shown())
        for each in (found.text, found.image):
            assert torch.allclose(each.norm(dim=1), torch.ones(4))
        assert found.temperature.item() == pytest.approx(0.07)
        start = model.projection.free_temperature.clone()
        model.projection.free_temperature.fill_(-100.0)
        assert model.projection.temperature.item() == pytest.approx(0.01)
        model.projection.free_temperature.copy_(start)


def test_text_and_picture_do_not_see_each_other(model):
    one, other = shown(0), shown(1)
    with torch.no_grad():
        mixed = model.vectors(one._replace(pixels=other.pixels))
        assert torch.equal(mixed.text, model.vectors(one).text)
        assert torch.equal(mixed.image, model.vectors(other).image)


def test_every_parameter_has_a_part_and_both_encoders_end_at_the_last_level(model, tiny_recipe):
    assert set(model.part_of_parameters().values()) == {"embedder", "transformer", "heads"}
    assert [len(level) for level in model.levels()] == [1, 2]  # two text blocks, one image block
    optim = tiny_recipe.pretrain.optim.model_copy(update={"layer_decay": 0.5})
    scales = learning_rate_scales(model, optim)
    assert scales["text.encoder.blocks.0.qkv.weight"] == 0.5
    assert scales["image.encoder.blocks.0.qkv.weight"] == scales["text.encoder.blocks.1.qkv.weight"] == 1.0
    assert scales["word_embeddings.weight"] == scales["patch_embeddings.weight"] == 0.25


def test_a_saved_encoder_and_a_saved_matcher_give_the_same_again(model, tmp_path):
    model.save_pretrained(tmp_path / "dual")
    again = load_system(tmp_path / "dual").build().eval()
    with torch.no_grad():
        assert torch.equal(again.vectors(shown()).image, model.vectors(shown()).image)
    matcher = SeparateMatcher.planned(Dual.planned(CONFIG, 0), 0.1, 1, classes=(3,)).build().eval()
    assert matcher.grid**2 == model.patches
    matcher.forget_attributes()
    matcher.save_pretrained(tmp_path / "matcher")
    loaded = load_matcher(tmp_path / "matcher")
    tokens = torch.tensor([[7, 9, 0], [8, 0, 0]])
    side = PairSide(tokens, tokens > 0, torch.rand(2, 3, 8, 8))
    other = PairSide(tokens[:, :2] + 1, tokens[:, :2] >= 0, torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        for modality in ("both", "text", "image"):
            assert torch.equal(loaded(side, other, modality), matcher(side, other, modality))
            assert torch.allclose(matcher(side, other, modality), matcher(other, side, modality), atol=1e-6)


def test_padding_changes_no_item_vector(model):
    matcher = SeparateMatcher(model, 0.0).eval()
    tokens = torch.tensor([[7, 9]])
    pixels = torch.rand(1, 3, 8, 8)
    short = PairSide(tokens, tokens > 0, pixels)
    padded = torch.nn.functional.pad(tokens, (0, 3))
    long = PairSide(padded, padded > 0, pixels)
    with torch.no_grad():
        assert torch.allclose(matcher.item_vectors(short, "both"), matcher.item_vectors(long, "both"), atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pretrain.accumulate=2", "pretrainings.dual: task itc looks at a whole batch.*set pretrain.accumulate to 1"),
        (
            "pretrainings.dual={system: dual, losses: [mlm], masking: mam}",
            "needs tokens, which system dual does not offer",
        ),
        ("pretrainings.dual.system=doul", "no system `doul` .did you mean `dual`"),
        ("pretrainings.dual.masking=mam", "no task is about what `masking` hides"),
        ("systems.dual.image.size=5", "image.size 16 is not a multiple of image.size 5 of its patches"),
        ("variants.dual.read_out=joint", "variants.dual.read_out: its system offers separate, not joint"),
        ("variants.dual.system=dual", "is that of pre-training `dual`; leave it out"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_built(recipe, setting, message):
    with pytest.raises(InputError, match=message):
        changed(recipe, setting)


def test_a_recipe_with_another_system_names_the_results_of_mlim_as_before(recipe, tiny_recipe):
    plain = changed(tiny_recipe, *SETTINGS[4:])
    for name in plain.pretrainings:
        assert recipe.training_key("pretrain", name) == plain.training_key("pretrain", name)
    for variant in plain.variants:
        assert recipe.training_key("finetune", variant) == plain.training_key("finetune", variant)
    assert recipe.training_key("finetune", "dual") != recipe.training_key("finetune", "dual-scratch")


def test_its_loss_has_a_title():
    assert loss_titles()["itc"] == "ITC: image-text contrast per item"
