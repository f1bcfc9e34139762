"""Questions and statements from end to end: tables of annotations, fine-tuning, scores, figures with intervals."""

import numpy as np
import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.errors import InputError
from mlim.files import read_json
from mlim.models.systems import load_classifier
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.steps.ablate import ablate
from mlim.steps.finetune import finetune
from tests.asked_tables import annotate
from tests.joint_recipe import SETTINGS

pytestmark = pytest.mark.integration

BUDGET = "steps: 4, batch_size: 4, validate_every: 2"
VARIANTS = {
    "vilt-answer": "task: answer, system: vilt",
    "vilt-blind": "task: answer, system: vilt, modality: text",
    "mlim-answer": "task: answer",
    "mlim-written": "task: answer, by: text",
    "vilt-written-blind": "task: answer, by: text, system: vilt, modality: text",
    "vilt-statement": "task: statement, system: vilt",
    "mlim-statement": "task: statement, modality: image",
}
ASKED = (
    *SETTINGS,
    f"tasks={{answer: {{{BUDGET}, validation_questions: 6}}, statement: {{{BUDGET}}}}}",
    *(f"variants.{name}={{label: {name}, pretraining: null, {told}}}" for name, told in VARIANTS.items()),
)


def test_variants_answer_questions_and_judge_statements(tiny_recipe, own_workspace, quiet):
    recipe = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), ASKED), "recipe tiny")
    with pytest.raises(InputError, match="has no questions; run `mlim annotate`"):
        finetune(recipe, own_workspace, quiet, "vilt-answer", 0)
    store = open_items(recipe.loader, own_workspace)
    annotate(own_workspace, store)
    found = {name: finetune(recipe, own_workspace, quiet, name, 0) for name in VARIANTS}
    answering = [name for name, told in VARIANTS.items() if "answer" in told]
    for name in answering:
        assert (found[name]["training_questions"], found[name]["questions_seen"]) == (48, 16)
    scores = {name: pd.read_parquet(own_workspace.finetuned(name, 0) / "scores.parquet") for name in VARIANTS}
    answers, statements = scores["vilt-answer"], scores["vilt-statement"]
    assert answers.groupby("split").size().to_dict() == {"test": 16, "validation": 16}
    assert not scores["mlim-written"]["given"].str.contains(r"\[|##").any()
    for row in pd.concat(scores[name] for name in answering).itertuples():
        colour = store.text(row.id).rsplit(" ", 1)[-1]
        right = {colour: 1.0, **({"green": 0.6} if colour == "blue" else {})} if row.kind == "open" else {"yes": 1.0}
        assert row.score == pytest.approx(right.get(row.given, 0.0))
    looked = answers[answers["split"] == "test"]["depends"].map(len)
    assert set(looked) == {0, 16}
    assert 1 <= (looked == 16).sum() <= 8
    assert "depends" not in scores["vilt-blind"]
    attends = scores["mlim-answer"].dropna(subset=["attends"]).query("attends.str.len() > 0")
    assert 1 <= len(attends) <= 8
    for row in attends.itertuples():
        assert {len(cells) for cells in row.attends} == {64}
        assert len(row.words) == len(row.attends)
        assert all(0 < sum(cells) < 1 for cells in row.attends)  # the rest goes to the text
    assert "attends" not in scores["vilt-answer"]  # its blocks do not tell
    judged_right = statements["given"] == np.where(statements["label"], "true", "false")
    assert statements["score"].tolist() == judged_right.astype(float).tolist()

    path = own_workspace.pairs / "pairs.parquet"
    pd.read_parquet(path).head(0).to_parquet(path)  # as of a catalog without pairs: no variant has to match
    assert ablate(recipe, own_workspace, quiet)["tasks"] == ["answer", "statement"]
    tables = {task: read_json(own_workspace.ablation / f"{task}.json") for task in ("answer", "statement")}
    names = ["accuracy", "accuracy_binary", "accuracy_open", "consistency"]
    assert [figure["name"] for figure in tables["answer"]["figures"]] == names
    test = answers[answers["split"] == "test"]
    assert tables["answer"]["rows"]["vilt-answer"]["accuracy"]["value"] == pytest.approx(test["score"].mean())
    assert tables["statement"]["units"] == statements[statements["split"] == "test"]["set"].nunique()
    model = load_classifier(own_workspace.finetuned("vilt-statement", 0) / "model")
    assert (model.pictures, model.classes) == (2, ("false", "true"))
