import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlim.masking import MAM_MODES, MaskMode, draw_mam_mode, draw_modality, draw_rows, plan_masks
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


def masks(maskable: torch.Tensor, mode: MaskMode, seed: int = 0, patches: int = CELLS, config: MaskingConfig = CONFIG):
    """A plan for the first samples of a step, with a few more text positions than the batch has."""
    width = maskable.shape[1] + 3
    text, image = draw_rows(generator(seed), 0, len(maskable), width + patches).split([width, patches], dim=1)
    return plan_masks(maskable, text, image, mode, config)


@given(lengths, st.sampled_from(MaskMode), st.integers(0, 1000))
def test_specials_and_padding_are_never_masked(sizes, mode, seed):
    maskable = maskable_of(sizes)
    plan = masks(maskable, mode, seed)
    assert plan.mode is mode
    assert plan.text.shape == maskable.shape
    assert plan.image.shape == (len(sizes), CELLS)
    assert not (plan.text & ~maskable).any()


@given(lengths, st.integers(0, 1000))
def test_heavy_modes_leave_the_other_modality_visible(sizes, seed):
    maskable = maskable_of(sizes)
    assert not masks(maskable, MaskMode.HEAVY_IMAGE, seed).text.any()
    assert not masks(maskable, MaskMode.HEAVY_TEXT, seed).image.any()


@pytest.mark.parametrize("mode", list(MaskMode))
def test_rates_are_the_configured_ones(mode):
    plan = masks(torch.ones(200, 100, dtype=torch.bool), mode, patches=100)
    wanted = {
        MaskMode.HEAVY_IMAGE: CONFIG.mam.heavy_image,
        MaskMode.HEAVY_TEXT: CONFIG.mam.heavy_text,
        MaskMode.LIGHT: CONFIG.mam.light,
        MaskMode.NAIVE: MamMode(text=CONFIG.naive, image=CONFIG.naive),
        MaskMode.TEXT_ONLY: MamMode(text=CONFIG.text, image=0),
        MaskMode.UNMASKED: MamMode(text=0, image=0),
    }[mode]
    assert plan.text.float().mean().item() == pytest.approx(wanted.text, abs=0.02)
    assert plan.image.float().mean().item() == pytest.approx(wanted.image, abs=0.02)


def test_rate_one_masks_everything_it_may():
    maskable = maskable_of([3, 0, 10])
    plan = masks(maskable, MaskMode.NAIVE, config=CONFIG.model_copy(update={"naive": 1.0}))
    assert torch.equal(plan.text, maskable)
    assert plan.image.all()


@given(st.integers(0, 1000), st.integers(1, 40), st.data())
def test_a_sample_draws_the_same_however_its_step_is_cut(seed, count, data):
    """Also odd cuts, and rows whose length is no multiple of a vector register."""
    width = data.draw(st.integers(1, 40))
    cut = data.draw(st.integers(0, count - 1))
    whole = draw_rows(generator(seed), 0, count, width)
    assert torch.equal(whole[cut:], draw_rows(generator(seed), cut, count - cut, width))
    assert torch.equal(whole[:cut], draw_rows(generator(seed), 0, cut, width))


def test_mam_modes_are_equally_likely_and_naive_is_none_of_them():
    source = generator()
    draws = [draw_mam_mode(source) for _ in range(3000)]
    assert set(draws) == set(MAM_MODES)
    for mode in MAM_MODES:
        assert draws.count(mode) == pytest.approx(1000, abs=120)


def finetune(text_only: float, image_only: float) -> FinetuneConfig:
    config = load_recipe("demo").finetune
    return config.model_copy(update={"mdo_text_only": text_only, "mdo_image_only": image_only})


def test_modality_dropout_follows_its_probabilities():
    source, config = generator(), finetune(0.5, 0.2)
    draws = [draw_modality(config, source) for _ in range(3000)]
    assert draws.count("text") == pytest.approx(1500, abs=120)
    assert draws.count("image") == pytest.approx(600, abs=100)


def test_modality_dropout_off_keeps_both():
    source, config = generator(), finetune(0.0, 0.0)
    assert {draw_modality(config, source) for _ in range(50)} == {"both"}
