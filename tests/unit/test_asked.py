"""Questions and statements: their losses, what blind variants see, how they are judged, what is refused."""

import math
import weakref
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.config import override, parse
from mlim.data.asked import Asked, AskedBatch, AskedCollator, right_scores
from mlim.data.batches import PairSide
from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError
from mlim.evaluation.judges import AnswerJudge, StatementJudge
from mlim.evaluation.metrics.measure import plain_figures
from mlim.evaluation.task_scores import read_task_scores
from mlim.losses import answer_loss, statement_loss
from mlim.models.item_classifier import ItemClassifier
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.system import Shown
from mlim.models.systems import load_classifier, plan_system
from mlim.recipe import AnswerConfig, Recipe, StatementConfig, load_recipe
from mlim.recipe.system import SystemBase
from mlim.steps.asked import AskedExamples, AskedTuning, asked_data
from mlim.steps.stages import define_stages
from mlim.steps.trained import TrainingData
from mlim.tasks.asked import AskedObjective
from mlim.workspace import Workspace
from tests.joint_recipe import SETTINGS

TASKS = "tasks={answer: {steps: 5}, statement: {steps: 5}}"
VARIANT = "variants.asked={label: asked, pretraining: null, task: answer}"


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


def batch_of(pictures: int, classes: int) -> AskedBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 12, (3, 7), generator=generator)
    ids[:, 0] = 2
    attention = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    pixels = torch.rand(pictures * 3, 3, 16, 16, generator=generator)
    asked = [Asked("", "", (), {number: 1.0 - 0.4 * number}) for number in (0, 1, 0)]
    return AskedBatch(ids * attention, attention, pixels, right_scores(asked, classes), [])


@pytest.fixture(params=["mlim", "vilt"])
def classifier(request, tiny_recipe) -> ItemClassifier:
    recipe = changed(tiny_recipe, *SETTINGS)
    variant = recipe.variants["no-pretraining" if request.param == "mlim" else "vilt-scratch"]
    tokenizer = TextTokenizer.learn(["red shirt", "blue bag"], 128)
    start = plan_system(recipe.system_of(variant), recipe.network, tokenizer, 0)
    return ItemClassifier.planned(start, 2, ("false", "true"), 0).build().eval()


def test_the_loss_of_answers_is_that_of_each_answer_by_itself():
    logits, scores = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.3], [0.0, 0.0]])
    expected = 0.0
    for logit, score in zip(logits.flatten().tolist(), scores.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected -= score * math.log(p) + (1 - score) * math.log(1 - p)
    term = answer_loss(logits, scores)
    assert (float(term.total), float(term.count)) == (pytest.approx(expected, rel=1e-6), 2)


def test_the_loss_of_a_batch_is_that_of_each_statement_with_its_two_pictures(classifier):
    batch, expected = batch_of(2, 2), 0.0
    objective = AskedObjective(classifier, "statement", statement_loss, "both")
    with torch.no_grad():
        term = objective.losses(objective.prepare(batch, 0)).terms[0].term
        for row, length in enumerate((7, 4, 2)):
            ids, attention = batch.input_ids[row : row + 1, :length], batch.text_attention[row : row + 1, :length]
            pictures = [batch.pixels[turn * 3 + row][None] for turn in (0, 1)]
            vectors = [classifier.items.encode_items(Shown(ids, attention, one), "both") for one in pictures]
            logits = classifier.head(torch.cat(vectors, dim=1))[0]
            expected -= float((logits.log_softmax(0) * batch.scores[row]).sum())
    assert float(term.total) == pytest.approx(expected, rel=1e-4)


def test_a_blind_variant_does_not_depend_on_what_it_does_not_see(classifier, tmp_path):
    batch = batch_of(2, 2)
    other = batch._replace(pixels=batch.pixels.flip(0))
    asked = batch._replace(input_ids=batch.input_ids.clamp(max=6))
    with torch.no_grad():
        assert torch.equal(classifier(batch, "text"), classifier(other, "text"))
        assert torch.equal(classifier(batch, "image"), classifier(asked, "image"))
        for changed_batch, modality in ((other, "image"), (asked, "text"), (other, "both"), (asked, "both")):
            assert not torch.allclose(classifier(batch, modality), classifier(changed_batch, modality))
        classifier.save_pretrained(tmp_path)
        assert torch.equal(load_classifier(tmp_path)(batch, "both"), classifier(batch, "both"))


@pytest.mark.parametrize("modality", ["both", "text"])
def test_the_vector_of_an_item_is_what_mlim_compares_when_items_are_encoded_alone(tiny_recipe, modality):
    tokenizer = TextTokenizer.learn(["red shirt", "blue bag"], 128)
    recipe = changed(tiny_recipe)
    mlim = plan_system(recipe.system_of(recipe.main_variant), recipe.network, tokenizer, 0).build().eval()
    assert isinstance(mlim, Mlim)
    matcher = Matcher.from_mlim(mlim, 0.0, 0, "separate").eval()
    special = mlim.config.special
    tokens, pixels = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.rand(2, 3, 16, 16)
    side = PairSide(tokens, tokens > 0, pixels)
    ids = torch.tensor([[special.cls, 5, 6, 7, special.sep], [special.cls, 8, 9, special.sep, 0]])
    attention = torch.arange(5) < torch.tensor([5, 4])[:, None]
    packing = mlim.pack_items(attention)
    with torch.no_grad():
        found = mlim.encode_items(Shown(ids, attention, pixels, packing=packing), modality)
        assert torch.allclose(found, matcher.item_vectors(side, modality), atol=1e-5)
    assert mlim.item_tokens(packing, modality) == 9 + (0 if modality == "text" else 2 * mlim.patches)


def test_answers_are_judged_by_kind_and_by_what_follows_from_right_ones():
    scores = pd.DataFrame(
        [
            ("a", "open", ["b", "c"], 1.0),
            ("b", "binary", [], 1.0),
            ("c", "binary", [], 0.0),
            ("d", "open", ["b"], 0.6),  # not all people agree: nothing follows
        ],
        columns=["question_id", "kind", "entailed", "score"],
    )
    judge = AnswerJudge()
    assert [figure.name for figure in judge.figures(scores)] == [
        *("accuracy", "accuracy_binary", "accuracy_open", "consistency")
    ]
    assert plain_figures(judge.measure(scores), 4) == pytest.approx([0.65, 0.5, 0.8, 0.5])
    alone = scores.assign(entailed=[[]] * 4)
    assert plain_figures(judge.measure(alone), 4) == pytest.approx([0.65, 0.5, 0.8])
    assert len(judge.figures(alone)) == 3


def test_two_questions_of_one_name_are_refused_where_others_follow_from_them():
    scores = pd.DataFrame({"question_id": ["1", "1", "2"], "kind": ["open"] * 3, "score": [1.0, 1.0, 0.0]})
    with pytest.raises(DataError, match="question_id `1` is there more than once"):
        AnswerJudge().measure(scores.assign(entailed=[["2"], ["2"], []]))


@pytest.mark.parametrize("judge", [AnswerJudge(), StatementJudge()])
def test_scores_with_two_rows_of_one_name_are_refused_with_their_file(tmp_path, judge):
    path = tmp_path / "scores.parquet"
    pd.DataFrame({judge.key: ["b", "a", "b", "b"], "split": ["test"] * 3 + ["validation"]}).to_parquet(path)
    with pytest.raises(DataError, match=f"{path}: {judge.key} `b` is there more than once"):
        read_task_scores(judge, tmp_path, "test")
    assert len(read_task_scores(judge, tmp_path, "validation")) == 1


@pytest.mark.parametrize("table", ["questions", "statements"])
def test_annotations_with_two_rows_of_one_name_are_refused_before_training(tmp_path, table):
    workspace, key = Workspace(tmp_path), f"{table[:-1]}_id"
    workspace.annotations.mkdir(parents=True)

    def data_of(*names: tuple[str, str]) -> TrainingData:
        rows = [{key: name, "split": split} for name, split in names]
        with pa.ipc.new_file(str(table_file(workspace.annotations, table)), SCHEMAS[table]) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]))
        return asked_data(TrainingData(None, {}, {}, {}), workspace, table)

    assert data_of(("1", "train"), ("1", "test"), ("2", "test")).hashes  # ids name an example of a split
    with pytest.raises(DataError, match=rf"{table}.arrow: {key} `1` is there 2 times in the test split"):
        data_of(("1", "test"), ("2", "test"), ("1", "test"))


class Recorded(torch.nn.Module):
    """Logits that depend on the text, of which it knows how many are still in memory."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits, self.alive, self.most = torch.nn.Embedding(128, classes), weakref.WeakSet[torch.Tensor](), 0

    def forward(self, batch: AskedBatch, modality: str) -> torch.Tensor:
        logits = self.logits(batch.input_ids).sum(dim=1)
        self.alive.add(logits)
        self.most = max(self.most, sum(map(len, self.alive)))
        return logits


def test_a_split_is_answered_without_the_logits_of_all_its_questions():
    tokenizer, pictures = TextTokenizer.learn(["red shirt", "blue bag"], 128), NoPictures()
    asked = [Asked(str(n), ["red", "blue", "shirt"][n % 3], ("i",), {n % 5: 1.0, 4: 0.3}) for n in range(90)]
    tuning, model = AskedTuning.__new__(AskedTuning), Recorded(5)
    tuning._model, tuning._modality, tuning._chosen = model, "both", asked
    tuning._of = AskedExamples("answer", "questions", 1, "abcde", answer_loss, {}, lambda split: pd.DataFrame())
    tuning._given = SimpleNamespace(recipe=SimpleNamespace(evaluate=SimpleNamespace(batch_size=8)))
    tuning.collate = AskedCollator(pictures, tokenizer, 8, 5)
    chosen = tuning._answers(asked)
    assert model.most <= 2 * 8
    found = tuning.validate(0)
    with torch.no_grad():
        logits, scores = model(tuning.collate(asked), "both"), right_scores(asked, 5)
    assert chosen == logits.argmax(dim=1).tolist()
    assert found.value == pytest.approx(float(scores[range(90), chosen].mean()))
    assert found.overall["answer"] == pytest.approx(float(answer_loss(logits, scores).mean), rel=1e-5)


class NoPictures:
    """Pictures without anything in them."""

    def text(self, item: str) -> str:
        return ""

    def image(self, item: str) -> np.ndarray:
        return np.zeros((4, 4, 3), dtype=np.uint8)


def test_the_papers_recipes_answer_and_search_as_the_papers_do():
    lxmert, e2e = load_recipe("lxmert"), load_recipe("e2e-vlp")
    assert lxmert.tasks.answer.answers == e2e.tasks.answer.answers == 3129
    assert e2e.tasks.retrieval.gallery is None  # all images of a split


def test_a_set_of_statements_is_right_when_all_of_it_is():
    scores = pd.DataFrame({"set": ["x", "x", "y", "y"], "score": [1.0, 0.0, 1.0, 1.0]})
    judge = StatementJudge()
    assert plain_figures(judge.measure(scores), 4) == pytest.approx([0.75, 0.5])
    assert judge.units(scores, Workspace("")).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([VARIANT], r"variants.asked.task: answer needs its section; add `tasks: .answer"),
        ([TASKS, VARIANT, "variants.asked.zero_shot=true"], "variants.asked.zero_shot: this task's head"),
        ([TASKS, VARIANT, "variants.asked.read_out=separate"], "variants.asked.read_out: is about pairs"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tiny_recipe, settings, message):
    with pytest.raises(InputError, match=message):
        changed(tiny_recipe, *settings)


def test_a_system_that_makes_no_vectors_of_items_is_refused():
    class PairsAlone(SystemBase):
        read_outs = ("joint",)

    for config in (AnswerConfig(), StatementConfig()):
        assert config.problem(PairsAlone()) == "needs vectors of items"


def test_blind_variants_are_others_and_follow_the_annotations(tiny_recipe, tmp_path):
    recipe = changed(tiny_recipe, TASKS, VARIANT, f"{VARIANT.replace('asked=', 'blind=')[:-1]}, modality: text}}")
    keys = {recipe.training_key("finetune", name) for name in ("asked", "blind")}
    assert len(keys) == 2
    work = Workspace(tmp_path)
    stages = [each for each in define_stages(recipe, work).values() if "asked" in each.runs]
    [defined] = stages
    read = {path.name for path in defined.reads if path.parent == work.annotations}
    assert read == {"captions.arrow", "questions.arrow", "statements.arrow", "vocabularies.json"}  # and no regions
    assert not any(
        work.annotations in each.reads for each in define_stages(recipe.of_task("match"), work).values() if each.runs
    )
