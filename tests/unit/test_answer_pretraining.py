"""Questions in pre-training: which are shown, which count, and what they do to the texts of a batch."""

import pytest
import torch

from mlim.data.batches import Questions
from mlim.data.collate import ItemCollator
from mlim.data.objects import Beside, ObjectNames, Posed, collate_questions
from mlim.data.tokenize import TextTokenizer
from mlim.losses import UNKNOWN
from mlim.models.crossed import Crossed, CrossedConfig
from mlim.models.system import Shown
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.passes import show_questions
from tests.unit.test_crossed import SHAPE, SIZE, batch

ANSWERS = ("red", "blue", "mug")
TOKENIZER = TextTokenizer.learn(["what is it ? a red mug", "is it blue ?"], 60)


KNOWN = {
    "a": [Posed("what is it ?", {"mug": 1.0}), Posed("is it blue ?", {"blue": 0.3, "red": 0.3, "green": 1.0})],
    "c": [Posed("what is it ?", {"red": 0.3, "blue": 1.0})],
    "d": [Posed("is it blue ?", {"green": 1.0})],
}


class Questioned:
    """Two questions about the first item, none about the second one, one about the others; d's has no known answer."""

    names = ObjectNames()

    def questions(self, item: str) -> list[Posed]:
        return KNOWN.get(item, [])


def questions(width: int = 7) -> Questions:
    return collate_questions(Questioned(), list("abcd"), ANSWERS, TOKENIZER, (10, width))


def model() -> Crossed:
    system = CrossedSystem.model_validate({**SHAPE, "dropout": 0.0})
    config = CrossedConfig(
        vocabulary_size=60, text_positions=12, image_size=SIZE, shape=system, answers=ANSWERS, objects=ObjectNames()
    )
    return Crossed.planned(config, 0).build().eval()


def objective(system: Crossed, **task):
    pretraining = Pretraining(losses=("mlm", "itm"), masking="text", tasks=[{"task": "answer", **task}])
    return pretrain_objective(system, PretrainConfig(), pretraining, 10, 0)


def asked_batch():
    return batch().with_questions(questions(), TOKENIZER.pad)


def test_a_question_has_its_best_answer_of_the_table():
    found = questions()
    assert found.answers.tolist() == [[2, 0], [UNKNOWN, UNKNOWN], [1, UNKNOWN], [UNKNOWN, UNKNOWN]]
    assert found.lengths.gt(0).sum(dim=1).tolist() == [2, 0, 1, 1]


def test_questions_stand_in_the_place_of_texts():
    before, asked = asked_batch(), torch.tensor([True, True, False, True])
    shown, answers = show_questions(before, before.questions, asked, torch.tensor([0.9, 0.9, 0.1, 0.1]))
    assert answers.tolist() == [0, UNKNOWN, UNKNOWN, UNKNOWN]
    wanted = [TOKENIZER.cls, *TOKENIZER.encode("is it blue ?", 10), TOKENIZER.sep]
    length = int(shown.text_attention[0].sum())
    assert shown.input_ids[0, :length].tolist() == wanted
    assert shown.maskable[0].nonzero().flatten().tolist() == [*range(1, length - 1)]
    for row in (1, 2):  # without a question, and not asked
        own = before.text_attention[row]
        assert torch.equal(shown.input_ids[row][shown.text_attention[row]], before.input_ids[row][own])
    assert shown.input_ids.shape[1] == shown.text_attention.sum(dim=1).max()


def test_answers_count_beside_their_own_picture_from_a_step_on_and_always_in_validation():
    system = model()
    every = [objective(system, questions=1.0).prepare(asked_batch(), step) for step in range(12)]
    for prepared in every:
        rows = prepared.targets["answer"].wanted.rows.tolist()
        assert set(rows) == {row for row in (0, 2) if prepared.own[row]}
    assert len({prepared.counts["answer"] for prepared in every}) > 1
    late = objective(system, questions=1.0, from_step=5)
    counts = [late.prepare(asked_batch(), step).counts["answer"] for step in range(12)]
    assert counts == [0] * 5 + [prepared.counts["answer"] for prepared in every[5:]]
    (mode,) = late.modes
    assert late.prepare(asked_batch(), 0, 0, mode).counts["answer"] == every[0].counts["answer"]
    assert objective(system, questions=0.0).prepare(asked_batch(), 1).counts["answer"] == 0


def test_the_loss_is_the_cross_entropy_of_the_answers_and_questions_change_no_other_draw():
    system = model()
    step = next(n for n in range(20) if objective(system, questions=1.0).prepare(asked_batch(), n).counts["answer"])
    task = objective(system, questions=1.0)
    prepared = task.prepare(asked_batch(), step)
    found = {term.name: term.term for term in task.losses(prepared).terms}
    assert {name: term.count.item() for name, term in found.items()} == prepared.counts
    shown, wanted = prepared.batch, prepared.targets["answer"].wanted
    with torch.no_grad():
        pixels, hidden = shown.with_floats().pixels, prepared.masks
        fused = system.fuse(Shown(shown.input_ids, shown.text_attention, pixels, hidden.text, hidden.image))
        chances = system.answer_head(fused.text[wanted.rows, 0]).log_softmax(dim=1)
    by_hand = -chances[range(len(wanted.rows)), wanted.answers].sum()
    assert torch.isclose(found["answer"].total, by_hand, atol=1e-5)
    assert task.operations(prepared) > 0
    without = Pretraining(losses=("mlm", "itm"), masking="text")
    plain = pretrain_objective(system, PretrainConfig(), without, 10, 0).prepare(batch(), step)
    assert torch.equal(plain.own, prepared.own)
    kept = ~(torch.tensor([0, 2, 3])[:, None] == torch.arange(4)).any(dim=0)
    assert torch.equal(plain.masks.text[kept], prepared.masks.text[kept][:, : plain.masks.text.shape[1]])


def test_a_collator_brings_questions_where_there_are_answers():
    class Source:
        def text(self, item: str) -> str:
            return "a red mug"

        def image(self, item: str):
            return torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()

    collate = ItemCollator(Source(), TOKENIZER, 10, None, Beside(Questioned(), False, False, None, ANSWERS))
    found = collate(["a", "b"])
    assert found.questions.answers.tolist() == [[2, 0], [UNKNOWN, UNKNOWN]]
    assert found.input_ids.shape[1] == found.questions.ids.shape[2] == found.maskable.shape[1]


def test_a_system_without_answers_is_not_asked():
    system = CrossedSystem.model_validate(SHAPE)
    config = CrossedConfig(vocabulary_size=60, text_positions=12, image_size=SIZE, shape=system)
    with pytest.raises(Exception, match="task answer needs what system crossed does not offer"):
        objective(Crossed.planned(config, 0).build())
