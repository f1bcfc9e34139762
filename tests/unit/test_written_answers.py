"""Answers that are written: what is predicted, what each variant sees, when words are right, what is refused."""

import pytest
import torch

from mlim.config import override, parse
from mlim.data.asked import Asked, WrittenCollator
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models.systems import plan_system
from mlim.recipe import Recipe
from mlim.steps.written_answers import SpelledAnswers
from mlim.tasks.written_answers import WrittenAnswerObjective, answer_chances, answers_in
from tests.decoder_recipe import SETTINGS as DECODERS
from tests.joint_recipe import SETTINGS as JOINT

TEXTS = ["what colour is it", "how many are red or blue", "one red bag and two blue bags"]
TASKS = "tasks.answer={steps: 5}"
VARIANT = "variants.asked={label: asked, pretraining: null, task: answer, by: text}"


class Pictures:
    """A picture of its own for each item."""

    def text(self, item):
        raise AssertionError("the item's text is never read")

    def image(self, item):
        return torch.randint(0, 255, (16, 16, 3), generator=torch.Generator().manual_seed(int(item))).byte().numpy()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.learn(TEXTS * 2, 128)


def asked() -> list[Asked]:
    return [
        Asked("a", "what colour is it", ("1",), {0: 0.6, 1: 1.0}),
        Asked("b", "how many are red", ("2",), {2: 1.0}),
        Asked("c", "what", ("3",), {}),
    ]


def batch_of(tokenizer: TextTokenizer, asks: bool = True):
    answers = [tokenizer.encode(text, 9) for text in ("red", "blue bags", "two")]
    return WrittenCollator(Pictures(), tokenizer, 3, answers, asks)(asked())


def test_the_best_answer_is_predicted_behind_its_question(tokenizer):
    batch = batch_of(tokenizer)
    written = answers_in(batch)
    assert tokenizer.text(batch.input_ids[0].tolist()) == "[CLS] what colour is [SEP] blue bags [SEP]"
    assert tokenizer.text(written.tokens.tolist()) == "blue bags [SEP] two [SEP] [SEP]"
    read = written.ids.flatten()[written.places]
    assert tokenizer.text(read.tolist()) == "[SEP] blue bags [SEP] two [SEP]"
    assert set(batch_of(tokenizer, asks=False).begun.tolist()) == {1}


def system_of(recipe: Recipe, settings, name, tokenizer):
    changed = parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")
    return plan_system(changed.systems[name], changed.network, tokenizer, 0).build().eval()


@pytest.mark.parametrize(("settings", "name"), [(JOINT, "vilt"), (DECODERS, "e2e-vlp"), (DECODERS, "git")])
def test_the_loss_is_that_of_each_answer_by_itself_and_blind_ones_see_no_picture(
    tiny_recipe, tokenizer, settings, name
):
    model, batch = system_of(tiny_recipe, settings, name, tokenizer), batch_of(tokenizer)
    objective, expected = WrittenAnswerObjective(model, model, 0.0, "both"), 0.0
    prepared = objective.prepare(batch, 0)
    with torch.no_grad():
        (found,) = objective.losses(prepared).terms
        for row, (start, end) in enumerate(zip(batch.begun.tolist(), batch.lengths.tolist(), strict=True)):
            one = objective.prepare(batch._replace(
                input_ids=batch.input_ids[row : row + 1, :end], begun=batch.begun[row : row + 1],
                lengths=batch.lengths[row : row + 1], pixels=batch.pixels[row : row + 1], ids=batch.ids[row : row + 1],
            ), 0)  # fmt: skip
            assert one.counts == {"answer-text": end - 1 - start}
            alone = float(objective.losses(one).terms[0].term.total)
            pictures = torch.stack([one.batch.pixels[0] / 255, torch.zeros(3, 16, 16)])
            chances = answer_chances(model, one.batch, pictures)  # what `depends` is made of
            assert float(chances[0]) == pytest.approx(-alone, rel=1e-4)
            assert float(chances[1]) != pytest.approx(-alone, rel=1e-5)
            expected += alone
        assert float(found.term.total) == pytest.approx(expected, rel=1e-4)
        assert float(found.term.count) == prepared.counts["answer-text"] == 6
        assert objective.operations(prepared) > 0
        blind, gray = WrittenAnswerObjective(model, model, 0.0, "text"), batch._replace(pixels=batch.pixels * 0)
        losses = [
            float(each.losses(each.prepare(seen, 0)).terms[0].term.total)
            for each in (objective, blind)
            for seen in (batch, gray)
        ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert losses[2] == losses[3]


def test_an_answer_is_right_when_its_words_are(tokenizer):
    spelled = SpelledAnswers(tokenizer, ["red", "2", "Blue bag", "日本"], ["two", "bags"])
    assert spelled.known == ["red", "2", "Blue bag"]
    assert (spelled.unwritable, spelled.longest) == (1, 2)
    write = tokenizer.encode
    assert spelled.read(write("two", 9)) == "2"  # VQA's evaluation takes both for the same
    assert spelled.read(write("blue bag", 9)) == "Blue bag"
    assert spelled.read(write("bags", 9)) == "bags"
    assert spelled.read(write("red red", 9)) == "red red"
    assert (spelled.score("2", {"two": 0.6, "red": 0.3}), spelled.score("2", {"2": 1.0})) == (0.6, 1.0)
    assert (spelled.score("red red", {"red": 0.3}), spelled.score("red red", {"red red": 0.3})) == (0.0, 0.3)
    for given, answer in (("A red.", "red"), ("t shirt", "T-shirt"), ("two", "2"), ("2 bags", "two bags")):
        assert spelled.score(given, {answer: 0.6, "blue": 0.3}) == 0.6, given  # as VQA compares them
    assert spelled.score("2", {"two": 0.6, "2": 0.3}) == pytest.approx(0.9)
    assert spelled.score("two", {"2": 0.9, "two.": 0.9}) == 1.0
    assert [spelled.spell(each) for each in ("2", "red red")] == [write("two", 9), write("red red", 9)]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ((TASKS, VARIANT.replace("null", "null, system: lxmert")), "by: text needs writing, which system crossed"),
        (("tasks.statement={steps: 5}", VARIANT.replace("answer", "statement")), "by: only answers are written"),
        ((VARIANT.replace("task: answer, ", ""),), "variants.asked.by: only answers are written; leave it out"),
    ],
)
def test_what_cannot_be_written_is_refused(tiny_recipe, settings, reason):
    values = override(tiny_recipe.model_dump(mode="json"), (*DECODERS, *settings))
    with pytest.raises(InputError, match=reason):
        parse(Recipe, values, "recipe tiny")


def test_only_written_answers_have_another_key_than_before(tiny_recipe):
    values = override(tiny_recipe.model_dump(mode="json"), (*DECODERS, TASKS, VARIANT.replace("null", "git")))
    recipe = parse(Recipe, values, "recipe tiny")
    chosen = recipe.variants["asked"].model_copy(update={"by": "classes"})
    other = recipe.model_copy(update={"variants": {**recipe.variants, "asked": chosen}})
    assert recipe.training_key("finetune", "asked") != other.training_key("finetune", "asked")
    assert "by" not in chosen.model_dump()
    assert not {"beam", "smoothing", "length_penalty"} & recipe.tasks.answer.model_dump().keys()
