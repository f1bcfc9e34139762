"""Texts from left to right by networks of MLM: what each word sees, in training and when a text is written."""

import pytest
import torch
from torch import Tensor

from mlim.config import override, parse
from mlim.data.tokenize import TextTokenizer
from mlim.models.system import Shown, System
from mlim.models.systems import plan_system
from mlim.models.transformer import Block
from mlim.models.write import Writing
from mlim.models.writing import write_further, write_texts
from mlim.recipe import Recipe
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.tasks.build import pretrain_objective
from tests.decoder_recipe import SETTINGS as DECODERS
from tests.joint_recipe import SETTINGS as JOINT

SYSTEMS = {"mlim": "no-pretraining", "vilt": "vilt-scratch", "pixel-bert": "pixel-bert-scratch"}
LENGTH = 5


def planned(recipe: Recipe, settings: tuple[str, ...], variant: str) -> System:
    changed = parse(Recipe, override(recipe.model_dump(mode="json"), (*settings, "model.layers=2")), "recipe tiny")
    tokenizer = TextTokenizer.learn(["red shirt", "blue bag"], 128)
    model = plan_system(changed.system_of(changed.variants[variant]), changed.network, tokenizer, 0).build().eval()
    with torch.no_grad():  # far from the start, where every vector is alike
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(params=SYSTEMS)
def model(request, tiny_recipe) -> System:
    return planned(tiny_recipe, JOINT, SYSTEMS[request.param])


def shown(items: int = 3) -> Shown:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 12, (items, LENGTH), generator=generator)
    return Shown(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(items, 3, 16, 16, generator=generator))


def plain_block(block: Block, hidden: Tensor, visible: Tensor) -> Tensor:
    """BERT's block over vectors (S, H) with a mask (S, S), head by head."""
    read = block.attention_norm(hidden) if block.norm_first else hidden
    query, key, value = (part.chunk(block.heads, dim=1) for part in block.qkv(read).chunk(3, dim=1))
    size = query[0].shape[1]
    heads = [
        torch.softmax((q @ k.T / size**0.5).masked_fill(~visible, -torch.inf), dim=1) @ v
        for q, k, v in zip(query, key, value, strict=True)
    ]
    mixed = hidden + block.attention_output(torch.cat(heads, dim=1))
    if block.norm_first:
        return mixed + block.fc2(block.activation(block.fc1(block.output_norm(mixed))))
    mixed = block.attention_norm(mixed)
    return block.output_norm(mixed + block.fc2(block.activation(block.fc1(mixed))))


def test_a_word_is_predicted_as_a_hidden_token_after_the_words_before_it(model):
    """One sequence of picture, words and [MASK] by a mask of its own, for each word anew."""
    item = shown(1)
    with torch.no_grad():
        found = model.write(model.look(item), item.input_ids)[0]
        pictures = model.enter_pictures(item)[0]
        for known in range(1, LENGTH + 1):
            ids = torch.cat([item.input_ids[:, :known], torch.tensor([[model.mask_token]])], dim=1)
            hidden = torch.cat([pictures, model.enter_words(ids, torch.arange(known + 1))[0]])
            visible = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
            visible[:, : len(pictures)] = True
            for block in model.joint_encoder.levels():
                hidden = plain_block(block, hidden, visible)
            expected = model.joint_encoder.last_norm(hidden)[-1]
            assert torch.allclose(found[known - 1], expected, atol=1e-5)


def test_the_loss_trains_every_weight_but_other_heads_and_sees_no_later_word(model):
    pretraining = Pretraining.model_validate({"tasks": [{"task": "caption"}]})
    objective = pretrain_objective(model, PretrainConfig(), pretraining, 18, 0)
    item = shown()
    (model.write(model.look(item), item.input_ids) ** 2).sum().backward()
    untouched = {name for name, each in model.named_parameters() if each.requires_grad and each.grad is None}
    assert untouched == {name for name, _ in model.named_parameters() if name.startswith("mlm_head.")}
    assert not any(each.requires_grad for each in model.itm_head.parameters())
    assert objective.uses_everything
    later = item._replace(input_ids=torch.cat([item.input_ids[:, :3], item.input_ids[:, 3:].flip(1)], dim=1))
    with torch.no_grad():
        one, other = (model.write(model.look(each), each.input_ids) for each in (item, later))
    assert torch.equal(one[:, :3], other[:, :3])


@pytest.mark.parametrize(
    ("settings", "variant"),
    [*((JOINT, name) for name in SYSTEMS.values()), (DECODERS, "e2e-vlp"), (DECODERS, "git")],
)
def test_texts_of_different_lengths_go_on_as_each_by_itself(tiny_recipe, settings, variant):
    model, item = planned(tiny_recipe, settings, variant), shown()
    rules, lengths = Writing(3, 3, 4, beam=2, forbidden=(0, 2, 4)), torch.tensor([5, 2, 1])
    for pixels in (item.pixels, None):
        together = write_further(model, item._replace(pixels=pixels), item.input_ids, lengths, rules)
        for row, length in enumerate(lengths.tolist()):
            alone = Shown(
                item.input_ids[row : row + 1],
                item.text_attention[row : row + 1],
                None if pixels is None else pixels[row : row + 1],
            )
            begun = item.input_ids[row : row + 1, :length]
            assert write_further(model, alone, begun, torch.tensor([length]), rules) == [together[row]]
        seen = model.look(item._replace(pixels=pixels))
        assert torch.isfinite(model.write(seen, item.input_ids)).all()
    nothing = item.input_ids[:, :0]
    assert write_further(model, item, nothing, torch.zeros(3).long(), rules) == write_texts(model, item, rules)
