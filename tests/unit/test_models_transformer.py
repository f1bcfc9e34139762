"""The transformer against Hugging Face's; checkpointed, compiled, and where nobody can wait for a device."""

import itertools
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from mlim.data.batches import PairSide
from mlim.losses import mlm_loss, recon_loss
from mlim.models import dropout as dropout_module
from mlim.models import transformer
from mlim.models.bert import block_sources, joined
from mlim.models.config import MlimConfig
from mlim.models.dropout import Dropout, dropout_noise
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.transformer import Encoder, attend_packed, attend_padded, pack, put_tokens, take_tokens
from mlim.recipe import DecoderConfig, EmbedderConfig

TOLERANCE = 1e-5
WIDTH, HEADS, LAYERS, VOCABULARY = 16, 2, 3, 40
CONFIG = MlimConfig(
    vocabulary_size=VOCABULARY, text_positions=12, image_size=12, grid=3, hidden_size=WIDTH, layers=LAYERS, heads=HEADS,
    intermediate_size=32, dropout=0.1, embedder=EmbedderConfig(strides=(2, 2), channels=(8, 8)),
    decoder=DecoderConfig(strides=(2, 2), channels=(12, 8)),
)  # fmt: skip
WITHOUT_DROPOUT = CONFIG.model_copy(update={"dropout": 0.0})
LENGTHS = [(7, 7, 7), (7, 2, 5), (1, 1, 4)]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def attention_of(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def random_encoder(config: MlimConfig, seed: int = 0) -> tuple[Encoder, BertEncoder]:
    """Ours, and Hugging Face's with the same weights, all of them away from their starting values."""
    torch.manual_seed(seed)
    theirs = BertEncoder(
        BertConfig(
            hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=32,
            hidden_act=config.activation, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            layer_norm_eps=config.norm_eps, attn_implementation="sdpa",
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours = Encoder(config)
    states = theirs.state_dict()
    for number in range(LAYERS):
        sources = block_sources(f"blocks.{number}", f"layer.{number}").items()
        copied = {name: joined([states[part] for part in parts], parts) for name, parts in sources}
        ours.load_state_dict(copied, strict=False)
    return ours, theirs


def encode(encoder: Encoder, vectors: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    packing = pack(attention)
    return put_tokens(encoder(take_tokens(vectors, packing), packing), packing)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_outputs_and_gradients_are_those_of_hugging_face(lengths, activation):
    config = WITHOUT_DROPOUT.model_copy(update={"activation": activation})
    ours, theirs = random_encoder(config)
    attention, vectors = attention_of(lengths, 7), torch.randn(3, 7, WIDTH)
    aim = torch.randn(3, 7, WIDTH) * attention[..., None]  # padding is in no loss
    given = [vectors.clone().requires_grad_() for _ in range(2)]
    mask = attention[:, None, None, :].expand(-1, -1, 7, -1)
    outputs = encode(ours, given[0], attention), theirs(given[1], attention_mask=mask).last_hidden_state
    assert torch.allclose(outputs[0][attention], outputs[1][attention], atol=TOLERANCE)
    for output in outputs:
        (output * aim).sum().backward()
    assert torch.allclose(given[0].grad, given[1].grad, atol=TOLERANCE)
    for block, layer in zip(ours.blocks, theirs.layer, strict=True):
        apart = [getattr(layer.attention.self, name).weight.grad for name in ("query", "key", "value")]
        assert torch.allclose(block.qkv.weight.grad, torch.cat(apart), atol=TOLERANCE)
        assert torch.allclose(block.fc2.weight.grad, layer.output.dense.weight.grad, atol=TOLERANCE)
        norms = block.attention_norm.weight.grad, layer.attention.output.LayerNorm.weight.grad
        assert torch.allclose(*norms, atol=TOLERANCE)


def test_whatever_stands_at_padding_influences_neither_outputs_nor_gradients():
    encoder, attention = random_encoder(WITHOUT_DROPOUT)[0], attention_of((7, 2, 5), 7)
    vectors, found = torch.randn(3, 7, WIDTH), []
    for filler in (0.0, float("nan")):
        encoder.zero_grad()
        output = encode(encoder, vectors.masked_fill(~attention[..., None], filler), attention)
        output.square().sum().backward()
        found.append([output, *(parameter.grad for parameter in encoder.parameters())])
    assert (found[0][0][~attention] == 0).all()
    for one, other in zip(*found, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2), st.booleans())
def test_tokens_return_to_their_places(lengths, more, holes):
    attention = attention_of(tuple(lengths), max(lengths) + more)
    if holes:  # a pair of items has padding between its two texts
        attention = torch.cat([attention, attention], dim=1)
    packing = pack(attention)
    vectors = torch.randn(*attention.shape, 4)
    tokens = take_tokens(vectors, packing)
    assert packing.padded == (not attention.all())
    assert torch.equal(put_tokens(tokens, packing), vectors * attention[..., None])
    assert packing.cu_seqlens.tolist() == [0, *attention.sum(1).cumsum(0).tolist()]
    assert packing.max_seqlen == attention.sum(1).max()
    if packing.padded:
        assert torch.equal(tokens, vectors[attention])


def one_by_one(query, key, value, offsets, offsets_k, longest, longest_k):
    """What the GPU's kernel computes, sequence by sequence: (N, heads, size) -> (N, heads, size)."""
    assert torch.equal(offsets, offsets_k)
    assert longest == longest_k == int((offsets[1:] - offsets[:-1]).max())
    starts = offsets.tolist()
    parts = []
    for start, end in itertools.pairwise(starts):
        q, k, v = (part[start:end].transpose(0, 1) for part in (query, key, value))
        parts.append(functional.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


def test_the_packed_kernel_is_called_so_that_it_gives_what_padding_gives(monkeypatch):
    monkeypatch.setattr(transformer, "varlen_attention", lambda: one_by_one)
    attention = torch.cat([attention_of((3, 1, 4), 4), attention_of((2, 2, 1), 2)], dim=1)
    packing, qkv = pack(attention), torch.randn(3, 6, 3 * WIDTH)
    padded = attend_padded(qkv, HEADS, attention, Dropout(0.0))
    packed = attend_packed(take_tokens(qkv, packing), HEADS, packing, 0.0)
    assert torch.allclose(packed, padded[attention], atol=TOLERANCE)


class Operators(TorchDispatchMode):
    """Remembers the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def step_without_values(monkeypatch, dropout: float, dtype: torch.dtype, packed: bool) -> set[str]:
    """The operators of a training step on a device whose values nobody can fetch: asking for one raises.

    A GPU gives them, but makes the host wait; the kernels that it has are chosen by hand here.
    """
    monkeypatch.setattr(Encoder, "_may_flash", lambda self, hidden: hidden.dtype == torch.bfloat16)
    attention = attention_of((5, 9), 9)
    packing = Mlim.random(CONFIG, 0).pack_items(attention) if packed else None
    if packing is not None:
        packing = packing._replace(**{name: getattr(packing, name).to("meta") for name in packing._fields[:3]})
    with torch.device("meta"), Operators() as operators:
        model = Mlim(CONFIG.model_copy(update={"dropout": dropout})).to(dtype).train()
        ids, places, masked = torch.ones(2, 9).long(), torch.ones(4).long(), torch.ones(2, 9).bool()
        pixels = torch.rand(2, 3, 12, 12, dtype=dtype)
        output = model.forward_items(ids, attention.to("meta"), pixels, masked, masked, packing)
        mlm = mlm_loss(model.mlm_logits(output.text.flatten(0, 1)[places]), places)
        (mlm.mean + recon_loss(model.reconstruct(output.patches), pixels).mean).backward()
    return operators.names


KERNELS = [(0.0, "_varlen_attn.default"), (0.1, "_flash_attention_forward.default")]


@pytest.mark.parametrize(("dropout", "kernel"), KERNELS)
def test_a_packed_step_never_waits_for_the_device(monkeypatch, dropout, kernel):
    assert kernel in step_without_values(monkeypatch, dropout, torch.bfloat16, packed=True)
    assert kernel not in step_without_values(monkeypatch, dropout, torch.float32, packed=True)
    with pytest.raises(NotImplementedError):
        step_without_values(monkeypatch, dropout, torch.bfloat16, packed=False)


# ---- dropout ----


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(rate, dtype):
    torch.manual_seed(0)
    noise = dropout_noise(torch.empty(301, 1003, dtype=dtype), rate)
    deviation = (rate * (1 - rate) / noise.numel()) ** 0.5
    assert noise.dtype == dtype
    assert abs((noise == 0).double().mean().item() - rate) < 5 * deviation
    assert noise[noise > 0].double().mean().item() == pytest.approx(1 / (1 - rate), rel=1e-2)
    for axis in (0, 1):  # neighbours, and so the lanes of one number, are dropped independently
        both = ((noise == 0) & (noise.roll(1, axis) == 0)).double().mean().item()
        assert abs(both - rate**2) < 5 * deviation


def test_dropout_repeats_with_the_seed_and_rests_outside_training():
    dropout, values = Dropout(0.3).train(), torch.rand(7, 9, requires_grad=True)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropout(values))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    torch.manual_seed(1)
    assert torch.allclose(dropout.add(torch.ones(7, 9), values), 1 + outputs[0])
    outputs[0].sum().backward()
    assert torch.allclose(values.grad, (outputs[0] > 0) / 0.7, rtol=1e-4)
    assert torch.equal(dropout.eval()(values), values)
    assert Dropout(1.0).train()(values).count_nonzero() == 0


@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention_with_dropout_is_the_usual_one_under_the_same_noise(monkeypatch, lengths):
    attention, qkv = attention_of(lengths, 7), torch.randn(3, 7, 3 * WIDTH)
    noise = torch.rand(3 * HEADS, 7, 7)
    monkeypatch.setattr(dropout_module, "dropout_noise", lambda like, rate: noise)
    given = [qkv.clone().requires_grad_() for _ in range(2)]
    ours = attend_padded(given[0], HEADS, attention, Dropout(0.5).train())
    q, k, v = given[1].unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~attention[:, None, None], -torch.inf)
    theirs = ((scores.softmax(-1) * noise.view(3, HEADS, 7, 7)) @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(ours, theirs, atol=TOLERANCE)
    for output in (ours, theirs):
        output.square().sum().backward()
    assert torch.allclose(given[0].grad, given[1].grad, atol=TOLERANCE)


# ---- checkpointing and compiling ----


def batch_of_items(lengths: tuple[int, ...] = (9, 4, 2)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (len(lengths), max(lengths)), generator=source)
    return ids, attention_of(lengths, max(lengths)), torch.rand(len(lengths), 3, 12, 12, generator=source)


def loss_of(model: Mlim, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    ids, attention, pixels = batch
    hidden = attention & (torch.arange(ids.shape[1]) % 2 == 1)
    patches = (torch.arange(CONFIG.patches) % 3 == 0).expand(len(ids), -1)
    output = model.forward_items(ids, attention, pixels, hidden, patches)
    mlm = mlm_loss(model.mlm_logits(output.text[hidden]), ids[hidden])
    return mlm.mean + recon_loss(model.reconstruct(output.patches), pixels).mean


def gradients_of(model: Mlim, seed: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    loss = loss_of(model, batch_of_items())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_checkpointing_gives_the_same_gradients_bit_for_bit_and_keeps_less():
    model, calls = Mlim.random(CONFIG, 0).train(), []
    for block in model.backbone.encoder.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = gradients_of(model)
    assert len(calls) == LAYERS
    for block in model.blocks():
        block.recompute = True
    again = gradients_of(model)
    assert len(calls) == 3 * LAYERS  # forward, and once more in the backward pass
    assert torch.equal(plain[0], again[0])
    assert not torch.equal(plain[0], gradients_of(model, seed=4)[0])  # dropout is on
    for name, gradient in plain[1].items():
        assert torch.equal(gradient, again[1][name]), name
    with torch.no_grad():
        loss_of(model, batch_of_items())
    assert len(calls) == 6 * LAYERS  # where nothing is differentiated nothing is computed twice


needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="torch.compile needs a C++ compiler (g++ or $CXX) on a CPU"
)


@pytest.mark.slow  # the compiler also raises Python's recursion limit for whatever runs after it
@needs_compiler
@pytest.mark.parametrize(("everything", "checkpointed"), [(False, True), (True, False), (True, True)])
def test_compiled_parts_give_the_same_loss_and_gradients(everything, checkpointed):
    torch._dynamo.reset()  # graphs of an earlier test would be used again
    model = Mlim.random(WITHOUT_DROPOUT, 0).train()
    names, plain = list(model.state_dict()), gradients_of(model)
    for block in model.blocks():
        block.recompute = checkpointed
        if not everything:
            block.compile(dynamic=True)
    if everything:
        model.compile_parts()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = gradients_of(model)
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert made - graphs == (3 if everything else 1)  # one for all blocks
    assert list(model.state_dict()) == names
    assert torch.allclose(plain[0], compiled[0], atol=TOLERANCE)
    for name, gradient in plain[1].items():
        assert torch.allclose(gradient, compiled[1][name], atol=TOLERANCE), name
    for lengths in ((3, 8, 5), (6, 1, 2), (9, 9, 1)):  # other lengths need no other graphs
        loss_of(model, batch_of_items(lengths)).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made


@needs_compiler
@pytest.mark.slow
def test_a_compiled_matcher_gives_the_same_logits():
    matcher = Matcher.from_mlim(Mlim.random(CONFIG, 0), 0.1, seed=1).eval()
    ids, attention, pixels = batch_of_items()
    sides = PairSide(ids, attention, pixels), PairSide(ids.flip(1), attention, pixels.flip(0))
    plain = matcher(*sides, "both")
    matcher.compile_parts()
    assert torch.allclose(plain, matcher(*sides, "both"), atol=TOLERANCE)


# ---- the whole model beside the plain way to compute it ----


@pytest.mark.parametrize("lengths", [(9, 4, 2), (5, 5, 5), (2, 9, 2)])  # 2: a text of no token
def test_the_losses_are_those_of_the_padded_model_with_logits_everywhere(lengths):
    model, (encoder, theirs) = Mlim.random(WITHOUT_DROPOUT, 0), random_encoder(WITHOUT_DROPOUT)
    model.backbone.encoder, batch = encoder, batch_of_items(lengths)
    ids, attention, pixels = batch
    hidden = attention & (torch.arange(ids.shape[1]) % 2 == 1)
    patches = (torch.arange(CONFIG.patches) % 3 == 0).expand(len(ids), -1)
    backbone = model.backbone
    words = (
        backbone.word_embeddings(ids.masked_fill(hidden, CONFIG.special.mask))
        + backbone.text_positions.weight[: ids.shape[1]]
    )
    vectors = backbone.norm(torch.cat([words, backbone.embed_image(pixels, patches)], dim=1))
    mask = torch.cat([attention, torch.ones_like(patches)], dim=1)[:, None, None, :].expand(
        -1, -1, vectors.shape[1], -1
    )
    outputs = theirs(vectors, attention_mask=mask).last_hidden_state
    text, grid = outputs[:, : ids.shape[1]], outputs[:, ids.shape[1] :]
    labels = ids.masked_fill(~hidden, -100)
    mlm = functional.cross_entropy(model.mlm_logits(text.flatten(0, 1)), labels.flatten())
    expected = mlm + (model.reconstruct(grid) - pixels).square().sum(1).mean()
    assert torch.allclose(loss_of(model, batch), expected, atol=TOLERANCE)
