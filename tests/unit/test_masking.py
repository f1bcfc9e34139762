import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.masking import MAM_MODES, MaskMode, draw_mam_mode, draw_masks, draw_modality, plan_masks
from mlim.recipe import FinetuneConfig, MamMode, MaskingConfig, load_recipe

CELLS = 16
CONFIG: MaskingConfig = load_recipe("demo").pretrain.masking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maskable_of(lengths: list[int], width: int = 12) -> torch.Tensor:
    """[CLS] tokens [SEP] [PAD]...: only the tokens may be masked."""
    columns = torch.arange(width)
    ends = torch.tensor(lengths)[:, None]
    return (columns > 0) & (columns <= ends)


lengths = st.lists(st.integers(0, 10), min_size=1, max_size=8)


@given(lengths, st.sampled_from(MaskMode), st.integers(0, 1000))
def test_specials_and_padding_are_never_masked(sizes, mode, seed):
    maskable = maskable_of(sizes)
    plan = plan_masks(maskable, CELLS, mode, CONFIG, generator(seed))
    assert plan.mode is mode
    assert plan.text.shape == maskable.shape
    assert plan.image.shape == (len(sizes), CELLS)
    assert not (plan.text & ~maskable).any()


@given(lengths, st.integers(0, 1000), st.floats(0.001, 1.0))
def test_a_rate_above_zero_masks_at_least_one_token_of_the_batch(sizes, seed, rate):
    maskable = maskable_of(sizes)
    text, _ = draw_masks(maskable, CELLS, MamMode(text=rate, image=0.0), generator(seed))
    assert text.any() == maskable.any()


@given(lengths, st.integers(0, 1000))
def test_heavy_modes_leave_the_other_modality_visible(sizes, seed):
    maskable = maskable_of(sizes)
    assert not plan_masks(maskable, CELLS, MaskMode.HEAVY_IMAGE, CONFIG, generator(seed)).text.any()
    assert not plan_masks(maskable, CELLS, MaskMode.HEAVY_TEXT, CONFIG, generator(seed)).image.any()


@pytest.mark.parametrize("mode", list(MaskMode))
def test_rates_are_the_configured_ones(mode):
    maskable = torch.ones(200, 100, dtype=torch.bool)
    plan = plan_masks(maskable, 100, mode, CONFIG, generator())
    wanted = {
        MaskMode.HEAVY_IMAGE: CONFIG.mam.heavy_image,
        MaskMode.HEAVY_TEXT: CONFIG.mam.heavy_text,
        MaskMode.LIGHT: CONFIG.mam.light,
        MaskMode.NAIVE: MamMode(text=CONFIG.naive, image=CONFIG.naive),
    }[mode]
    assert plan.text.float().mean().item() == pytest.approx(wanted.text, abs=0.02)
    assert plan.image.float().mean().item() == pytest.approx(wanted.image, abs=0.02)


def test_rate_one_masks_everything_it_may():
    maskable = maskable_of([3, 0, 10])
    text, image = draw_masks(maskable, CELLS, MamMode(text=1.0, image=1.0), generator())
    assert torch.equal(text, maskable)
    assert image.all()


def test_mam_modes_are_equally_likely_and_naive_is_none_of_them():
    source = generator()
    draws = [draw_mam_mode(source) for _ in range(3000)]
    assert set(draws) == set(MAM_MODES)
    for mode in MAM_MODES:
        assert draws.count(mode) == pytest.approx(1000, abs=120)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_same_seed_gives_the_same_plan(seed):
    maskable = maskable_of([5, 9])
    first, second = (plan_masks(maskable, CELLS, MaskMode.LIGHT, CONFIG, generator(seed)) for _ in range(2))
    assert torch.equal(first.text, second.text)
    assert torch.equal(first.image, second.image)


def finetune(text_only: float, image_only: float) -> FinetuneConfig:
    config = load_recipe("demo").finetune
    return config.model_copy(update={"mdo_text_only": text_only, "mdo_image_only": image_only})


def test_modality_dropout_follows_its_probabilities():
    source = generator()
    draws = [draw_modality(finetune(0.5, 0.2), source) for _ in range(3000)]
    assert draws.count("text") == pytest.approx(1500, abs=120)
    assert draws.count("image") == pytest.approx(600, abs=100)


def test_modality_dropout_off_keeps_both():
    source = generator()
    assert {draw_modality(finetune(0.0, 0.0), source) for _ in range(50)} == {"both"}
