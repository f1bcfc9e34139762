"""Simple ways to restore what pre-training hides: they know what they should, and nothing that is hidden."""

import math

import pytest
import torch

from mlim.data.batches import ItemBatch
from mlim.masking import MaskMode, MaskPlan
from mlim.tasks.pretrain.baselines import NOTHING, Pictures, Words
from mlim.tasks.pretrain.passes import PassPlan
from mlim.training.baselines import not_beaten

CLS, ONE, TWO, NEVER = 0, 1, 2, 3


@pytest.fixture(scope="module")
def words():
    return Words([[CLS, ONE, TWO], [CLS, ONE, TWO], [CLS, ONE, ONE], [CLS]], vocabulary=4)


def test_a_unigram_counts_words_and_adds_one(words):
    """Four times ONE, twice TWO, of six words; four kinds."""
    losses = words.unigram(torch.tensor([ONE, TWO, NEVER]))
    assert losses.exp().reciprocal().tolist() == pytest.approx([5 / 10, 3 / 10, 1 / 10])


def test_a_bigram_knows_the_word_before_unless_it_is_hidden(words):
    """After ONE come TWO twice and ONE once: two kinds, so 2 of 5 parts are the unigram's."""
    losses = words.bigram(torch.tensor([TWO, TWO, TWO]), torch.tensor([ONE, NOTHING, NEVER]))
    chances = losses.exp().reciprocal().tolist()
    assert chances == pytest.approx([(2 + 2 * 0.3) / 5, 0.3, 0.3])
    over_all = words.bigram(torch.arange(4), torch.full((4,), ONE)).exp().reciprocal()
    assert over_all.sum().item() == pytest.approx(1)


def test_texts_without_words_teach_nothing():
    empty = Words([[CLS], [CLS]], vocabulary=4)
    assert empty.bigram(torch.tensor([ONE]), torch.tensor([CLS])).item() == pytest.approx(math.log(4))


@pytest.fixture(scope="module")
def drawn():
    """Pictures of 16 x 16 that three numbers describe, in 2 x 2 patches, and what was learned from them."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand((3, 3, 16, 16), generator=generator) / 6
    pictures = 0.2 + torch.einsum("nk,kchw->nchw", torch.rand((40, 3), generator=generator), shapes)
    return pictures, Pictures(pictures[:32], grid=2, components=3)


@pytest.mark.parametrize(("grid", "side"), [(2, 8), (3, 6), (6, 6), (8, 8), (12, 12)])
def test_a_shrunk_picture_is_called_by_its_blocks(grid, side):
    pictures = torch.rand((4, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    learned, none = Pictures(pictures, grid, components=2), torch.zeros((4, grid * grid), dtype=torch.bool)
    assert len(learned.coarse(pictures, none)[0, 0].unique()) == side * side
    batch = ItemBatch(none.long(), none, none, pictures, [*"abcd"])
    plan = PassPlan(batch, MaskPlan(MaskMode.UNMASKED, none, none), torch.ones(4, dtype=torch.bool), torch.arange(4))
    assert f"shrunk to {side} x {side}" in learned.losses(plan)


def hidden(*patches: int) -> torch.Tensor:
    return torch.tensor([[patch in patches for patch in range(4)]]).expand(8, 4)


def test_components_restore_what_they_describe_from_a_part_of_it(drawn):
    pictures, learned = drawn
    for patches in ((), (0, 3)):
        torch.testing.assert_close(learned.principal(pictures[32:], hidden(*patches)), pictures[32:], atol=1e-3, rtol=0)
    nothing_seen = learned.principal(pictures[32:], hidden(0, 1, 2, 3))
    torch.testing.assert_close(nothing_seen, learned.mean(pictures[32:]), atol=1e-6, rtol=0)


def test_a_coarse_picture_has_blocks_where_it_is_seen_and_the_mean_elsewhere(drawn):
    pictures, learned = drawn
    coarse = learned.coarse(pictures[32:], hidden(1))
    assert torch.equal(coarse[..., :8, 8:], learned.mean(pictures[32:])[..., :8, 8:])
    corner = coarse[0, 0, :2, :2]
    assert corner.max() == corner.min() == pytest.approx(pictures[32, 0, :2, :2].mean().item())


@pytest.mark.parametrize("way", ["coarse", "principal"])
def test_what_is_hidden_changes_nothing(drawn, way):
    pictures, learned = drawn
    other = pictures[32:].clone()
    other[..., 8:, :8] = 1 - other[..., 8:, :8]
    restore = getattr(learned, way)
    assert torch.equal(restore(pictures[32:], hidden(2)), restore(other, hidden(2)))


def test_what_is_not_beaten_is_said():
    references = {"mlm": {"unigram": {"overall": 4.0}, "bigram": {"overall": 3.0}}}
    assert not_beaten({"mlm": 2.9, "recon": 0.1}, references) == []
    [message] = not_beaten({"mlm": 4.5, "recon": 0.1}, references)
    assert message == "MLM 4.5000 is no better than unigram (4.0000), bigram (3.0000)"
    assert not_beaten({"mlm": 3.0}, references) == ["MLM 3.0000 is no better than bigram (3.0000)"]
