"""The pre-training model: what the paper promises about masking, positions and modalities."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.losses import mlm_loss, recon_loss
from mlim.masking import MaskMode, plan_masks
from mlim.models.config import MlimConfig
from mlim.models.hub import build_mlim, load_tokenizer
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.weights import fill, named_tensors
from mlim.recipe import DecoderConfig, EmbedderConfig, load_recipe

BATCH, LENGTH, VOCABULARY = 3, 9, 40
TOLERANCE = 1e-5
CONFIG = MlimConfig(
    vocabulary_size=VOCABULARY, text_positions=12, image_size=12, grid=3, hidden_size=16, layers=2, heads=2,
    intermediate_size=32, dropout=0.1, embedder=EmbedderConfig(strides=(2, 2), channels=(8, 8)),
    decoder=DecoderConfig(strides=(2, 2), channels=(12, 8)),
)  # fmt: skip


@pytest.fixture
def model() -> Mlim:
    return Mlim.random(CONFIG, seed=0).eval()


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH), generator=source)
    ids[:, 0], ids[:, -1] = CONFIG.special.cls, CONFIG.special.sep
    return ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(BATCH, 3, 12, 12, generator=source)


def some_patches(*patches: int) -> torch.Tensor:
    mask = torch.zeros(BATCH, CONFIG.patches, dtype=torch.bool)
    mask[:, list(patches)] = True
    return mask


def some_tokens(*tokens: int) -> torch.Tensor:
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    mask[:, list(tokens)] = True
    return mask


def test_shapes(model, batch):
    output = model.forward_items(*batch)
    assert output.text.shape == (BATCH, LENGTH, 16)
    assert output.patches.shape == (BATCH, 9, 16)
    assert model.mlm_logits(output.text[:, 1]).shape == (BATCH, VOCABULARY)
    assert model.reconstruct(output.patches).shape == (BATCH, 3, 12, 12)
    assert model.itm_logits(output.text[:, 0]).shape == (BATCH,)


def test_text_alone_needs_no_picture(model, batch):
    ids, attention, _ = batch
    output = model.forward_items(ids, attention, None)
    assert output.patches is None
    assert output.text.shape == (BATCH, LENGTH, 16)


def test_the_pixels_of_a_masked_patch_influence_nothing(model, batch):
    ids, attention, pixels = batch
    changed = pixels.clone()
    changed[:, :, 0:4, 4:8] = 0.0  # all of patch 1
    outputs = [model.forward_items(ids, attention, p, None, some_patches(1)) for p in (pixels, changed)]
    assert torch.equal(outputs[0].text, outputs[1].text)
    assert torch.equal(outputs[0].patches, outputs[1].patches)
    visible = [model.forward_items(ids, attention, p).text for p in (pixels, changed)]
    assert not torch.equal(*visible)


def test_a_masked_token_influences_nothing(model, batch):
    ids, attention, pixels = batch
    changed = ids.clone()
    changed[:, 2] = 5 + (ids[:, 2] - 4) % (VOCABULARY - 5)
    outputs = [model.forward_items(i, attention, pixels, some_tokens(2)) for i in (ids, changed)]
    assert torch.equal(outputs[0].text, outputs[1].text)
    assert torch.equal(outputs[0].patches, outputs[1].patches)


def test_both_modalities_share_one_mask_vector(model, batch):
    """With everything masked, only the row of [MASK] (and of the never masked [CLS], [SEP]) gets a gradient."""
    ids, attention, pixels = batch
    everything = some_patches(*range(CONFIG.patches))
    output = model.forward_items(ids, attention, pixels, some_tokens(*range(1, LENGTH - 1)), everything)
    output.patches.square().sum().backward()
    rows = model.backbone.word_embeddings.weight.grad.abs().sum(-1).nonzero().flatten().tolist()
    assert rows == sorted([CONFIG.special.cls, CONFIG.special.sep, CONFIG.special.mask])


def test_masked_patches_alone_send_gradient_to_the_mask_row_and_none_to_the_embedder(model, batch):
    ids, attention, pixels = batch
    ids = torch.full_like(ids, CONFIG.special.cls)
    model.forward_items(ids, attention, pixels, None, some_patches(*range(9))).patches.square().sum().backward()
    rows = model.backbone.word_embeddings.weight.grad.abs().sum(-1).nonzero().flatten().tolist()
    assert rows == [CONFIG.special.cls, CONFIG.special.mask]
    assert all(p.grad.abs().sum() == 0 for p in model.backbone.image_embedder.parameters())


def test_positions_survive_masking(model, batch):
    output = model.forward_items(*batch, some_tokens(1, 2, 3), some_patches(*range(9)))
    assert not torch.allclose(output.patches[:, 0], output.patches[:, 1], atol=TOLERANCE)
    assert not torch.allclose(output.text[:, 1], output.text[:, 2], atol=TOLERANCE)


def test_without_positions_masked_patches_are_all_the_same(model, batch):
    torch.nn.init.zeros_(model.backbone.image_positions.weight)
    patches = model.forward_items(*batch, None, some_patches(*range(9))).patches
    assert torch.allclose(patches, patches[:, :1].expand_as(patches), atol=TOLERANCE)


def test_no_segment_or_modality_embedding(model):
    names = " ".join(model.state_dict())
    assert "token_type" not in names
    assert "segment" not in names
    assert "modality" not in names


def test_padding_changes_nothing(model, batch):
    ids, attention, pixels = batch
    padded = torch.cat([ids, torch.zeros(BATCH, 3, dtype=torch.long)], dim=1)
    readable = torch.cat([attention, torch.zeros(BATCH, 3, dtype=torch.bool)], dim=1)
    short, long = model.forward_items(ids, attention, pixels), model.forward_items(padded, readable, pixels)
    assert torch.allclose(short.text, long.text[:, :LENGTH], atol=TOLERANCE)
    assert torch.allclose(short.patches, long.patches, atol=TOLERANCE)


def test_a_text_longer_than_the_positions_is_an_input_error(model):
    ids = torch.full((1, 13), 7)
    with pytest.raises(InputError, match=r"12 text positions.*max_tokens"):
        model.forward_items(ids, torch.ones_like(ids, dtype=torch.bool), None)


def test_a_heavy_image_batch_counts_no_token_and_its_gradients_are_finite(model, batch):
    ids, attention, pixels = batch
    recipe = load_recipe("demo")
    maskable = attention & (ids > CONFIG.special.mask)
    draws = torch.rand(BATCH, LENGTH + CONFIG.patches, generator=torch.Generator().manual_seed(0)).split(
        [LENGTH, CONFIG.patches], dim=1
    )
    plan = plan_masks(maskable, *draws, MaskMode.HEAVY_IMAGE, recipe.pretrain.masking)
    model.train()
    output = model.forward_items(ids, attention, pixels, plan.text, plan.image)
    mlm = mlm_loss(model.mlm_logits(output.text[plan.text]), ids[plan.text])
    assert mlm.total.item() == 0.0
    assert mlm.count.item() == 0.0
    (mlm.mean + recon_loss(model.reconstruct(output.patches), pixels).mean).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_seed_decides_every_weight_and_the_global_state_is_untouched():
    before = torch.get_rng_state()
    first, second, other = Mlim.random(CONFIG, 3), Mlim.random(CONFIG, 3), Mlim.random(CONFIG, 4)
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.isfinite(weight).all(), name
        assert torch.equal(weight, second.state_dict()[name]), name
    assert not torch.equal(first.backbone.word_embeddings.weight, other.backbone.word_embeddings.weight)


def test_the_mlm_head_is_tied_to_the_word_embeddings(model):
    vocabulary_shaped = [n for n, w in model.state_dict().items() if w.shape == (VOCABULARY, 16)]
    assert vocabulary_shaped == ["backbone.word_embeddings.weight"]


def test_saving_and_reading_back_is_exact(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = Mlim.from_pretrained(tmp_path)
    assert again.config == model.config
    assert not again.training
    assert torch.equal(again.forward_items(*batch).patches, model.forward_items(*batch).patches)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_equal_models_are_equal_files(tmp_path):
    for name in ("a", "b"):
        Mlim.random(CONFIG, 5).save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_model_is_written_tensor_by_tensor_as_the_library_writes_it_whole(model, tmp_path):
    """Point 16: nothing needs all weights at once to save them."""
    model.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_weights_of_another_shape_than_the_configuration_are_refused(model, tmp_path):
    """Point 16: before anything is built."""
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocabulary_size": VOCABULARY + 1}))
    with pytest.raises(InputError, match="another model"):
        Mlim.planned_from(tmp_path)


def test_a_planned_model_takes_no_memory_and_becomes_the_same(model):
    """Point 16: memory is taken where the model will live, and when."""
    planned = Mlim.planned(CONFIG, seed=0)
    assert all(parameter.is_meta for parameter in planned.model.parameters())
    built = planned.build().state_dict()
    assert all(torch.equal(built[name], value) for name, value in model.state_dict().items())


def test_a_weight_that_lacks_or_does_not_fit_is_an_error(model):
    """Point 16: no memory stays as it was found."""
    weights = named_tensors(model)
    name = next(iter(weights))
    with pytest.raises(ValueError, match=name):
        fill(model, ((other, value) for other, value in weights.items() if other != name))
    with pytest.raises(ValueError, match="cannot become"):
        fill(model, iter({name: weights[name][:1]}.items()))


def test_reading_nothing_or_the_wrong_kind_is_an_input_error(model, tmp_path):
    with pytest.raises(InputError, match="no saved model"):
        Mlim.from_pretrained(tmp_path / "absent")
    Matcher.from_mlim(model, 0.1, seed=0).save_pretrained(tmp_path / "matcher")
    with pytest.raises(InputError, match="'matcher', not 'mlim'"):
        Mlim.from_pretrained(tmp_path / "matcher")


def test_damaged_files_are_input_errors(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Mlim.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Mlim.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="JSON"):
        Mlim.from_pretrained(tmp_path)


def test_a_random_start_is_shaped_by_recipe_and_tokenizer():
    recipe, tokenizer = load_recipe("demo"), TextTokenizer.learn(["red shoe", "red shirt"], 64)
    model = build_mlim(recipe, tokenizer, seed=1)
    assert model.backbone.word_embeddings.num_embeddings == tokenizer.vocabulary_size
    assert model.config.special.mask == tokenizer.mask
    assert model.config.text_positions == recipe.text.limit + 2
    with pytest.raises(InputError, match="random"):
        load_tokenizer(recipe)


def test_a_batch_can_be_learned_by_heart(batch):
    ids, attention, pixels = batch
    model = Mlim.random(CONFIG.model_copy(update={"dropout": 0.0}), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    mask, patches = some_tokens(2, 4), some_patches(0, 4)

    def loss() -> torch.Tensor:
        output = model.forward_items(ids, attention, pixels, mask, patches)
        mlm = mlm_loss(model.mlm_logits(output.text[mask]), ids[mask])
        return mlm.mean + recon_loss(model.reconstruct(output.patches), pixels).mean

    start = loss().item()
    for _ in range(60):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < 0.3 * start
