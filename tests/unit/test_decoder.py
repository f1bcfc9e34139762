"""Blocks with cross-attention, causal blocks and blocks behind others, against Hugging Face's."""

from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from mlim.models.attention import causal
from mlim.models.decoder import Blocks, DecoderBlock, Memory

WIDTH, HEADS, LAYERS, INNER = 16, 2, 2, 24
SHAPE = SimpleNamespace(
    hidden_size=WIDTH,
    heads=HEADS,
    layers=LAYERS,
    intermediate_size=INNER,
    dropout=0.0,
    activation="gelu",
    norm_eps=1e-12,
)
PARTS = {
    "self_attention.query": "attention.self.query",
    "self_attention.key": "attention.self.key",
    "self_attention.value": "attention.self.value",
    "self_attention.output": "attention.output.dense",
    "self_norm": "attention.output.LayerNorm",
    "cross_attention.query": "crossattention.self.query",
    "cross_attention.key": "crossattention.self.key",
    "cross_attention.value": "crossattention.self.value",
    "cross_attention.output": "crossattention.output.dense",
    "cross_norm": "crossattention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "output_norm": "output.LayerNorm",
}


def copied(ours: Blocks, theirs: torch.nn.Module) -> None:
    """Give our blocks the weights of a Hugging Face encoder's layers."""
    given = theirs.state_dict()
    for number in range(LAYERS):
        for mine, other in PARTS.items():
            for kind in ("weight", "bias"):
                name = f"layer.{number}.{other}.{kind}"
                if name in given:
                    ours.state_dict()[f"blocks.{number}.{mine}.{kind}"].copy_(given[name])


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module in evaluation mode, its weights away from their starting values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def test_a_causal_decoder_with_cross_attention_is_that_of_hugging_face():
    torch.manual_seed(0)
    theirs = moved(
        BertLMHeadModel(
            BertConfig(
                vocab_size=30, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                intermediate_size=INNER, is_decoder=True, add_cross_attention=True, max_position_embeddings=12,
            )
        )
    )  # fmt: skip
    ours = Blocks(SHAPE)
    copied(ours, theirs.bert.encoder)
    ids, memory = torch.randint(1, 30, (3, 7)), torch.randn(3, 5, WIDTH)
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    with torch.no_grad():
        given = theirs.bert(ids, encoder_hidden_states=memory, encoder_attention_mask=seen, output_hidden_states=True)
        embedded = given.hidden_states[0]
        read = Memory(memory, visible=seen.bool()[:, None, None, :])
        outputs = ours(embedded, visible=causal(7, ids.device), memory=read)
    for mine, other in zip(outputs, given.hidden_states[1:], strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_no_gradient_comes_from_later_vectors():
    torch.manual_seed(0)
    block = DecoderBlock(SHAPE, crosses=False)
    hidden = torch.randn(1, 6, WIDTH, requires_grad=True)
    (block(hidden, visible=causal(6, hidden.device))[0, 2] @ torch.randn(WIDTH)).backward()
    touched = hidden.grad[0].abs().sum(dim=1) > 0
    assert touched.tolist() == [True, True, True, False, False, False]


def test_vectors_behind_others_see_what_one_sequence_would_show_them():
    torch.manual_seed(1)
    blocks = moved(Blocks(SHAPE, crosses=False))
    first, later = torch.randn(2, 4, WIDTH), torch.randn(2, 3, WIDTH)
    whole = torch.zeros(7, 7, dtype=torch.bool)
    whole[:4, :4] = True
    whole[4:] = causal(3, first.device, before=4)
    with torch.no_grad():
        together = blocks(torch.cat([first, later], dim=1), visible=whole)[-1]
        read, outputs = blocks.inputs(first)
        apart = blocks(later, visible=whole[4:], before=read)[-1]
    assert torch.allclose(outputs, together[:, :4], atol=1e-6)
    assert torch.allclose(apart, together[:, 4:], atol=1e-6)


@pytest.mark.parametrize("crosses", [True, False])
def test_dropout_on_a_cpu_keeps_what_is_not_visible_out(crosses):
    torch.manual_seed(2)
    block = DecoderBlock(SimpleNamespace(**{**vars(SHAPE), "dropout": 0.2}), crosses)
    hidden, aim = torch.randn(2, 4, WIDTH, requires_grad=True), torch.randn(WIDTH)
    memory = Memory(torch.randn(2, 3, WIDTH).requires_grad_(), visible=torch.tensor([True, True, False]))
    (block(hidden, visible=causal(4, hidden.device), memory=memory if crosses else None)[:, 1] @ aim).sum().backward()
    assert (hidden.grad.abs().sum(dim=2) > 0).tolist() == [[True, True, False, False]] * 2
    if crosses:
        assert (memory.states.grad.abs().sum(dim=2) > 0).tolist() == [[True, True, False]] * 2
