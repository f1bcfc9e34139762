"""Choices of the design that the paper makes in passing, and their opposites."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlim.models.config import MlimConfig
from mlim.models.costs import Sample, part_costs
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.recipe import DecoderConfig, EmbedderConfig

CONFIG = MlimConfig(
    vocabulary_size=40, text_positions=12, image_size=24, grid=2, hidden_size=16, layers=2, heads=2,
    intermediate_size=24, dropout=0.0, embedder=EmbedderConfig(strides=(2, 2, 3), channels=(6, 8, 10)),
    decoder=DecoderConfig(strides=(3, 2, 2), channels=(12, 8, 6, 5)),
)  # fmt: skip
HIDDEN = torch.ones(1, CONFIG.patches, dtype=torch.bool)


def changed(**settings: object) -> Mlim:
    return Mlim.random(CONFIG.model_copy(update=settings), seed=0).eval()


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_a_mask_of_its_own_hides_patches_and_leaves_the_word_alone():
    model = changed(separate_masks=True)
    found = model.backbone.embed_image(pixels(), HIDDEN) - model.backbone.image_positions.weight
    assert torch.allclose(found[0, 0], model.backbone.image_mask.weight[0], atol=1e-6)
    assert not torch.equal(found[0, 0], model.backbone.word_embeddings.weight[CONFIG.special.mask])
    assert torch.equal(model.backbone.embed_image(pixels(0), HIDDEN), model.backbone.embed_image(pixels(1), HIDDEN))
    assert changed().backbone.image_mask is None


def test_untied_words_predict_with_vectors_of_their_own():
    tied, untied = changed(), changed(tied_words=False)
    same = untied.load_state_dict(tied.state_dict(), strict=False)
    assert (same.missing_keys, same.unexpected_keys) == (["mlm_head.words.weight"], [])
    hidden = torch.rand(3, CONFIG.hidden_size)
    assert not torch.allclose(tied.mlm_logits(hidden), untied.mlm_logits(hidden))
    untied.mlm_logits(hidden).sum().backward()
    assert untied.backbone.word_embeddings.weight.grad is None
    assert untied.mlm_head.words.weight.grad.abs().sum() > 0


def test_segments_tell_text_from_patches():
    plain, segmented = changed(), changed(modality_segments=True)
    segmented.load_state_dict(plain.state_dict(), strict=False)
    ids, places = torch.tensor([[2, 7, 3]]), torch.arange(3)
    for modality, part in enumerate(("text", "image")):
        embed = {
            "text": lambda m: m.backbone.embed_text(ids, places),
            "image": lambda m: m.backbone.embed_image(pixels()),
        }
        difference = embed[part](segmented) - embed[part](plain)
        assert torch.allclose(
            difference, segmented.backbone.modalities.weight[modality].expand_as(difference), atol=1e-6
        )
    matcher = Matcher.from_mlim(segmented, 0.0, seed=0)
    assert torch.equal(matcher.backbone.modalities.weight, segmented.backbone.modalities.weight)


@pytest.mark.parametrize("overlap", [0, 1])
def test_only_kernels_that_overlap_see_the_neighbours(overlap):
    """The gradient of one patch reaches its own region, and beyond it only with an overlap."""
    model = changed(embedder=CONFIG.embedder.model_copy(update={"overlap": overlap}))
    picture = pixels().requires_grad_()
    model.backbone.embed_image(picture)[0, 0].sum().backward()
    outside = picture.grad.clone()
    outside[..., :12, :12] = 0
    assert picture.grad[..., :12, :12].abs().sum() > 0
    assert bool(outside.abs().sum() > 0) == bool(overlap)


def test_operations_of_overlapping_kernels_are_counted():
    model = changed(embedder=CONFIG.embedder.model_copy(update={"overlap": 1}))
    with FlopCounterMode(display=False) as counter:
        model.backbone.embed_image(pixels())
    assert counter.get_total_flops() == part_costs(model.config, Sample(7, 3, CONFIG.patches))["embedder"].operations
