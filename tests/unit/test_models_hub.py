"""Starting from a pre-trained BERT: a small one with random weights, saved and read with the real library."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models.hub import build_mlim, find_start, load_tokenizer
from mlim.recipe import Recipe, load_recipe

TEXTS = ["brand nike running shoe red", "brand acme shirt light blue"] * 3
TOLERANCE = 1e-5


def recipe_for(start: object, *assignments: str) -> Recipe:
    shape = ("model.hidden_size=32", "model.layers=2", "model.heads=4", "model.intermediate_size=64")
    return load_recipe("demo", [f"model.start={start}", "text.max_tokens=24", *shape, *assignments])


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.learn(TEXTS, 80)


@pytest.fixture(scope="module")
def bert(tokenizer):
    """A BERT whose every weight, the segment embedding and norms included, is away from its starting value."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def folder(bert, tokenizer, tmp_path):
    bert.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def text_batch(tokenizer):
    rows = [[tokenizer.cls, *tokenizer.encode(text, 9), tokenizer.sep] for text in TEXTS[:2]]
    ids = torch.tensor(rows[0] + [tokenizer.pad] * 4)[None]
    return ids, ids != tokenizer.pad


def test_a_text_gives_the_outputs_of_the_pretrained_bert(bert, tokenizer, folder):
    model = build_mlim(recipe_for(folder), load_tokenizer(recipe_for(folder)), seed=0).eval()
    ids, attention = text_batch(tokenizer)
    ours = model.forward_items(ids, attention, None).text
    theirs = bert.bert(ids, attention_mask=attention.long(), token_type_ids=torch.zeros_like(ids)).last_hidden_state
    assert torch.allclose(ours[attention], theirs[attention], atol=TOLERANCE)
    logits = bert(ids, attention_mask=attention.long()).logits
    assert torch.allclose(model.mlm_logits(ours[attention]), logits[attention], atol=TOLERANCE)


def test_no_segment_embedding_survives_and_pictures_start_at_random(tokenizer, folder):
    first, second = (build_mlim(recipe_for(folder), tokenizer, seed) for seed in (0, 1))
    assert "token_type" not in " ".join(first.state_dict())
    assert torch.equal(first.backbone.word_embeddings.weight, second.backbone.word_embeddings.weight)
    for name in (
        "backbone.image_positions.weight",
        "decoder.layers.0.weight",
        "backbone.image_embedder.layers.0.weight",
    ):
        assert not torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_a_checkpoint_without_a_head_gets_a_random_one(bert, tokenizer, tmp_path):
    bert.bert.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    first, second = (build_mlim(recipe_for(tmp_path), tokenizer, seed) for seed in (0, 0))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.mlm_head.dense.weight, second.mlm_head.dense.weight)
    assert torch.equal(first.backbone.word_embeddings.weight, bert.bert.embeddings.word_embeddings.weight)
    assert not torch.equal(first.mlm_head.dense.weight, bert.cls.predictions.transform.dense.weight)


def test_a_shape_that_differs_says_which_values_to_set(tokenizer, folder):
    recipe = load_recipe("demo", [f"model.start={folder}", "model.layers=5"])
    with pytest.raises(InputError) as caught:
        build_mlim(recipe, tokenizer, seed=0)
    message = str(caught.value)
    for name, value in {"hidden_size": 32, "layers": 2, "intermediate_size": 64}.items():
        assert f"set model.{name}={value}" in message


def test_too_long_texts_and_foreign_tokenizers_are_refused(folder):
    larger = TextTokenizer.learn([*TEXTS, *(chr(c) * 2 for c in range(0x4E00, 0x4E40))] * 2, 400)
    with pytest.raises(InputError) as caught:
        build_mlim(recipe_for(folder, "text.max_tokens=63"), larger, seed=0)
    assert "set text.max_tokens=62 or less" in str(caught.value)
    assert "use its own" in str(caught.value)


def test_folders_that_hold_no_bert_are_refused(tokenizer, folder, tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        build_mlim(recipe_for(tmp_path / ".."), tokenizer, seed=0)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        build_mlim(recipe_for(folder), tokenizer, seed=0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(InputError, match="gpt2"):
        build_mlim(recipe_for(folder), tokenizer, seed=0)


def test_weights_that_lack_parts_are_refused(tokenizer, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="lack parts"):
        build_mlim(recipe_for(folder, "model.layers=3"), tokenizer, seed=0)


@pytest.mark.parametrize("old", [False, True])
def test_every_way_of_storing_a_bert_gives_the_same_network(bert, tokenizer, folder, tmp_path, old):
    """Point 16: weights are read one at a time: from several files, and under the norms' old names."""
    expected = build_mlim(recipe_for(folder), tokenizer, seed=0).state_dict()
    weights = load_file(folder / "model.safetensors")
    if old:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {re.sub(r"LayerNorm\.\w+$", lambda found: names[found[0]], name): weights[name] for name in weights}
        save_file(renamed, folder / "model.safetensors")
    else:
        (folder / "model.safetensors").unlink()
        bert.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
    found = build_mlim(recipe_for(folder), tokenizer, seed=0).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_weights_of_another_shape_than_their_config_says_are_refused(tokenizer, folder):
    """Point 16: found out from the header, before anything is trained."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(InputError, match=r"word_embeddings.weight gives .* config.json says"):
        build_mlim(recipe_for(folder), tokenizer, seed=0)


def test_a_local_folder_is_used_as_it_is(folder):
    assert find_start(str(folder)) == folder
    assert BertModel.from_pretrained(folder).config.hidden_size == 32
