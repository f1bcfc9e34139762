"""The fine-tuned model: modalities, padding, positions of a pair."""

import json
from functools import partial

import pytest
import torch
from torch.nn import functional

from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.losses import match_loss
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.pair_network import PairPacking
from mlim.models.transformer import without_padding
from mlim.recipe import DecoderConfig, EmbedderConfig

BATCH, VOCABULARY = 3, 40
TOLERANCE = 1e-5
CONFIG = MlimConfig(
    vocabulary_size=VOCABULARY, text_positions=12, image_size=12, grid=3, hidden_size=16, layers=2, heads=2,
    intermediate_size=32, dropout=0.1, embedder=EmbedderConfig(strides=(2, 2), channels=(8, 8)),
    decoder=DecoderConfig(strides=(2, 2), channels=(12, 8)),
)  # fmt: skip
DEEP = CONFIG.model_copy(update={"layers": 3})
MODALITIES = ["both", "text", "image"]
READ_OUTS = ["cls", "joint", "separate"]


def make_matcher(config: MlimConfig = CONFIG, read_out: str = "cls", joint_blocks: int | None = None) -> Matcher:
    mlim = Mlim.random(config, seed=0)
    return Matcher.from_mlim(mlim, 0.1, seed=1, read_out=read_out, joint_blocks=joint_blocks).eval()


def side(seed: int, lengths: tuple[int, ...] = (6, 4, 0), width: int = 6) -> PairSide:
    source = torch.Generator().manual_seed(seed)
    attention = torch.arange(width) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(5, VOCABULARY, (BATCH, width), generator=source) * attention
    return PairSide(tokens, attention, torch.rand(BATCH, 3, 12, 12, generator=source))


def padded(item: PairSide, by: int) -> PairSide:
    more = torch.full((BATCH, by), 9)  # whatever stands at padding must not matter
    return PairSide(torch.cat([item.tokens, more], 1), torch.cat([item.attention, more < 0], 1), item.pixels)


@pytest.fixture(params=[*((read_out, None) for read_out in READ_OUTS), ("cls", 1), ("joint", 1)], ids=str)
def matcher(request) -> Matcher:
    read_out, joint_blocks = request.param
    return make_matcher(read_out=read_out, joint_blocks=joint_blocks)


@pytest.fixture
def one_sequence() -> Matcher:
    return make_matcher(read_out="cls")


@pytest.mark.parametrize("modality", MODALITIES)
def test_one_logit_per_pair(matcher, modality):
    assert matcher(side(1), side(2, (1, 2, 3), 4), modality).shape == (BATCH,)


def test_text_only_ignores_pixels_and_image_only_ignores_text(matcher):
    first, second, other = side(1), side(2), side(3)
    with_pixels, with_text = first._replace(pixels=other.pixels), first._replace(tokens=other.tokens)
    assert torch.equal(matcher(first, second, "text"), matcher(with_pixels, second, "text"))
    assert torch.equal(matcher(first, second, "image"), matcher(with_text, second, "image"))
    assert not torch.equal(matcher(first, second, "both"), matcher(with_pixels, second, "both"))
    assert not torch.equal(matcher(first, second, "both"), matcher(with_text, second, "both"))


@pytest.mark.parametrize("modality", MODALITIES)
def test_padding_changes_nothing(matcher, modality):
    first, second = side(1), side(2, (2, 6, 5))
    plain = matcher(first, second, modality)
    assert torch.allclose(plain, matcher(padded(first, 3), second, modality), atol=TOLERANCE)
    assert torch.allclose(plain, matcher(first, padded(second, 2), modality), atol=TOLERANCE)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_pair_does_not_depend_on_its_neighbours_in_the_batch(matcher, modality):
    first, second = side(1), side(2)
    whole = matcher(first, second, modality)
    alone = matcher(*(PairSide(*(part[1:2] for part in item)) for item in (first, second)), modality)
    assert torch.allclose(whole[1:2], alone, atol=TOLERANCE)


def test_the_longest_text_fits_and_a_longer_one_is_an_input_error(matcher):
    longest, longer = (side(1, (width,) * BATCH, width) for width in (10, 11))  # 12 positions with [CLS] and [SEP]
    assert matcher(longest, longest, "text").isfinite().all()
    with pytest.raises(InputError, match="max_tokens"):
        matcher(longer, longest, "text")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("read_out", "joint_blocks"), [("joint", None), ("joint", 1), ("separate", None)])
def test_the_order_of_the_items_does_not_matter_where_they_are_compared(read_out, joint_blocks, modality):
    matcher, first, second = make_matcher(CONFIG, read_out, joint_blocks), side(1), side(2, (1, 2, 3), 4)
    assert torch.allclose(matcher(first, second, modality), matcher(second, first, modality), atol=TOLERANCE)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("read_out", ["cls", "joint"])
@pytest.mark.parametrize("joint_blocks", [1, 2])
def test_joining_late_is_the_sequence_of_both_items_whose_lower_blocks_look_at_one_item_alone(
    read_out, joint_blocks, modality
):
    matcher = make_matcher(DEEP, read_out, joint_blocks)
    first, second = side(1), side(2, (1, 2, 3))
    expected = attend_within_items(matcher, first, second, modality)
    assert torch.allclose(matcher(first, second, modality), expected, atol=TOLERANCE)
    states = [matcher.item_states(item, modality) for item in (first, second)]
    assert torch.allclose(matcher.join(*states, modality), expected, atol=TOLERANCE)


def attend_within_items(matcher: Matcher, first: PairSide, second: PairSide, modality: str) -> torch.Tensor:
    """Logits by the whole sequence through every block, with a mask (B, 1, S, S) in the lower ones."""
    item = (0 if modality == "image" else 6) + (0 if modality == "text" else DEEP.patches)
    owners = torch.tensor([0] + [1] * item + [2] + [3] * item)
    real = matcher._attention(first.attention, second.attention, modality)[:, None, None, :]
    blocks, alone = matcher.backbone.encoder.levels(), matcher.config.blocks_alone
    plain = make_matcher(DEEP, matcher.read_out)
    plain.load_state_dict(matcher.state_dict())
    for number, block in enumerate(plain.backbone.encoder.levels()):
        mask = real & (owners[:, None] == owners) if number < alone else real
        block._attend = partial(attend_masked, heads=block.heads, mask=mask)
    assert 0 < alone < len(blocks)
    # all vectors at their places: what is padding is hidden by the mask
    packing = PairPacking(without_padding(*real.shape[::3]), None)
    return plain(first, second, modality, packing)


def attend_masked(qkv: torch.Tensor, packing: object, flash: bool, heads: int, mask: torch.Tensor) -> torch.Tensor:
    query, key, value = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def test_joining_late_computes_less():
    first, second = side(1), side(2)
    counted = []
    for joint_blocks in (1, 2, None):
        matcher = make_matcher(DEEP, "joint", joint_blocks)
        counted.append(matcher.operations(matcher.pack_pairs(first.attention, second.attention, "both"), "both"))
    assert counted == sorted(set(counted))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("read_out", "segments"), [("joint", False), ("cls", False), ("cls", True)])
def test_embeddings_made_once_for_an_item_serve_every_pair_of_it(read_out, segments, modality):
    matcher = make_matcher(CONFIG.model_copy(update={"pair_segments": segments}), read_out)
    items = [side(1), side(2, (1, 2, 3), 4)]
    states = [matcher.item_states(item, modality) for item in items]
    for one, other in ((0, 1), (1, 0), (0, 0)):
        expected = matcher(items[one], items[other], modality)
        assert torch.equal(matcher.join(states[one], states[other], modality), expected)


@pytest.mark.parametrize("matcher", [("separate", None)], indirect=True, ids=str)
def test_a_model_that_encodes_items_alone_joins_no_states(matcher):
    with pytest.raises(InputError, match="joins no states"):
        matcher.item_states(side(1), "both")


def test_with_cls_alone_the_order_of_the_items_matters():
    first, second = (PairSide(one.tokens, one.attention, one.pixels.double()) for one in (side(1), side(2, (2, 5, 3))))
    matcher = make_matcher().double()  # [SEP] after the first text is all that tells the items apart: a small thing
    there, back = matcher(first, second, "both"), matcher(second, first, "both")
    assert not torch.allclose(there, back, rtol=0, atol=1e-9)


def test_separate_items_know_nothing_of_each_other_and_look_as_in_pretraining():
    mlim, matcher, item = Mlim.random(CONFIG, seed=0).eval(), make_matcher(read_out="separate"), side(1, (6, 6, 6))
    vectors = matcher.item_vectors(item, "both").view(BATCH, 3, -1)
    special = CONFIG.special
    ends = [torch.full((BATCH, 1), token) for token in (special.cls, special.sep)]
    texts = torch.cat([ends[0], item.tokens, ends[1]], 1)
    before = mlim.forward_items(texts, torch.ones_like(texts, dtype=torch.bool), item.pixels)
    assert torch.allclose(vectors[:, 0], before.text[:, 0], atol=TOLERANCE)
    assert torch.allclose(vectors[:, 1], before.text[:, 1:-1].mean(1), atol=TOLERANCE)
    assert torch.allclose(vectors[:, 2], before.patches.mean(1), atol=TOLERANCE)


@pytest.mark.parametrize("modality", MODALITIES)
def test_packing_made_ahead_changes_nothing(matcher, modality):
    first, second = side(1), side(2, (1, 2, 3), 4)
    packing = matcher.pack_pairs(first.attention, second.attention, modality)
    assert torch.equal(matcher(first, second, modality, packing), matcher(first, second, modality))


def test_an_empty_text_reads_as_zeros_not_as_nan():
    vectors = make_matcher(read_out="separate").item_vectors(side(1, (6, 4, 0)), "both").view(BATCH, 3, -1)
    assert not vectors[2, 1].any()
    assert vectors.isfinite().all()


def test_a_matcher_saved_before_there_was_a_choice_reads_out_cls(tmp_path):
    make_matcher().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["read_out"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Matcher.from_pretrained(tmp_path).config.read_out == "cls"


def test_both_items_matter(matcher):
    a, b, c = side(1, (6, 6, 6)), side(2, (6, 6, 6)), side(3, (6, 6, 6))
    logits = [matcher(*pair, "both") for pair in ((a, b), (a, c), (c, b))]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_the_sequence_is_laid_out_as_documented(one_sequence):
    """[CLS] text1 patches1 [SEP] text2 patches2; text positions restart, [SEP] follows the first text's last token."""
    item = PairSide(torch.tensor([[7, 8, 0]]), torch.tensor([[True, True, False]]), torch.rand(1, 3, 12, 12))
    seen = []
    one_sequence.backbone.text_positions.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].tolist())
    )
    words = []
    one_sequence.backbone.word_embeddings.register_forward_hook(
        lambda module, inputs, output: words.append(inputs[0].tolist())
    )
    one_sequence(item, item, "both")
    assert seen == [[[0]], [1, 2, 3], [[3]], [1, 2, 3]]
    assert words == [[[CONFIG.special.cls]], [[7, 8, 0]], [[CONFIG.special.sep]], [[7, 8, 0]]]


@pytest.mark.parametrize(("modality", "length"), [("text", 2 + 6 + 4), ("image", 2 + 9 + 9), ("both", 2 + 10 + 18)])
def test_a_dropped_modality_has_no_vectors_in_the_sequence(one_sequence, modality, length, monkeypatch):
    first, second = side(1), side(2, (1, 2, 3), 4)
    packing = one_sequence.pack_pairs(first.attention, second.attention, modality)
    assert packing.pairs.attention_mask.shape == (BATCH, length)
    encode, seen = one_sequence.backbone.encode, []
    monkeypatch.setattr(one_sequence.backbone, "encode", lambda *given: seen.append(given[0].shape) or encode(*given))
    one_sequence(first, second, modality)
    assert seen == [(BATCH, length, CONFIG.hidden_size)]


def test_without_segments_nothing_names_the_items_and_with_them_one_vector_each():
    assert not [name for name in make_matcher().state_dict() if "segment" in name]
    with_segments = make_matcher(CONFIG.model_copy(update={"pair_segments": True}))
    assert with_segments.state_dict()["segments.weight"].shape == (2, 16)
    loss = with_segments(side(1), side(2), "both").sum()
    loss.backward()
    assert (with_segments.segments.weight.grad.abs().sum(-1) > 0).all()


def test_it_starts_from_a_copy_of_the_backbone_and_drops_the_rest():
    mlim = Mlim.random(CONFIG, seed=0)
    matcher = Matcher.from_mlim(mlim, head_dropout=0.1, seed=1)
    for name, weight in mlim.backbone.state_dict().items():
        assert torch.equal(weight, matcher.backbone.state_dict()[name])
    assert not [name for name in matcher.state_dict() if "decoder" in name or "mlm" in name or "itm" in name]
    with torch.no_grad():
        matcher.backbone.word_embeddings.weight.zero_()
    assert mlim.backbone.word_embeddings.weight.abs().sum() > 0


def test_the_head_depends_on_the_seed_alone():
    mlim = Mlim.random(CONFIG, seed=0)
    first, second, other = (Matcher.from_mlim(mlim, 0.1, seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.dense.weight, second.head.dense.weight)
    assert not torch.equal(first.head.dense.weight, other.head.dense.weight)


def test_saving_and_reading_back_is_exact(matcher, tmp_path):
    matcher.save_pretrained(tmp_path)
    again = Matcher.from_pretrained(tmp_path)
    assert again.config == matcher.config
    assert torch.equal(again(side(1), side(2), "both"), matcher(side(1), side(2), "both"))
    Mlim.random(CONFIG, 0).save_pretrained(tmp_path / "mlim")
    with pytest.raises(InputError, match="'mlim', not 'matcher'"):
        Matcher.from_pretrained(tmp_path / "mlim")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("read_out", READ_OUTS)
def test_it_can_learn_from_each_modality(modality, read_out):
    matcher = make_matcher(read_out=read_out)
    optimiser = torch.optim.Adam(matcher.parameters(), lr=3e-3)
    first, second, labels = side(1, (6, 5, 4)), side(2, (6, 5, 4)), torch.tensor([1.0, 0.0, 1.0])
    for _ in range(60):
        optimiser.zero_grad()
        loss = match_loss(matcher(first, second, modality), labels).mean
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("read_out", READ_OUTS)
def test_what_tells_attributes_is_not_kept(read_out, tmp_path):
    """With heads for attributes a matcher starts from the same other weights, and it is saved without them."""
    mlim = Mlim.random(CONFIG, 0)
    plain, more = (Matcher.from_mlim(mlim, 0.1, 1, read_out, classes).eval() for classes in ((), (3, 2)))
    read = more.read_pair(side(1), side(2), "both")
    assert [logits.shape for logits in more.attribute_logits(read.items)] == [(2 * BATCH, 3), (2 * BATCH, 2)]
    more.forget_attributes()
    assert more.attribute_logits(read.items) == []
    more.save_pretrained(tmp_path)
    assert torch.equal(Matcher.from_pretrained(tmp_path)(side(1), side(2), "both"), plain(side(1), side(2), "both"))
