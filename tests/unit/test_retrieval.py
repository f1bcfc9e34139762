"""Retrieval: what its loss computes, what its ranks are, and which recipes are refused."""

import numpy as np
import pytest
import torch

from mlim.config import override, parse
from mlim.data.batches import ItemBatch
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.evaluation.retrieval import Gallery, agreements, search_gallery
from mlim.models.hub import plan_mlim
from mlim.models.mlim import Mlim
from mlim.models.system import Shown
from mlim.recipe import Recipe
from mlim.steps.stages import define_stages
from mlim.tasks.pretrain.itc import item_numbers
from mlim.tasks.retrieval import ByAgreement, turned_loss
from mlim.workspace import Workspace
from tests.dual_recipe import SETTINGS

TASK = "tasks={retrieval: {steps: 5}}"
VARIANT = "variants.find={label: finds, pretraining: dual, task: retrieval}"


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


def test_the_loss_tells_each_text_and_each_picture_from_its_neighbours():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    pairs = {(i, (i + turn) % 5): logits[turn, i] for turn in range(3) for i in range(5)}
    expected = 0.0
    for at in range(5):
        by_text = torch.stack([pairs[at, (at + turn) % 5] for turn in range(3)])
        by_picture = torch.stack([pairs[(at - turn) % 5, at] for turn in range(3)])
        expected -= float(by_text.log_softmax(0)[0] + by_picture.log_softmax(0)[0])
    term = turned_loss(logits)
    assert float(term.total) == pytest.approx(expected, rel=1e-5)
    assert float(term.count) == 5


class TestByAgreement:
    """With a small MLIM, whose head is random."""

    @pytest.fixture(scope="class")
    @classmethod
    def batch(cls) -> ItemBatch:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(5, 12, (4, 7), generator=generator)
        ids[:, 0] = 2
        attention = torch.arange(7) < torch.tensor([7, 4, 6, 5])[:, None]
        pixels = torch.randint(0, 255, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
        return ItemBatch(ids * attention, attention, attention, pixels, ["a", "b", "c", "d"])

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tiny_recipe) -> Mlim:
        return plan_mlim(tiny_recipe, TextTokenizer.learn(["red shirt", "blue bag"], 128), seed=0).build().eval()

    def test_every_text_is_judged_with_every_picture(self, model, batch):
        def collate(ids):
            rows = [batch.ids.index(one) for one in ids]
            tensors = (part[rows] for part in batch[:4])
            return ItemBatch(*tensors, list(ids))

        with torch.no_grad():
            found = agreements(model, batch.ids, collate, 3)
            for i in range(4):
                for j in range(4):
                    text = batch.input_ids[i : i + 1]
                    pixels = batch.pixels[j : j + 1].float() / 255
                    fused = model.fuse(Shown(text, batch.text_attention[i : i + 1], pixels))
                    assert found[i, j] == pytest.approx(float(model.itm_logits(fused.text[:, 0])), abs=1e-4)
        names = np.arange(4)
        image, text = search_gallery(model, "itm", Gallery(batch.ids, names, names), collate, 3)
        assert image.ranks.tolist() == [int((found[i] > found[i, i]).sum()) for i in range(4)]
        assert image.first[:, 0].tolist() == found.argmax(axis=1).tolist()
        assert text.ranks.tolist() == [int((found[:, i] > found[i, i]).sum()) for i in range(4)]

    def test_the_loss_is_that_of_these_passes(self, model, batch):
        floats = batch.with_floats()
        way = ByAgreement(model, negatives=3)
        with torch.no_grad():
            term = way.loss(floats, item_numbers(batch.ids), model.pack_items(batch.text_attention.repeat(4, 1)))
            scores = torch.tensor(agreements(model, batch.ids, lambda ids: batch, 4))
        total = -scores.log_softmax(0).diagonal().sum() - scores.log_softmax(1).diagonal().sum()
        assert float(term.total) == pytest.approx(float(total), rel=1e-4)  # three neighbours of four are all others


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([VARIANT], r"variants.find.task: retrieval needs its section; add `tasks: .retrieval"),
        ([TASK, VARIANT, "main=find"], "main: variant `find` is fine-tuned to retrieval; name one that matches"),
        (["tasks={retrieval: {by: itm}}", VARIANT], "needs agreement, which system dual does not offer"),
        ([TASK, VARIANT, "variants.find.modality=text"], "retrieval needs both, not text alone"),
        ([TASK, VARIANT, "variants.find.read_out=separate"], "variants.find.read_out: is about pairs"),
        (["variants.dual.zero_shot=true"], "variants.dual.zero_shot: this task's head has to be learned"),
        (
            [TASK, "variants.find={label: x, pretraining: recon-mlm-mam, task: retrieval, zero_shot: true}"],
            "variants.find.zero_shot: needs a pre-training with task itm",
        ),
        (
            [TASK, "variants.find={label: x, pretraining: null, task: retrieval, zero_shot: true}"],
            "variants.find.zero_shot: needs a pre-training with task itm",
        ),
        (["tasks={retrieval: {accumulate: 2}}"], "looks at a whole batch"),
        (["tasks={retrieval: {negatives: 16}}"], "negatives 16 must be fewer than the items of a batch, 16"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tiny_recipe, settings, message):
    with pytest.raises(InputError, match=message):
        changed(tiny_recipe, *SETTINGS, *settings)


def test_what_has_to_be_on_one_device(tiny_recipe):
    """Vectors are gathered over devices; a text's other pictures, and neighbours that exchange theirs, are not."""
    by_itm = "variants.agrees={label: x, pretraining: recon-itm-mlm-mam, task: retrieval}"
    recipe = changed(tiny_recipe, *SETTINGS, TASK, VARIANT, by_itm)
    assert [recipe.together(recipe.variants[name]) for name in ("find", "agrees", recipe.main)] == [1, 16, 1]
    assert [recipe.together(recipe.pretrainings[name]) for name in ("recon-itm-mlm-mam", "recon-mlm-mam")] == [2, 1]


def test_other_variants_keep_their_keys_and_a_task_has_its_own(tiny_recipe, tmp_path):
    recipe = changed(
        tiny_recipe,
        *SETTINGS,
        TASK,
        VARIANT,
        "variants.as-it-is={label: x, pretraining: dual, task: retrieval, zero_shot: true}",
    )
    before = changed(tiny_recipe, *SETTINGS)
    assert recipe.training_key("finetune", "dual") == before.training_key("finetune", "dual")
    longer = changed(recipe, "tasks.retrieval.steps=9")
    names = ("find", "as-it-is", "dual")
    keys = [each.training_key("finetune", name) for each in (recipe, longer) for name in names]
    assert len(set(keys)) == 5  # matching is the same in both
    assert recipe.of_task("match").variants.keys() == before.variants.keys()
    assert recipe.other_tasks == ("retrieval",)
    assert "tasks" not in before.model_dump()
    definitions = define_stages(recipe, Workspace(tmp_path))
    followed = {setting for each in definitions.values() if "find" in each.runs for setting in each.settings}
    assert "tasks.retrieval.steps" in followed
    assert "tasks.retrieval.checkpoint" not in followed
    assert not any(setting.startswith("finetune") for setting in followed)
