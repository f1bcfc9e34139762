"""The embedder, the decoder and the heads by themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.models.config import MlimConfig, layer_strides
from mlim.models.image_decoder import ImageDecoder
from mlim.models.image_embedder import ImageEmbedder
from mlim.models.initialise import BERT_WIDTH, initialise
from mlim.recipe import DecoderConfig, EmbedderConfig, load_recipe

PAPER_EMBEDDER, PAPER_DECODER, TOLERANCE = 200_000, 2_800_000, 0.05
RECIPES = ["demo", "small", "paper"]


def shape(strides: tuple[int, ...], grid: int, hidden: int = 8) -> MlimConfig:
    size = grid
    for stride in strides:
        size *= stride
    channels = (6,) * len(strides)
    return MlimConfig(
        vocabulary_size=32, text_positions=12, image_size=size, grid=grid, hidden_size=hidden, layers=1, heads=2,
        intermediate_size=16, dropout=0.0, embedder=EmbedderConfig(strides=strides, channels=channels),
        decoder=DecoderConfig(strides=strides, channels=(*channels, 5)),
    )  # fmt: skip


def random_part(part: torch.nn.Module, seed: int = 0, hidden_size: int = BERT_WIDTH) -> torch.nn.Module:
    initialise(part, hidden_size, torch.Generator().manual_seed(seed))
    return part.eval()


def parameters_of(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


shapes = st.builds(
    shape, st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3).map(tuple), st.sampled_from([1, 2, 3, 5])
)


@settings(max_examples=25, deadline=None)
@given(shapes, st.data())
def test_a_pixel_changes_its_own_patch_and_no_other(config, data):
    embedder = random_part(ImageEmbedder(config))
    row, column = (data.draw(st.integers(0, config.image_size - 1)) for _ in range(2))
    pixels = torch.rand(1, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))
    changed = pixels.clone()
    changed[0, :, row, column] += 0.5
    difference = (embedder(pixels) - embedder(changed)).abs().sum(-1)[0]
    side = config.image_size // config.grid
    own = (row // side) * config.grid + column // side
    assert difference[own] > 0
    assert difference.sum() == difference[own]


@settings(max_examples=25, deadline=None)
@given(shapes)
def test_any_size_goes_to_the_grid_and_back(config):
    pixels = torch.rand(2, 3, config.image_size, config.image_size)
    patches = random_part(ImageEmbedder(config))(pixels)
    assert patches.shape == (2, config.patches, config.hidden_size)
    back = random_part(ImageDecoder(config))(patches)
    assert back.shape == pixels.shape
    assert (back >= 0).all()
    assert (back <= 1).all()


def test_neighbouring_patches_blend_in_the_decoder():
    config = shape((2, 2), grid=4)
    decoder = random_part(ImageDecoder(config))
    patches = torch.zeros(1, 16, 8, requires_grad=True)
    decoder(patches)[0, :, 4, 4].sum().backward()  # a corner pixel of the patch at (1, 1)
    assert patches.grad.abs().sum(-1).count_nonzero() > 1


def test_a_picture_of_another_size_is_an_input_error():
    with pytest.raises(InputError, match="16 x 16"):
        ImageEmbedder(shape((2, 2), grid=2))(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("strides", "layers", "expected"),
    [
        ((2, 2, 2), 3, [2, 2, 2]),
        ((2, 2, 2), 5, [2, 1, 2, 1, 2]),
        ((3, 2), 4, [1, 3, 1, 2]),
        ((3, 2), 5, [1, 3, 1, 1, 2]),
        ((3, 2, 2, 2, 2), 10, [1, 3, 1, 2, 1, 2, 1, 2, 1, 2]),
    ],
)
def test_blending_layers_are_dealt_from_the_finest_enlargement(strides, layers, expected):
    assert layer_strides(strides, layers) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_decoder_is_heavier_than_the_embedder(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        config = MlimConfig.from_recipe(recipe, recipe.text.vocabulary_size)
        assert parameters_of(ImageDecoder(config)) > 2 * parameters_of(ImageEmbedder(config))


def test_the_paper_recipe_has_the_papers_layers_and_parameters():
    recipe = load_recipe("paper")
    with torch.device("meta"):
        config = MlimConfig.from_recipe(recipe, recipe.text.vocabulary_size)
        embedder, decoder = ImageEmbedder(config), ImageDecoder(config)
    assert (config.image_size, config.grid, config.patches) == (384, 8, 64)
    assert len(embedder.layers) == 7
    assert len(decoder.layers) == 10
    assert parameters_of(embedder) == pytest.approx(PAPER_EMBEDDER, rel=TOLERANCE)
    assert parameters_of(decoder) == pytest.approx(PAPER_DECODER, rel=TOLERANCE)


@pytest.mark.parametrize("name", RECIPES)
def test_patches_start_with_the_size_of_word_vectors(name):
    """Far larger ones would drown the positions under the common LayerNorm, far smaller ones would be lost."""
    recipe = load_recipe(name)
    config = MlimConfig.from_recipe(recipe, recipe.text.vocabulary_size)
    pixels = torch.rand(2, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    words = random_part(torch.nn.Embedding(100, config.hidden_size), hidden_size=config.hidden_size).weight
    patches = random_part(ImageEmbedder(config), hidden_size=config.hidden_size)(pixels.round())
    assert 0.1 < (patches.std() / words.std()).item() < 3


@pytest.mark.parametrize("strides", [(2, 2, 2), (2, 3)])
def test_weights_keep_the_scale_of_what_passes_through(strides):
    config = shape(strides, grid=8, hidden=64).model_copy(
        update={"decoder": DecoderConfig(strides=strides, channels=(48,) * (len(strides) + 1))}
    )
    decoder = random_part(ImageDecoder(config))
    patches = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = torch.logit(decoder(patches).double().clamp(1e-6, 1 - 1e-6))
    assert 0.1 < logits.std().item() < 3.0
