"""How many labels the last training did not have."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.events import LABELS, LABELS_SAVED
from mlim.errors import InputError
from mlim.files import write_json
from mlim.pairs.answers import Answer, AnswerTable
from mlim.steps.labelled import count_new_labels, keep_labels

CATALOG = """
table: none.csv
images: .
columns: {id: id, image: image, family: family, text: [kind, colour]}
pairs: {labelled: labels.csv}
"""


@pytest.fixture
def catalog(tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    return path


def answers(labels, start=0, at="2026-11-30T10:00:00.000+00:00"):
    numbers = enumerate(labels, start=start)
    return [Answer(f"item-{n:03d}", f"item-{n + 1:03d}", label, "anna", at) for n, label in numbers]


def train(workspace, recipe, used, candidates):
    """Leave what `mlim pairs` and then `mlim finetune` leave of these answers."""
    rows = [{"item_a": one.item_b, "item_b": one.item_a, "label": int(one.label)} for one in used]
    kinds = [{**row, "kind": "labelled match" if row["label"] else "labelled mismatch"} for row in rows]
    others = [{"item_a": "item-030", "item_b": "item-031", "label": 0, "kind": "random"}]
    pq.write_table(pa.Table.from_pylist([*kinds, *others]), workspace.pairs / "pairs.parquet")
    write_json(workspace.pairs / "summary.json", {"candidates": candidates})
    write_json(workspace.finetuned(recipe.main, recipe.seeds[0]) / "summary.json", {})


def test_labels_that_the_last_training_did_not_have_are_counted(tiny_recipe, own_workspace, catalog, tmp_path):
    table = AnswerTable(tmp_path / "labels.csv")

    def count():
        return count_new_labels(tiny_recipe, catalog, own_workspace)

    assert count() == 0  # nobody has answered
    first = answers(["1", "0", "1", "unsure"])
    table.add(first)
    assert count() == 3
    train(own_workspace, tiny_recipe, first[:2], candidates=3)  # a limit left one out
    assert count() == 0
    table.add(answers(["0"], start=20))
    assert count() == 1
    table.add(answers(["0"], at="2026-11-30T11:00:00.000+00:00"))  # the first pair differs after all
    assert count() == 2
    kept = own_workspace.finetuned(tiny_recipe.main, tiny_recipe.seeds[0])
    os.utime(own_workspace.pairs / "pairs.parquet", (2**32, 2**32))
    assert count() == 4  # newer than the training of an earlier version, which kept none: it had none of them
    keep_labels(own_workspace, kept)
    assert count() == 2
    train(own_workspace, tiny_recipe, first[:3], candidates=9)  # made again, as every night
    assert count() == 2


def test_what_cannot_be_counted_is_one_sentence(tiny_recipe, own_workspace, catalog):
    (own_workspace.valid / "index.parquet").unlink()
    with pytest.raises(InputError, match=r"index\.parquet is missing; run `mlim ingest`"):
        count_new_labels(tiny_recipe, catalog, own_workspace)
    catalog.write_text(CATALOG.replace("labelled: labels.csv", "decided_by: [pattern]"))
    with pytest.raises(InputError, match="names no table of labels"):
        count_new_labels(tiny_recipe, catalog, own_workspace)


def test_the_deployment_waits_for_the_event_that_is_told():
    declared = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    (found,) = [one for one in declared if one["entrypoint"] == "flows/labels.py:labels"]
    (trigger,) = found["triggers"]
    assert (trigger["expect"], trigger["match"]) == ([LABELS_SAVED], {"prefect.resource.id": LABELS})
