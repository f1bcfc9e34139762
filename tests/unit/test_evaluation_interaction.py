"""Neighbours and attention: from the model's own weights, of real places only, the same whenever they are asked for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.interaction import (
    attend,
    attention_weights,
    embed,
    family_share,
    hideable,
    item_attention,
    most_detailed_patch,
    nearest,
    neighbourhoods,
    share_words,
    similarities,
)
from mlim.evaluation.item_views import WordShare
from mlim.evaluation.probes import ProbedModel, Shown
from mlim.models.hub import build_mlim
from mlim.models.transformer import QKV, pack
from mlim.report.figures import draw_attention, draw_neighbours
from mlim.shards.items import ItemStore

CLOSE = 1e-5
ITEMS = 9


@pytest.fixture(scope="module")
def probed(tiny_recipe, tiny_workspace):
    store = ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")
    tokenizer = TextTokenizer.learn([store.text(item) for item in store.ids], tiny_recipe.text.vocabulary_size)
    model = build_mlim(tiny_recipe, tokenizer, seed=0)
    return ProbedModel(model, tokenizer, store, tiny_recipe.text.max_tokens, batch_size=4)


@pytest.fixture(scope="module")
def items(probed):
    return probed.source.ids[:ITEMS]


@torch.inference_mode()
def test_the_weights_are_those_by_which_the_block_mixes_its_values(probed, items):
    block = probed.model.backbone.encoder.blocks[0]
    hidden = torch.randn(7, probed.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    weights = attention_weights(block, hidden)
    assert weights.shape == (block.heads, 7, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(block.heads, 7))
    values = block.qkv(hidden).view(7, QKV, block.heads, -1)[:, 2].transpose(0, 1)
    mixed = block.attention_output((weights @ values).transpose(0, 1).flatten(1))
    middle = block.attention_norm(hidden + mixed)
    by_hand = block.output_norm(middle + block.fc2(block.activation(block.fc1(middle))))
    real = block(hidden[None], pack(torch.ones(1, 7, dtype=torch.bool)), flash=False)[0]
    torch.testing.assert_close(by_hand, real, rtol=CLOSE, atol=CLOSE)


def test_attention_is_of_all_places_of_the_item_and_leaves_the_model_as_it_was(probed, items):
    batch = probed.batch(items[:1])
    output, weights = attend(probed.model, batch, None, None)
    places = batch.input_ids.shape[1] + probed.model.config.patches
    assert weights.shape == (places, places)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(places))
    with torch.inference_mode():
        plain = probed.model.forward_items(batch.input_ids, batch.text_attention, batch.pixels)
    torch.testing.assert_close(output.text, plain.text)
    assert not probed.model.backbone.encoder.blocks[-1]._forward_pre_hooks


def test_vectors_are_means_of_real_places_and_know_no_batch(probed, items):
    vectors = embed(probed, items)
    assert vectors.shape == (ITEMS, probed.model.config.hidden_size)
    alone = embed(replace(probed, batch_size=1), items)
    np.testing.assert_allclose(vectors, alone, atol=CLOSE)
    output, _ = attend(probed.model, probed.batch(items[:1]), None, None)
    by_hand = torch.cat([output.text[0], output.patches[0]]).mean(dim=0)
    np.testing.assert_allclose(vectors[0], by_hand.numpy(), atol=CLOSE)


def test_neighbours_are_others_in_order():
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    cosines = similarities(vectors, queries=4)
    assert cosines.shape == (4, 12)
    found = nearest(cosines, 5)
    assert found.shape == (4, 5)
    for query, places in enumerate(found):
        assert query not in places
        assert len(set(places)) == 5
        assert (np.diff(cosines[query, places]) <= 0).all()
        assert cosines[query, places[-1]] >= np.sort(cosines[query])[-5]
    assert nearest(cosines[:, :3], 5).shape == (4, 2)  # never the item itself, however few there are


def test_what_all_items_share_does_not_make_them_similar():
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    shifted = similarities(vectors + 100, queries=12)
    np.testing.assert_allclose(shifted, similarities(vectors, queries=12))
    assert np.isfinite(similarities(np.ones((3, 2)), queries=3)[~np.eye(3, dtype=bool)]).all()


def test_the_share_of_families_by_hand():
    """Items a a b b b c: the nearest of the first is of its family, that of the third is not; the last is alone."""
    families = np.array([0, 0, 1, 1, 1, 2])
    cosines = np.full((6, 6), -np.inf)
    for query, place in enumerate([1, 3, 0, 4, 2, 0]):
        cosines[query, place] = 1
    found = family_share(cosines, families)
    assert found.items == 5
    assert found.same_family == pytest.approx(3 / 5)
    assert found.by_chance == pytest.approx((2 * 1 / 5 + 3 * 2 / 5) / 5)
    some = family_share(cosines[:2], families)  # only the first two are looked up
    assert some == (0.5, pytest.approx(1 / 5), 2)
    assert family_share(cosines, np.arange(6)) == (None, None, 0)


def test_chance_is_what_random_vectors_reach():
    generator = np.random.default_rng(0)
    families = np.repeat(np.arange(20), 10)
    shares = [family_share(similarities(generator.normal(size=(200, 8)), 200), families) for _ in range(10)]
    assert np.mean([share.same_family for share in shares]) == pytest.approx(shares[0].by_chance, abs=0.02)


def test_words_are_put_together_and_punctuation_is_no_word():
    pieces = ["[CLS]", "tea", "##pot", ";", "red", "m", "#", "[SEP]"]
    maskable = [False, *[True] * 6, False]
    shares = [0.1, 0.2, 0.05, 0.3, 0.1, 0.05, 0.1, 0.1]
    assert share_words(pieces, maskable, shares) == [
        WordShare("teapot", 0.25, 2),
        WordShare("red", 0.1, 1),
        WordShare("m", 0.05, 1),
    ]
    assert hideable(pieces, maskable) == [4]  # not a part of a word, not one letter, no sign
    assert hideable(["[CLS]", ";", "m", "[SEP]"], [False, True, True, False]) == [1, 2]
    assert hideable(["[CLS]", "茶", "[SEP]"], [False, True, False]) == [1]
    assert hideable(["[CLS]", "[SEP]"], [False, False]) == []


def test_the_patch_with_detail_is_found():
    pixels = torch.full((3, 8, 8), 0.5)
    pixels[:, 4:6, 2:4] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert most_detailed_patch(pixels, grid=4) == 2 * 4 + 1
    assert most_detailed_patch(pixels, grid=8) == 0  # a patch of one pixel has no detail


@pytest.mark.parametrize("guess", [True, False])
def test_attention_of_an_item_is_repeated_and_adds_up(probed, items, guess):
    first, again = (item_attention(probed, items[0], guess, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first.patches, again.patches)
    assert first[2:4] == again[2:4]
    assert first.words == again.words
    text = probed.source.text(items[0])
    assert first.word in text
    assert first.patches.shape == (probed.model.config.grid,) * 2
    for share in (first.patches.sum(), sum(word.share for word in first.words)):
        assert 0 < share < 1
    assert {word.text for word in first.words} <= set(text.replace(",", "").replace(":", "").split())
    assert (first.guess is not None) == guess


def test_the_word_is_the_one_of_which_the_picture_tells_most(probed, items):
    """Each word is hidden by itself, here one forward at a time."""
    found = item_attention(probed, items[0], guess=True, seed=0)
    batch = probed.batch(items[:1])
    pieces = probed.tokenizer.tokens(batch.input_ids[0].tolist())
    gains, likely = {}, {}
    for place in hideable(pieces, batch.maskable[0].tolist()):
        mask = torch.zeros_like(batch.maskable)
        mask[0, place] = True
        losses = []
        for pixels in (batch.pixels, torch.full_like(batch.pixels, 127 / 255)):
            output, _ = attend(probed.model, batch._replace(pixels=pixels), mask, None)
            with torch.inference_mode():
                logits = probed.model.mlm_logits(output.text[mask])
                losses.append(float(functional.cross_entropy(logits, batch.input_ids[mask])))
        gains[place], likely[place] = losses[1] - losses[0], np.exp(-losses[0])
    best = max(gains, key=gains.get)
    assert found.word == pieces[best]
    assert found.guess.truth == pytest.approx(likely[best], rel=1e-3)
    assert found.guess.probability >= found.guess.truth
    assert np.log(found.guess.truth / found.guess.truth_beside_gray) == pytest.approx(gains[best], abs=1e-4)


def test_an_item_without_a_text_has_no_word_to_hide(probed, items):
    mute = replace(probed, source=Shown(lambda _: "", probed.source.image))
    assert item_attention(mute, items[0], guess=True, seed=0) is None


def test_neighbours_are_drawn_the_same_twice(probed, items, tmp_path: Path):
    families = np.arange(ITEMS) // 4
    cosines = similarities(embed(probed, items), queries=2)
    rows = neighbourhoods(probed, items, families, cosines, 3)
    assert [len(row.nearest) for row in rows] == [3, 3]
    assert drawn(draw_neighbours, rows, tmp_path) == drawn(draw_neighbours, rows, tmp_path)


def test_attention_is_drawn_the_same_twice(probed, items, tmp_path: Path):
    looks = [item_attention(probed, item, guess, seed=0) for item, guess in zip(items, (True, False), strict=False)]
    assert drawn(draw_attention, looks, tmp_path) == drawn(draw_attention, looks, tmp_path)


def drawn(draw: Callable[..., None], shown: list, folder: Path) -> bytes:
    path = folder / "sheet.png"
    draw(shown, path)
    return path.read_bytes()
