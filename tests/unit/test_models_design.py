"""Choices of the design that the paper makes in passing, and their opposites."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlim.errors import InputError
from mlim.models.config import MlimConfig
from mlim.models.costs import Sample, part_costs
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.system import Shown
from mlim.models.transformer import pack
from mlim.recipe import DecoderConfig, EmbedderConfig, load_recipe

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


IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 12, 3, 0]])
WORDS = torch.tensor([[False, True, False, True, False], [False, False, True, False, False]])
PATCHES = torch.tensor([[True, False, False, True], [False, True, True, True]])


def shown(words: torch.Tensor | None = WORDS, patches: torch.Tensor | None = PATCHES) -> Shown:
    pictures = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return Shown(IDS, IDS > 0, pictures, words, patches)


def test_hidden_places_join_above_the_visible_blocks():
    """As computed for each item by itself: the lower block over its visible vectors, the upper one over all of them."""
    model, given = changed(visible_blocks=1), shown()
    found, backbone = model.fuse(given), model.backbone
    vectors = torch.cat(
        [
            backbone.embed_text(given.words(CONFIG.special.mask), torch.arange(5)),
            backbone.embed_image(given.pixels, PATCHES),
        ],
        dim=1,
    )
    for item, length in enumerate((5, 4)):
        places = [*range(length), *range(5, 9)]
        entered = backbone.enter(vectors[item, places])[None]
        seen = ~torch.cat([WORDS[item], PATCHES[item]])[places]
        lower, upper = (block.run for block in backbone.encoder.levels())
        every = entered.clone()
        every[:, seen] = lower(entered[:, seen], pack(torch.ones(1, int(seen.sum()), dtype=torch.bool)))
        expected = upper(every, pack(torch.ones(1, len(places), dtype=torch.bool)))[0]
        outputs = torch.cat([found.text[item, :length], found.patches[item]])
        assert torch.allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("nothing", [(None, None), (torch.zeros_like(WORDS), torch.zeros_like(PATCHES))])
def test_visible_blocks_change_nothing_where_nothing_is_hidden(nothing):
    plain, late = (model.fuse(shown(*nothing)) for model in (changed(), changed(visible_blocks=1)))
    assert torch.allclose(plain.text, late.text, atol=1e-6)
    assert torch.allclose(plain.patches, late.patches, atol=1e-6)


@pytest.mark.parametrize("hides", ["words", "patches"])
def test_one_modality_may_be_hidden_alone(hides):
    late, plain = changed(visible_blocks=1), changed()
    alone = shown(patches=None) if hides == "words" else shown(words=None)
    none = shown(patches=torch.zeros_like(PATCHES)) if hides == "words" else shown(words=torch.zeros_like(WORDS))
    assert torch.allclose(late.fuse(alone).text, late.fuse(none).text, atol=1e-6)
    assert not torch.allclose(late.fuse(alone).text, plain.fuse(alone).text, atol=1e-3)


def test_fewer_operations_are_counted_where_lower_blocks_read_less():
    model = changed(visible_blocks=1)
    packing = model.pack_items(IDS > 0)
    seen = model.pack_visible(packing, WORDS, PATCHES)
    assert (model.tokens(packing), model.tokens(seen), model.tokens(seen.visible)) == (17, 17, 9)
    one = part_costs(CONFIG.model_copy(update={"layers": 1}), Sample(4.5, 0, CONFIG.patches))["transformer"]
    less = part_costs(CONFIG.model_copy(update={"layers": 1}), Sample(4.5, 0, 0))["transformer"]
    assert model.operations(packing) - model.operations(seen) == 2 * (one.operations - less.operations)
    assert changed().pack_visible(packing, WORDS, PATCHES) is packing


def test_a_recipe_leaves_a_block_that_reads_what_is_hidden():
    assert load_recipe("small", ["model.visible_blocks=1"]).model.visible_blocks == 1
    with pytest.raises(InputError, match=r"visible_blocks 2 leaves none of 2 layers to read what is hidden; at most 1"):
        load_recipe("small", ["model.visible_blocks=2"])
