"""`mlim complete` after a real, tiny pre-training, as a person calls it."""

import json

import pandas as pd
import pytest

from mlim.steps.pretrain import pretrain
from tests.commands import call
from tests.completion_room import write_texts

pytestmark = pytest.mark.integration


def test_after_pre_training_the_command_completes_an_attribute(
    tiny_recipe, own_workspace, quiet, monkeypatch, capsys, tmp_path
):
    write_texts(own_workspace, missing=["item-005"])
    pretrain(tiny_recipe, own_workspace, quiet, "recon-mlm-mam", 0)
    given = tmp_path / "recipe.yaml"
    given.write_text(tiny_recipe.to_yaml())
    words = ["complete", "--attribute", "colour", "--recipe", str(given), "--work", str(own_workspace.root), "--quiet"]
    assert call(monkeypatch, *words, "--top", "4", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["known"], summary["missing"], summary["values"]) == (39, 1, 4)
    cells = pd.read_parquet(own_workspace.completions / "colour" / "cells.parquet").set_index("id")
    assert cells.filter(like="probability_").sum(axis=1).to_numpy() == pytest.approx(1)
    assert {*cells.loc["item-005"].filter(like="value_")} == {"red", "green", "blue", "yellow"}
