"""The fine-tuned model: modalities, padding, positions of a pair."""

import pytest
import torch

from mlim.errors import InputError
from mlim.losses import match_loss
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher, PairSide
from mlim.models.mlim import Mlim
from mlim.recipe import DecoderConfig, EmbedderConfig

BATCH, VOCABULARY = 3, 40
TOLERANCE = 1e-5
CONFIG = MlimConfig(
    vocabulary_size=VOCABULARY, text_positions=12, image_size=12, grid=3, hidden_size=16, layers=2, heads=2,
    intermediate_size=32, dropout=0.1, embedder=EmbedderConfig(strides=(2, 2), channels=(8, 8)),
    decoder=DecoderConfig(strides=(2, 2), channels=(12, 8)),
)  # fmt: skip
MODALITIES = ["both", "text", "image"]


def make_matcher(config: MlimConfig = CONFIG) -> Matcher:
    return Matcher.from_mlim(Mlim.random(config, seed=0), head_dropout=0.1, seed=1).eval()


def side(seed: int, lengths: tuple[int, ...] = (6, 4, 0), width: int = 6) -> PairSide:
    source = torch.Generator().manual_seed(seed)
    attention = torch.arange(width) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(5, VOCABULARY, (BATCH, width), generator=source) * attention
    return PairSide(tokens, attention, torch.rand(BATCH, 3, 12, 12, generator=source))


def padded(item: PairSide, by: int) -> PairSide:
    more = torch.full((BATCH, by), 9)  # whatever stands at padding must not matter
    return PairSide(torch.cat([item.tokens, more], 1), torch.cat([item.attention, more < 0], 1), item.pixels)


@pytest.fixture
def matcher() -> Matcher:
    return make_matcher()


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


def test_both_items_matter(matcher):
    a, b, c = side(1, (6, 6, 6)), side(2, (6, 6, 6)), side(3, (6, 6, 6))
    assert not torch.allclose(matcher(a, b, "both"), matcher(a, c, "both"))
    assert not torch.allclose(matcher(a, b, "both"), matcher(c, b, "both"))


def test_the_sequence_is_laid_out_as_documented(matcher):
    """[CLS] text1 cells1 [SEP] text2 cells2; text positions restart, [SEP] follows the first text's last token."""
    item = PairSide(torch.tensor([[7, 8, 0]]), torch.tensor([[True, True, False]]), torch.rand(1, 3, 12, 12))
    seen = []
    matcher.backbone.text_positions.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].tolist())
    )
    words = []
    matcher.backbone.words.register_forward_hook(lambda module, inputs, output: words.append(inputs[0].tolist()))
    matcher(item, item, "both")
    assert seen == [[[0]], [1, 2, 3], [[3]], [1, 2, 3]]
    assert words == [[[CONFIG.special.cls]], [[7, 8, 0]], [[CONFIG.special.sep]], [[7, 8, 0]]]


@pytest.mark.parametrize(("modality", "length"), [("text", 2 + 6 + 4), ("image", 2 + 9 + 9), ("both", 2 + 10 + 18)])
def test_a_dropped_modality_has_no_vectors_in_the_sequence(matcher, modality, length, monkeypatch):
    first, second = side(1), side(2, (1, 2, 3), 4)
    assert matcher.pack_pairs(first.attention, second.attention, modality).readable.shape == (BATCH, length)
    encode, seen = matcher.backbone.encode, []
    monkeypatch.setattr(matcher.backbone, "encode", lambda *given: seen.append(given[0].shape) or encode(*given))
    matcher(first, second, modality)
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
        matcher.backbone.words.weight.zero_()
    assert mlim.backbone.words.weight.abs().sum() > 0


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
def test_it_can_learn_from_each_modality(modality):
    matcher = make_matcher()
    optimiser = torch.optim.Adam(matcher.parameters(), lr=3e-3)
    first, second, labels = side(1, (6, 5, 4)), side(2, (6, 5, 4)), torch.tensor([1.0, 0.0, 1.0])
    for _ in range(60):
        optimiser.zero_grad()
        loss = match_loss(matcher(first, second, modality), labels).mean
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
