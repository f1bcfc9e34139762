from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.probes import (
    GRAY,
    PARTNERS,
    ItemLosses,
    ProbedModel,
    Prober,
    Resampling,
    compare_harm,
    compare_partners,
    draw_partners,
    figure_table,
    join_seeds,
    relative_harm,
)
from mlim.models.hub import build_mlim
from mlim.shards.items import ItemStore

PROBABILITIES = (0.1, 0.5, 1.0)
SETTINGS = Resampling(samples=50, confidence=0.9, seed=0)
ITEMS = 10


@pytest.fixture(scope="module")
def parts(tiny_recipe, tiny_workspace):
    store = ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")
    tokenizer = TextTokenizer.learn([store.text(item) for item in store.ids], tiny_recipe.text.vocabulary_size)
    return build_mlim(tiny_recipe, tokenizer, seed=0), tokenizer, store


def prober(parts, recipe, batch_size=4):
    _, _, store = parts
    return Prober(ProbedModel(*parts, max_tokens=recipe.text.max_tokens, batch_size=batch_size), store.ids[:ITEMS], 0)


@pytest.mark.parametrize("kind", ["mlm", "recon"])
def test_every_partner_and_probability_has_finite_losses_that_are_repeated_exactly(parts, tiny_recipe, kind):
    first = getattr(prober(parts, tiny_recipe), kind)(PROBABILITIES)
    again = getattr(prober(parts, tiny_recipe), kind)(PROBABILITIES)
    assert set(first) == {(p, partner) for p in PROBABILITIES for partner in PARTNERS}
    for key, losses in first.items():
        assert np.isfinite(losses.total).all()
        assert (losses.total > 0).all()
        assert (losses.targets >= 1).all()
        np.testing.assert_array_equal(losses.total, again[key].total)


def test_the_partners_share_their_masks_and_masks_grow_with_the_probability(parts, tiny_recipe):
    losses = prober(parts, tiny_recipe).mlm(PROBABILITIES)
    for probability in PROBABILITIES:
        counts = [losses[probability, partner].targets for partner in PARTNERS]
        np.testing.assert_array_equal(counts[0], counts[1])
        np.testing.assert_array_equal(counts[0], counts[2])
    own = [losses[probability, "own"].targets[0] for probability in PROBABILITIES]
    assert (np.diff(own, axis=0) >= 0).all()
    _, tokenizer, store = parts
    texts = [len(tokenizer.encode(store.text(item), tiny_recipe.text.max_tokens)) for item in store.ids[:ITEMS]]
    np.testing.assert_array_equal(own[-1], texts)


@given(families=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 9))
def test_a_random_partner_is_of_another_family_where_there_is_one(families, seed):
    numbers = np.array(families)
    partners = draw_partners(numbers, seed)
    assert (partners != np.arange(len(numbers))).all()
    assert (numbers != numbers[partners]).all() or len(set(families)) == 1
    if np.bincount(numbers).max() * 2 <= len(numbers):
        assert sorted(partners) == list(range(len(numbers)))  # each is shown once
    np.testing.assert_array_equal(partners, draw_partners(numbers, seed))


@pytest.mark.parametrize("kind", ["mlm", "recon"])
def test_the_batch_size_changes_nothing(parts, tiny_recipe, kind):
    small = getattr(prober(parts, tiny_recipe, batch_size=3), kind)(PROBABILITIES)
    large = getattr(prober(parts, tiny_recipe, batch_size=ITEMS), kind)(PROBABILITIES)
    for key, losses in small.items():
        np.testing.assert_allclose(losses.total, large[key].total, rtol=1e-4)


def test_the_partner_matters_where_the_loss_can_see_it(parts, tiny_recipe):
    probe = prober(parts, tiny_recipe)
    for losses in (probe.mlm((0.5,)), probe.recon((0.5,))):
        own, random, empty = (losses[0.5, partner].total for partner in PARTNERS)
        assert not np.allclose(own, random, rtol=1e-7)
        assert not np.allclose(own, empty, rtol=1e-7)


def test_recon_is_the_squared_error_summed_over_channels_per_pixel(parts, tiny_recipe):
    probe = prober(parts, tiny_recipe)
    rows = probe.reconstructions(1.0, ITEMS)
    losses = probe.recon((1.0,))[1.0, "own"].total[0]
    by_hand = [np.square(own - original).sum(axis=-1).mean() for original, _, own, _ in rows]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-4)


def test_reconstructions_show_the_masked_patches_in_gray(parts, tiny_recipe):
    rows = prober(parts, tiny_recipe).reconstructions(0.5, 3)
    assert len(rows) == 3
    side = tiny_recipe.image.size // tiny_recipe.image.grid
    for original, masked, own, random in rows:
        assert original.shape == (tiny_recipe.image.size, tiny_recipe.image.size, 3)
        assert not np.array_equal(own, random)
        hidden = (masked == np.float32(GRAY / 255)).all(axis=-1)
        np.testing.assert_array_equal(masked[~hidden], original[~hidden])
        patches = hidden[::side, ::side]
        assert 0 < patches.mean() < 1
        np.testing.assert_array_equal(hidden, patches.repeat(side, 0).repeat(side, 1))


def losses_with(own, random, empty):
    targets = np.full((1, len(own)), 2.0)
    totals = {"own": own, "random": random, "empty": empty}
    return {(0.5, partner): ItemLosses(np.asarray(total, float)[None], targets) for partner, total in totals.items()}


def test_the_table_has_the_mean_per_target_inside_its_interval():
    losses = losses_with([2, 4, 6] * 4, [4, 6, 8] * 4, [3, 5, 7] * 4)
    table = figure_table(losses, SETTINGS)
    assert list(table.columns) == ["probability", "partner", "loss", "low", "high"]
    assert table.set_index("partner")["loss"].to_dict() == {"own": 2, "random": 3, "empty": 2.5}
    assert (table["low"] <= table["loss"]).all()
    assert (table["loss"] <= table["high"]).all()


def test_too_few_items_give_no_interval():
    """Point 6: three items say nothing of other items."""
    losses = losses_with([2, 4, 6], [4, 6, 8], [3, 5, 7])
    assert figure_table(losses, SETTINGS)[["low", "high"]].isna().all(axis=None)
    [point] = compare_partners(losses, SETTINGS)
    assert not point.random_minus_own.separated
    assert point.random_minus_own.difference[1:] == (None, None, None)
    assert "fewer than the 10" in point.random_minus_own.why


def test_differences_are_paired_by_item():
    """Items differ by far more than partners do; the paired interval does not notice."""
    own = np.linspace(1, 100, 30)
    (point,) = compare_partners(losses_with(own, own + 1, own), SETTINGS)
    assert point.random_minus_own.difference[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert point.random_minus_own.separated
    assert point.empty_minus_own.difference == (0, 0, 0, 1)
    assert point.random_minus_empty == point.random_minus_own


def test_harm_is_relative_to_the_own_partner():
    assert relative_harm(losses_with([2, 2], [3, 3], [2, 2])) == pytest.approx(0.5)


def test_items_of_one_family_are_drawn_together_which_widens_the_interval():
    generator = np.random.default_rng(0)
    own = generator.normal(10, 1, 60)
    family = np.repeat(np.arange(12), 5)
    random = own + 0.5 + generator.normal(0, 1, 12)[family]
    losses = losses_with(own, random, own)
    (alone,) = compare_partners(losses, SETTINGS)
    (together,) = compare_partners(losses, replace(SETTINGS, families=family))
    assert together.random_minus_own.value == alone.random_minus_own.value
    wide, narrow = (point.random_minus_own.high - point.random_minus_own.low for point in (together, alone))
    assert wide > 1.4 * narrow


def test_harms_are_compared_on_the_same_items():
    own = np.linspace(1, 3, 40)
    recon, mlm = losses_with(own, 1.5 * own, own), losses_with(own, 1.2 * own, own)
    found = compare_harm(recon, mlm, SETTINGS)
    assert found.difference[:3] == pytest.approx((0.3, 0.3, 0.3))
    assert found.separated
    turned = compare_harm(mlm, recon, SETTINGS)
    assert turned.value == pytest.approx(-found.value)
    assert compare_harm(mlm, mlm, SETTINGS).difference == (0, 0, 0, 1)


def seeds_that_differ_by(*gains):
    """Losses of one training for each gain: a random partner costs so much, whatever the item."""
    own = np.linspace(1, 100, 30)
    return join_seeds([losses_with(own + seed, own + seed + 2 * gain, own + seed) for seed, gain in enumerate(gains)])


def test_seeds_are_averaged_and_paired():
    (point,) = compare_partners(seeds_that_differ_by(0.4, 0.5, 0.6), SETTINGS)
    assert point.random_minus_own.value == pytest.approx(0.5)  # the level of a seed, 0 to 2, is gone
    assert point.random_minus_own.by_seed == pytest.approx((0.4, 0.5, 0.6))
    table = figure_table(seeds_that_differ_by(0.4, 0.5, 0.6), SETTINGS).set_index("partner")["loss"]
    assert table["random"] - table["own"] == pytest.approx(0.5)


def test_seeds_that_disagree_widen_the_interval():
    alike, apart = (
        compare_partners(seeds_that_differ_by(*gains), SETTINGS)[0].random_minus_own
        for gains in ((0.5, 0.5, 0.5), (-0.5, 0.5, 1.5))
    )
    assert apart.value == pytest.approx(alike.value)
    assert apart.seeds_spread > alike.seeds_spread == pytest.approx(0)
    assert apart.high - apart.low > alike.high - alike.low
    assert not apart.separated
    harm = compare_harm(seeds_that_differ_by(1, 1), seeds_that_differ_by(1, 1), SETTINGS)
    assert harm.value == harm.seeds_spread == 0
