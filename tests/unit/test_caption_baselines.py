"""Captions that no network wrote: the most frequent one, and that of the most similar train image."""

from functools import partial

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.annotations.tables import CAPTIONS, SCHEMAS, table_file
from mlim.evaluation.caption_baselines import FREQUENT, NEAREST, caption_baselines
from mlim.evaluation.judges import judge_of
from mlim.evaluation.resampling import Resampling
from mlim.evaluation.task_evidence import TaskVariant
from mlim.evaluation.task_table import task_table
from mlim.files import write_json
from mlim.recipe.finetune import Variant
from mlim.report.tasks import task_header, task_rows
from mlim.workspace import Workspace

HASHES = {"a": "00" * 8, "b": "ff" * 8, "near-b": "ff" * 7 + "fe", "near-a": "01" + "00" * 7}
TOLD = [("a", "train", "a cup"), ("a", "train", "a mug"), ("b", "train", "a red hat"), ("b", "train", "a cup")]
TOLD += [("near-a", "test", "a hat")] * 3  # of another split: teaches nothing


@pytest.fixture
def work(tmp_path):
    made = Workspace(tmp_path)
    made.annotations.mkdir()
    rows = [
        {"id": item, "split": split, "caption_id": str(place), "caption": text}
        for place, (item, split, text) in enumerate(TOLD)
    ]
    schema = SCHEMAS[CAPTIONS]
    with pa.ipc.new_file(str(table_file(made.annotations, CAPTIONS)), schema) as target:
        target.write_table(pa.Table.from_pylist(rows, schema=schema))
    for folder in (made.valid, made.pairs):
        folder.mkdir()
    ids = pa.table({"id": [*HASHES], "image_hash": [*HASHES.values()]})
    pq.write_table(ids, made.valid / "index.parquet")
    pq.write_table(pa.table({"id": [*HASHES], "component": [0, 1, 2, 3]}), made.pairs / "items.parquet")
    return made


@pytest.fixture
def scores():
    references = [["a red hat"], ["a cup"]]
    return pd.DataFrame({"id": ["near-b", "near-a"], "split": "test", "written": "x", "references": references})


def test_they_are_made_of_the_train_split_alone(work, scores):
    frequent, nearest = caption_baselines(scores, work)
    assert frequent.scores["written"].tolist() == ["a cup", "a cup"]
    assert nearest.scores["written"].tolist() == ["a red hat", "a cup"]
    assert nearest.scores["references"].tolist() == scores["references"].tolist()


def test_without_captions_there_are_none(work, scores, tmp_path):
    table_file(work.annotations, CAPTIONS).unlink()
    assert caption_baselines(scores, work) == []
    assert caption_baselines(scores, Workspace(tmp_path / "other")) == []


def test_they_stand_in_the_table_below_the_variants(work, scores):
    folder = work.finetuned("git", 0)
    folder.mkdir(parents=True)
    scores.to_parquet(folder / "scores.parquet")
    write_json(folder / "summary.json", {"items_seen": 4, "pretraining": None, "seed": 0})
    variant = Variant(label="GIT", pretraining=None, task="caption")
    variants = {"git": TaskVariant(variant, "git", work, (0,), 1, "key")}
    simple = partial(caption_baselines, workspace=work)
    table = task_table(judge_of("caption"), variants, "test", work, Resampling(20, 0.95, 0), baselines=simple)
    assert [*table["rows"]] == ["git"]
    by_label = {row["label"]: row for row in table["baselines"]}
    assert by_label[NEAREST]["cider"]["value"] > by_label[FREQUENT]["cider"]["value"] > 0
    assert by_label[NEAREST]["bleu4"]["difference"]["value"] > 0
    cells = task_rows(table)
    assert [row[0] for row in cells] == ["GIT", FREQUENT, NEAREST]
    assert {len(row) for row in cells} == {len(task_header(table))}
