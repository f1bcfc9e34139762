import math

import pytest
import torch

from mlim.losses import itm_loss, match_loss, mlm_loss, recon_loss


def test_mlm_is_the_mean_negative_log_likelihood_of_the_masked_tokens():
    term = mlm_loss(torch.zeros(6, 50), torch.arange(6))
    assert term.count.item() == 6
    assert term.mean.item() == pytest.approx(math.log(50))


def test_mlm_over_nothing_is_exactly_zero_with_a_finite_gradient():
    logits = torch.zeros(0, 50, requires_grad=True)
    term = mlm_loss(logits, torch.zeros(0, dtype=torch.long))
    assert term.total.item() == term.count.item() == term.mean.item() == 0.0
    term.mean.backward()
    assert torch.isfinite(logits.grad).all()


def test_recon_sums_channels_and_averages_pixels():
    target = torch.zeros(2, 3, 8, 8)
    term = recon_loss(torch.full_like(target, 0.5), target)
    assert term.count.item() == 2 * 8 * 8
    assert term.mean.item() == pytest.approx(3 * 0.25)


def test_normalised_recon_is_the_squared_error_of_normalised_patches():
    """As MAE's target: each patch minus its mean, over its standard deviation, in prediction and picture alike."""
    drawn, picture = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    picture[:, :, :4, :4] = 0.25  # one colour: nothing to divide by
    patches = [part[:, :, 4:, 4:] for part in (drawn, picture)]
    centre, scale = patches[1].mean((1, 2, 3), keepdim=True), patches[1].std((1, 2, 3), correction=0, keepdim=True)
    expected = (((patches[0] - centre) - (patches[1] - centre)) / scale).square().sum()
    pictures = [torch.zeros(2, 3, 8, 8) for _ in patches]
    for whole, patch in zip(pictures, patches, strict=True):
        whole[:, :, 4:, 4:] = patch
    assert recon_loss(*pictures, grid=2).total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.isfinite(recon_loss(drawn, picture, grid=2).total)
    assert recon_loss(drawn, picture, grid=2).count == recon_loss(drawn, picture).count


@pytest.mark.parametrize("loss", [itm_loss, match_loss])
def test_binary_losses_average_over_examples(loss):
    term = loss(torch.zeros(4), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert term.count.item() == 4
    assert term.mean.item() == pytest.approx(math.log(2))
    assert loss(torch.tensor([9.0]), torch.tensor([1])).mean < loss(torch.tensor([-9.0]), torch.tensor([1])).mean


def test_totals_and_counts_of_micro_batches_add_up_to_the_whole_batch():
    torch.manual_seed(0)
    logits, targets = torch.randn(10, 20), torch.randint(20, (10,))
    whole, parts = mlm_loss(logits, targets), [mlm_loss(logits[:3], targets[:3]), mlm_loss(logits[3:], targets[3:])]
    total, count = sum(part.total for part in parts), sum(part.count for part in parts)
    assert (total / count).item() == pytest.approx(whole.mean.item())


def test_losses_are_computed_in_full_precision():
    term = recon_loss(torch.rand(1, 3, 4, 4, dtype=torch.bfloat16), torch.rand(1, 3, 4, 4))
    assert term.total.dtype == torch.float32
