"""`mlim complete`: what it refuses, and what it leaves of a model that knows nothing."""

import pandas as pd
import pytest

from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_csv, read_json
from mlim.models.hub import build_mlim
from mlim.shards.items import ItemStore
from mlim.steps.complete import complete, folder_name
from tests.commands import call
from tests.completion_room import FORMULA, write_texts

pytestmark = pytest.mark.integration

PRETRAINING = "recon-mlm-mam"
MISSING = ("item-000", "item-039")  # of the train and the test split
FORMULAS = ("item-001", "item-002", "item-030")


@pytest.fixture
def recipe(tiny_recipe):
    """Without tracking."""
    tracking = tiny_recipe.tracking.model_copy(update={"uri": "none"})
    return tiny_recipe.model_copy(update={"tracking": tracking})


@pytest.fixture
def workspace(own_workspace, recipe):
    """A work folder with a pre-trained model that has random weights."""
    write_texts(own_workspace, MISSING, FORMULAS)
    store = ItemStore.open(own_workspace.items, own_workspace.valid / "index.parquet")
    tokenizer = TextTokenizer.learn([store.text(item) for item in store.ids], recipe.text.vocabulary_size)
    folder = own_workspace.pretrained(PRETRAINING, 0) / "model"
    folder.mkdir(parents=True)
    build_mlim(recipe, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save(folder)
    return own_workspace


def test_every_item_gets_values_and_written_ones_are_judged(workspace, recipe, quiet):
    summary = complete(recipe, workspace, quiet, "colour", top=2)
    folder = workspace.completions / "colour"
    assert summary == read_json(folder / "summary.json")
    assert (summary["items"], summary["known"], summary["missing"], summary["not_found"]) == (40, 38, 2, 0)
    assert (summary["values"], summary["rare"]) == (5, 0)
    assert summary["pretraining"] == PRETRAINING
    cells = pd.read_parquet(folder / "cells.parquet").set_index("id")
    assert len(cells) == 40
    ranked = cells[["probability_1", "probability_2"]].to_numpy()
    assert (ranked[:, 0] >= ranked[:, 1]).all()
    assert (ranked.sum(axis=1) <= 1 + 1e-9).all()
    assert cells.loc[[*MISSING], ["written", "probability", "sigmas", "contradicts"]].isna().all(axis=None)
    known = cells.drop([*MISSING])
    assert known[["written", "probability", "sigmas", "contradicts"]].notna().all(axis=None)
    own = known[known["written"] == known["value_1"]]
    assert (own["probability"] == own["probability_1"]).all()
    test = summary["test"]
    assert (test["cells"], test["families"]) == (7, 2)
    assert [*test["exact_match"]] == ["model", "MLM head alone", "model without picture", "most frequent", "trees"]
    assert test["exact_match"]["model"]["low"] is None  # two families say nothing of others


def test_spreadsheets_compute_no_cell(workspace, recipe, quiet):
    complete(recipe, workspace, quiet, "colour")
    path = workspace.completions / "colour" / "cells.csv"
    assert f",{FORMULA}," not in path.read_text()
    rows = {row["id"]: row for row in read_csv(path)}
    assert rows[FORMULAS[0]]["written"] == FORMULA
    assert rows[MISSING[0]]["written"] == rows[MISSING[0]]["contradicts"] == ""


def test_a_limit_on_the_probability_decides_instead(workspace, recipe, quiet):
    everything = complete(recipe, workspace, quiet, "colour", below=1.0)
    assert everything["contradictions"]["cells"] == 38
    listed = pd.read_parquet(workspace.completions / "colour" / "contradictions.parquet")
    assert len(listed) == 38
    assert listed["sigmas"].is_monotonic_increasing
    none = complete(recipe, workspace, quiet, "colour", below=0.0)
    assert none["contradictions"]["cells"] == 0
    assert none["test"]["contradictions"] == {"of_written": 0, "of_planted": 0}
    assert read_csv(workspace.completions / "colour" / "contradictions.csv") == []


def test_the_same_again_gives_the_same_bytes(workspace, recipe, quiet):
    path = workspace.completions / "kind" / "cells.csv"
    complete(recipe, workspace, quiet, "kind")
    first = path.read_bytes()
    complete(recipe, workspace, quiet, "kind")
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("color", r"--attribute color: no text column of the catalog \(did you mean `colour`\?\)"),
        ("pattern", r"--attribute pattern: the model does not read this column; add it to columns.text .*kind, colour"),
    ],
)
def test_an_attribute_that_is_not_read_is_one_sentence(workspace, recipe, quiet, attribute, message):
    with pytest.raises(InputError, match=message):
        complete(recipe, workspace, quiet, attribute)
    assert not workspace.completions.exists()


def test_too_few_known_values_are_one_sentence(workspace, recipe, quiet):
    write_texts(workspace, missing=[f"item-{number:03d}" for number in range(10)])
    with pytest.raises(DataError, match="colour: only 14 train items have a value in their text, and 20 are needed"):
        complete(recipe, workspace, quiet, "colour")
    write_texts(workspace, formula=[f"item-{number:03d}" for number in range(40)])
    with pytest.raises(DataError, match=r"its values hardly repeat \(1 of them stands in two training items or more\)"):
        complete(recipe, workspace, quiet, "colour")


def test_what_is_missing_says_what_to_run(workspace, recipe, quiet):
    with pytest.raises(InputError, match=r"recon-mlm-mam-s7/model is missing; run `mlim pretrain recon-mlm-mam --seed"):
        complete(recipe, workspace, quiet, "colour", seed=7)
    with pytest.raises(InputError, match=r"pretrainings: no `recon-mlm-mom` \(did you mean `recon-mlm-mam`"):
        complete(recipe, workspace, quiet, "colour", pretraining="recon-mlm-mom")
    (workspace.pairs / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"items.parquet is missing; run `mlim pairs` first"):
        complete(recipe, workspace, quiet, "colour")


def test_a_pre_training_that_predicts_no_text_is_refused(workspace, recipe, quiet):
    blind = recipe.pretrainings[PRETRAINING].model_copy(update={"losses": ("recon",)})
    recipe = recipe.model_copy(update={"pretrainings": {**recipe.pretrainings, PRETRAINING: blind}})
    with pytest.raises(
        InputError, match=r"`recon-mlm-mam` was trained on recon and predicts no text; name one with mlm"
    ):
        complete(recipe, workspace, quiet, "colour")
    bare = recipe.model_copy(update={"main": "no-pretraining"})
    with pytest.raises(MlimError, match="variant `no-pretraining` has no pre-training; name one with --pretraining"):
        complete(bare, workspace, quiet, "colour")


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "Größe", "", "x" * 300])
def test_no_name_of_a_column_leads_elsewhere(name):
    assert folder_name("colour_2") == "colour_2"
    assert folder_name(name).isalnum()
    assert len(folder_name(name)) == 16


def test_the_command_refuses_in_one_sentence(tiny_workspace, monkeypatch, capsys):
    words = ["complete", "--attribute", "colour", "--work", str(tiny_workspace.root)]
    assert call(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert "run `mlim pretrain recon-mlm-mam --seed 0` first" in said
    assert "Traceback" not in said
