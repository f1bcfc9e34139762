"""The system that writes: GIT's blocks and greedy texts, what a text may see, and what it is trained on."""

import pytest
import torch
from transformers import GitConfig, GitForCausalLM

from mlim.data.batches import Captions, ItemBatch
from mlim.losses import write_loss
from mlim.models.system import Shown
from mlim.models.systems import load_system
from mlim.models.write import Writing, write
from mlim.models.writer import Writer, WriterConfig
from mlim.models.writing import write_texts
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.recipe.writer import WriterSystem
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.caption import targets_of
from mlim.tasks.pretrain.passes import choose_captions
from tests.unit.test_decoder import PARTS

WIDTH, HEADS, LAYERS, VOCABULARY, SIZE = 16, 2, 2, 30, 8
SHAPE = WriterSystem.model_validate(
    {
        "image": {"kind": "patch", "size": 4},
        "image_depth": 1,
        "depth": LAYERS,
        "width": WIDTH,
        "heads": HEADS,
        "dropout": 0,
    }
)
CONFIG = WriterConfig(vocabulary_size=VOCABULARY, text_positions=20, image_size=SIZE, shape=SHAPE)
CLS, SEP, PAD = 2, 3, 0


@pytest.fixture
def model() -> Writer:
    return Writer.planned(CONFIG, 0).build().eval()


def shown(seed: int = 0, items: int = 3) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (items, 6), generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return Shown(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(items, 3, SIZE, SIZE, generator=generator))


@pytest.fixture(scope="module")
def theirs() -> GitForCausalLM:
    torch.manual_seed(0)
    tower = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(
        vision_config={**tower, "image_size": SIZE, "patch_size": 4}, vocab_size=VOCABULARY, hidden_size=WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=4 * WIDTH, max_position_embeddings=20,
        bos_token_id=CLS, eos_token_id=SEP, pad_token_id=PAD, tie_word_embeddings=True,
    )  # fmt: skip
    found = GitForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return found


def as_git(ours: Writer, theirs: GitForCausalLM) -> None:
    given, mine = theirs.git.state_dict(), ours.state_dict()
    blocks = {f"decoder.blocks.{n}.{a}": f"encoder.layer.{n}.{b}" for n in range(LAYERS) for a, b in PARTS.items()}
    embedded = {"word_embeddings": "word_embeddings", "text_positions": "position_embeddings", "norm": "LayerNorm"}
    for name, other in {**blocks, **{a: f"embeddings.{b}" for a, b in embedded.items()}}.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in mine:
                mine[f"{name}.{kind}"].copy_(given[f"{other}.{kind}"])
    mine["writing.bias"].copy_(theirs.output.bias)


def test_outputs_and_greedy_texts_are_those_of_git(model, theirs):
    as_git(model, theirs)
    item = shown()
    with torch.no_grad():
        visual = theirs.git.visual_projection(theirs.git.image_encoder(item.pixels).last_hidden_state)
        seen, outputs = model.decoder.inputs(visual)
        expected = theirs(pixel_values=item.pixels, input_ids=item.input_ids, output_hidden_states=False)
        logits = model.write_logits(model.write(seen, item.input_ids))
        whole = theirs.git(pixel_values=item.pixels, input_ids=item.input_ids).last_hidden_state
        texts = write(lambda ids, about: model.write_logits(model.write(about, ids)[:, -1]), seen, Writing(CLS, SEP, 8))
        greedy = theirs.generate(
            pixel_values=item.pixels, input_ids=item.input_ids[:, :1], max_new_tokens=8, do_sample=False, num_beams=1
        )
    assert torch.allclose(outputs, whole[:, : visual.shape[1]], atol=1e-5)
    assert torch.allclose(logits, expected.logits[:, -item.input_ids.shape[1] :], atol=1e-5)
    for mine, other in zip(texts, greedy[:, 1:].tolist(), strict=True):
        assert mine == (other[: other.index(SEP)] if SEP in other else other)


def test_no_gradient_comes_from_later_words(model):
    item = shown()
    words = model.word_embeddings(item.input_ids).detach().requires_grad_()
    with torch.no_grad():
        seen = model.look(item)
    model.word_embeddings.forward = lambda _: words
    (model.write(seen, item.input_ids)[:, 3] @ torch.randn(WIDTH)).sum().backward()
    touched = words.grad.abs().sum(dim=2) > 0
    assert touched.tolist() == [[True] * 4 + [False] * 2] * 3


def test_a_saved_writer_writes_the_same_again(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = load_system(tmp_path).build().eval()
    settings = Writing(CLS, SEP, 5, beam=2, length_penalty=0.9, forbidden=(PAD, CLS))
    assert write_texts(again, shown(), settings) == write_texts(model, shown(), settings)
    assert set(model.part_of_parameters().values()) == {"embedder", "transformer", "heads"}
    assert len(model.levels()) == 3


def test_an_item_vector_has_no_padding_and_no_modality_that_is_left_out(model):
    item = shown()
    longer = Shown(
        torch.nn.functional.pad(item.input_ids, (0, 3)),
        torch.nn.functional.pad(item.text_attention, (0, 3)),
        item.pixels,
    )
    other = shown(1)
    with torch.no_grad():
        for modality in ("both", "text", "image"):
            vectors = model.encode_items(item, modality)
            assert torch.allclose(vectors, model.encode_items(longer, modality), atol=1e-6)
        text = model.encode_items(item._replace(pixels=other.pixels), "text")
        assert torch.equal(text, model.encode_items(item, "text"))
        assert not text[:, 2 * WIDTH :].any()
        image = model.encode_items(item._replace(input_ids=other.input_ids), "image")
        assert torch.equal(image, model.encode_items(item, "image"))
        assert not image[:, WIDTH : 2 * WIDTH].any()


def batch_of(items: int = 4) -> ItemBatch:
    item = shown(items=items)
    pixels = (item.pixels * 255).byte()
    maskable = (item.input_ids != CLS) & (item.input_ids != SEP)
    return ItemBatch(item.input_ids, item.text_attention, maskable, pixels, [f"item-{n}" for n in range(items)])


def objective_of(model: Writer, **task):
    pretraining = Pretraining.model_validate({"system": "git", "tasks": [{"task": "caption", **task}]})
    return pretrain_objective(model, PretrainConfig(), pretraining, 18, 0)


def test_the_loss_is_that_of_every_token_after_the_first(model):
    objective, batch = objective_of(model), batch_of()
    prepared = objective.prepare(batch, 0)
    (found,) = objective.losses(prepared).terms
    with torch.no_grad():
        seen = model.look(Shown(batch.input_ids, batch.text_attention, batch.with_floats().pixels))
        logits = model.write_logits(model.write(seen, batch.input_ids[:, :-1]))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="sum"
    )
    assert found.term.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert prepared.counts == {"caption": 4 * 5}
    assert objective.operations(prepared) > 0


def test_captions_replace_the_text_and_each_is_drawn(model):
    batch, lengths = batch_of(2), torch.tensor([[4, 3, 5], [4, 0, 0]])
    ids = torch.full((2, 3, 5), PAD)
    for row, place in ((0, 0), (0, 1), (0, 2), (1, 0)):
        length = lengths[row, place]
        ids[row, place, :length] = torch.tensor([CLS, *[10 + place] * (length - 2), SEP])
    batch = batch._replace(captions=Captions(ids, lengths))
    drawn = [choose_captions(batch.captions, torch.tensor([draw, draw])) for draw in (0.0, 0.5, 0.99)]
    assert [each.ids[0, 1].item() for each in drawn] == [10, 11, 12]
    assert {each.ids[1, 1].item() for each in drawn} == {10}
    written = targets_of(drawn[1])
    assert written.tokens.tolist() == [11, SEP, 10, 10, SEP]
    assert written.ids.flatten()[written.places].tolist() == [CLS, 11, CLS, 10, 10]
    objective = objective_of(model)
    seen = {objective.prepare(batch, step).targets["caption"].wanted.tokens[0].item() for step in range(20)}
    assert seen == {10, 11, 12}


def test_a_smoothed_target_is_part_of_every_token():
    logits, wanted = torch.randn(3, 5), torch.tensor([0, 4, 2])
    chances = logits.log_softmax(-1)
    plain = -chances[torch.arange(3), wanted]
    expected = (0.9 * plain - 0.1 * chances.mean(dim=1)).sum()
    assert write_loss(logits, wanted, 0.1).total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert write_loss(logits, wanted).mean.item() == pytest.approx(plain.mean().item(), rel=1e-5)
