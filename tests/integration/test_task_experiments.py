"""An experiment about other tasks than matching, in a catalog without pairs: LXMERT answers and judges statements."""

import pandas as pd
import pytest
import yaml

from mlim.config import override, parse
from mlim.errors import InputError
from mlim.evaluation.metrics import accuracy
from mlim.experiments import ExperimentPlan
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.steps.experiment import describe_experiment, run_experiment
from mlim.steps.gathered import gather
from mlim.steps.regions import regions
from tests.asked_tables import annotate
from tests.small_catalog import described

pytestmark = pytest.mark.integration

BUDGET = "steps: 4, batch_size: 4, validate_every: 2"
GRID = "{kind: regions, stored: true, side: 2, features: {kind: patch, size: 4}}"
LXMERT = f"{{kind: crossed, image: {GRID}, text_depth: 1, cross_depth: 1, width: 16, heads: 2}}"
VARIANTS = {
    "lxmert-answer": "task: answer",
    "lxmert-answer-text": "task: answer, modality: text",
    "lxmert-statement": "task: statement",
}
SETTINGS = (
    f"systems={{lxmert: {LXMERT}}}",
    f"tasks={{answer: {{{BUDGET}, validation_questions: 6}}, statement: {{{BUDGET}}}}}",
    "pretrainings.lxmert={system: lxmert, losses: [mlm, itm], masking: text}",
    *(f"variants.{name}={{label: {name}, pretraining: lxmert, {told}}}" for name, told in VARIANTS.items()),
    "seeds=[0, 1]",
    "tracking.uri=none",
)
CROSS = {
    "question": "How many blocks have to cross?",
    "variants": [*VARIANTS],
    "probe": False,
    "judged_on": "test",
    "equal_budgets": True,
}


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


def plan(**runs: list[str]) -> ExperimentPlan:
    return parse(ExperimentPlan, {**CROSS, "runs": runs}, "experiment cross")


def without_pairs(workspace) -> None:
    """As `mlim pairs` leaves the work folder of a catalog that says `pairs: none`."""
    path = workspace.pairs / "pairs.parquet"
    pd.read_parquet(path).head(0).to_parquet(path)


def test_runs_train_what_they_change_and_stand_in_the_tables_of_their_tasks(
    recipe, own_workspace, quiet, tmp_path, monkeypatch
):
    annotate(own_workspace, open_items(recipe.loader, own_workspace))
    without_pairs(own_workspace)
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(described()))
    regions(recipe, tmp_path / "catalog.yaml", own_workspace, quiet, "grid")  # stored once, read by every run
    declared = plan(**{"lxmert-cross-0": ["systems.lxmert.cross_depth=0"], "answers-few": ["tasks.answer.answers=2"]})
    monkeypatch.setattr("mlim.steps.experiment.load_experiment", lambda name: declared)
    monkeypatch.setattr("mlim.steps.gathered.judged_on_test", lambda: frozenset(declared.runs))
    summary = run_experiment(recipe, own_workspace, quiet, "cross")
    assert summary["rows"] == {}
    rows = {task: set(table["rows"]) for task, table in summary["tasks"].items()}
    assert rows == {
        "answer": {"lxmert-answer", "lxmert-answer-text", "lxmert-cross-0", "answers-few"},
        "statement": {"lxmert-statement", "lxmert-cross-0"},
    }
    few = own_workspace.experiment_run("answers-few")
    assert few.pretrained("lxmert", 0).resolve() == own_workspace.pretrained("lxmert", 0).resolve()  # trained once
    assert not few.finetuned("lxmert-statement", 0).exists()
    cross = own_workspace.experiment_run("lxmert-cross-0")
    assert cross.pretrained("lxmert", 0).resolve() != own_workspace.pretrained("lxmert", 0).resolve()
    for task, table in summary["tasks"].items():
        scores = pd.read_parquet(cross.finetuned(f"lxmert-{task}", 1) / "scores.parquet").query("split == 'test'")
        by_seed = table["rows"]["lxmert-cross-0"][accuracy.ALL.name]["by_seed"]
        assert by_seed[1] == pytest.approx(scores["score"].mean())
    assert "lxmert-cross-0: Answers, accuracy" in describe_experiment(summary)
    stored = read_json(own_workspace.experiments / "cross.json")
    assert {task: set(table["rows"]) for task, table in stored["tasks"].items()} == rows
    found = gather(recipe, own_workspace).evidence.tasks["answer"]
    assert set(found.variants) == rows["answer"]
    assert found.blind == {"lxmert-answer-text"}


def test_an_experiment_that_matches_needs_pairs(recipe, own_workspace, quiet):
    without_pairs(own_workspace)
    with pytest.raises(InputError, match="all its variants match, and the catalog has no pairs"):
        run_experiment(recipe, own_workspace, quiet, "mdo")
    assert not own_workspace.experiment_runs.exists()
