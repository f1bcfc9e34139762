"""Trainings of other settings are refused by the steps that use them, and a probe of another model is no evidence."""

import re

import numpy as np
import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.errors import InputError
from mlim.evaluation.evidence import read_evidence
from mlim.files import read_json, write_json
from mlim.recipe import Recipe
from mlim.steps.evaluate import evaluate
from mlim.steps.probe import probe
from mlim.steps.same_settings import require_same_settings, wanted_probe
from mlim.steps.stack import stack
from mlim.workspace import Workspace
from mlim.writer import record_recipe

MAIN = "recon-mlm-mam"


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


@pytest.fixture
def trained(tiny_recipe, own_workspace) -> Workspace:
    """A work folder whose pre-training and fine-tuning say that they had the settings of the tiny recipe."""
    for stage, folder in (
        ("pretrain", own_workspace.pretrained(MAIN, 0)),
        ("finetune", own_workspace.finetuned(MAIN, 0)),
    ):
        (folder / "model").mkdir(parents=True)
        write_json(folder / "summary.json", {"settings": tiny_recipe.training_key(stage, MAIN), "max_tokens": 12})
    scores = pd.read_parquet(own_workspace.pairs / "pairs.parquet")[["item_a", "item_b", "label", "split"]]
    scores = scores.assign(modality="both", score=np.linspace(0, 1, len(scores)))
    scores.to_parquet(own_workspace.finetuned(MAIN, 0) / "scores.parquet")
    record_recipe(own_workspace, tiny_recipe.record)
    return own_workspace


@pytest.mark.parametrize(
    ("step", "setting", "said"),
    [
        (stack, "finetune.steps=7", r"\(finetune.steps was 6 and is 7\); run `mlim finetune recon-mlm-mam --seed 0`"),
        (evaluate, "pretrain.steps=7", r"\(pretrain.steps was 6 and is 7\); run `mlim finetune recon-mlm-mam --seed"),
        (probe, "pretrain.optim.eps=1e-7", r"\(pretrain.optim.eps was 1e-08 and is 1e-07\); run `mlim pretrain recon"),
    ],
)
def test_a_step_refuses_what_was_trained_with_other_settings(tiny_recipe, trained, quiet, step, setting, said):
    with pytest.raises(InputError, match=rf"was trained with other settings than those of recipe tiny {said}"):
        step(changed(tiny_recipe, setting), trained, quiet)


def test_settings_that_decide_no_training_change_nothing(tiny_recipe, trained):
    other = changed(
        tiny_recipe,
        *("evaluate.bootstrap_samples=7", "probe.items=3", "seeds=[0, 1]", "compute.checkpoint_blocks=true"),
        *("pretrain.checkpoint.keep=5", "finetune.checkpoint.keep=5", "stack.folds=3", "loader.workers=1"),
        "variants.no-mdo.label=without",
    )
    for stage in ("pretrain", "finetune"):
        require_same_settings(other, trained, stage, MAIN, 0)
    require_same_settings(changed(tiny_recipe, "finetune.steps=7"), trained, "pretrain", MAIN, 0)


def test_settings_are_not_named_where_the_folder_has_another_recipe(tiny_recipe, trained):
    record_recipe(trained, changed(tiny_recipe, "finetune.steps=9").record)
    with pytest.raises(InputError, match="than those of recipe tiny; run `mlim finetune"):
        require_same_settings(changed(tiny_recipe, "finetune.steps=7"), trained, "finetune", MAIN, 0)


def test_the_model_or_the_scores_alone_are_taken_as_they_are(tiny_recipe, trained):
    """As DVC gives them to a stage, and as early versions left them."""
    other = changed(tiny_recipe, "pretrain.steps=7")
    (trained.pretrained(MAIN, 0) / "summary.json").unlink()
    write_json(trained.finetuned(MAIN, 0) / "summary.json", {"row": MAIN})
    for stage in ("pretrain", "finetune"):
        require_same_settings(other, trained, stage, MAIN, 0)


@pytest.mark.parametrize(
    ("differing", "why"),
    [
        ({}, None),
        ({"row": "no-mdo"}, "of variant `no-mdo`, not of the main one `recon-mlm-mam`"),
        ({"pretraining": "other"}, "of pre-training `other`, not of `recon-mlm-mam`"),
        ({"seeds": [7]}, r"of the seeds \[7\], not of \[0\]"),
        ({"settings": "of another recipe"}, "of a model that was pre-trained with other settings"),
        ({"measured_with": {"items": 1}}, "made with other settings than the recipe's"),
    ],
)
def test_a_probe_of_another_model_is_no_evidence(tiny_recipe, own_workspace, differing, why):
    wanted = wanted_probe(tiny_recipe)
    own_workspace.probe.mkdir(parents=True)
    write_json(own_workspace.probe / "summary.json", {**wanted.summary, "figure2a": {}, **differing})
    found = read_evidence(own_workspace, {}, probed=wanted)
    assert bool(found.probe) == (why is None)
    assert len(found.left_out) == (why is not None)
    assert why is None or re.fullmatch(f"probe: {why}.*; run `mlim probe` again", found.left_out[0])


def test_a_probe_of_an_early_version_has_to_be_of_the_same_model(tiny_recipe, own_workspace):
    wanted = wanted_probe(tiny_recipe)
    early = {key: value for key, value in wanted.summary.items() if key in ("row", "pretraining", "seeds")}
    path = own_workspace.probe / "summary.json"
    path.parent.mkdir(parents=True)
    write_json(path, early)
    assert read_evidence(own_workspace, {}, probed=wanted).probe == read_json(path)
    write_json(path, {**early, "seeds": [1]})
    assert read_evidence(own_workspace, {}, probed=wanted).probe == {}
