"""Scores of a table of pairs: one row out for each row in, whatever is wrong with it, and each item read once."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import claim, read_csv
from mlim.matching.batch import ScoringRun, score_table
from mlim.matching.pairs_table import PairsTable
from mlim.shards.items import ItemStore
from mlim.stacking.stack import Stack
from mlim.steps.score import check_request, score_pairs
from tests.unit.test_loading import build


@pytest.fixture(scope="module")
def store(tiny_workspace):
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


@pytest.fixture(scope="module", params=[("joint", None), ("joint", 1), ("separate", None)], ids=str)
def model(request, tiny_recipe):
    return build(tiny_recipe, *request.param)


@pytest.fixture(scope="module")
def separate(tiny_recipe):
    return build(tiny_recipe, "separate")


def run_of(model, store, cache, **changes):
    return ScoringRun(model, "both", store, {}, cache, 0.5, **{"chunk": 16, **changes})


def some_pairs(store, number=50):
    chance = np.random.default_rng(0)
    ids = np.array(list(store.ids))
    first = chance.integers(0, len(ids), number)
    second = (first + chance.integers(1, len(ids), number)) % len(ids)
    return pd.DataFrame({"item_a": ids[first], "item_b": ids[second], "found_by": [["text", "block:kind"]] * number})


def written(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return PairsTable(path)


def expected_scores(model, store, frame, modality=None):
    pairs = [tuple(sorted(pair)) for pair in zip(frame["item_a"], frame["item_b"], strict=True)]
    items = {item: {"text": store.text(item), "image": store.jpeg(item)} for pair in pairs for item in pair}
    return model.score([(items[one], items[other]) for one, other in pairs], modality)


def test_scores_are_those_of_the_model(model, store, tmp_path, quiet):
    frame = some_pairs(store)
    summary = score_table(
        run_of(model, store, tmp_path), written(frame, tmp_path / "p.parquet"), tmp_path / "out.parquet", None, quiet
    )  # few pairs: no process is started, as none may be in a unit test
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found[["item_a", "item_b"]].equals(frame[["item_a", "item_b"]])
    assert [list(ways) for ways in found["found_by"]] == frame["found_by"].tolist()
    np.testing.assert_allclose(found["score"], expected_scores(model, store, frame), atol=1e-5)
    decided = model.decide(found["score"].to_numpy(), "both")
    np.testing.assert_array_equal(found["match"].astype(bool), decided.match)
    np.testing.assert_allclose(found["probability"], decided.probability)
    assert summary["pairs"] == summary["scored"] == len(frame)
    assert summary["matches"] == decided.match.sum()
    assert summary["not_scored"] == {}
    assert not list(tmp_path.glob("scoring-*"))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_scores_of_one_modality_are_those_of_the_model(tiny_recipe, store, tmp_path, quiet, modality):
    model, frame = build(tiny_recipe), some_pairs(store, 20)
    run = ScoringRun(model, modality, store, {}, tmp_path, 0.5, chunk=16)
    score_table(run, written(frame, tmp_path / "p.parquet"), tmp_path / "out.parquet", 1, quiet)
    found = pd.read_parquet(tmp_path / "out.parquet")["score"]
    np.testing.assert_allclose(found, expected_scores(model, store, frame, modality), atol=1e-5)
    assert not np.allclose(found, expected_scores(model, store, frame), atol=1e-3)


def test_every_row_in_is_a_row_out(separate, store, tmp_path, quiet):
    one, other = list(store.ids)[:2]
    rows = [(one, other), (one, "gone"), ("bad", one), (one, one), ("", one), (f" {other} ", one), (other, one)]
    table = written(pd.DataFrame(rows, columns=["item_a", "item_b"]), tmp_path / "p.csv")
    with table.path.open("a") as target:
        target.write("a,b,c\n")
    run = ScoringRun(separate, "both", store, {"bad": "blank-image"}, tmp_path, 0.5)
    summary = score_table(run, table, tmp_path / "out.csv", 1, quiet)
    found = read_csv(tmp_path / "out.csv")
    reasons = [row["reason"] for row in found]
    assert reasons == ["", "unknown-item", "rejected-item", "same-item", "missing-id", "", "", "too-many-cells"]
    assert found[1]["detail"] == "item_b `gone` is no item of the catalog"
    assert found[2]["detail"] == "item_a `bad` was rejected from the catalog: blank-image"
    assert found[0]["score"] == found[5]["score"] == found[6]["score"] != ""
    assert found[3]["score"] == found[3]["match"] == ""
    assert found[0]["match"] in ("true", "false")
    assert (summary["pairs"], summary["scored"], summary["items"]) == (8, 3, 2)


def test_an_item_is_read_once_however_many_pairs_it_is_in(model, store, tmp_path, quiet, monkeypatch):
    decoded, tokenised = Counter(), Counter()
    image, encode = ItemStore.image, type(model.tokenizer).encode_all
    monkeypatch.setattr(ItemStore, "image", lambda self, item: decoded.update([item]) or image(self, item))
    monkeypatch.setattr(
        type(model.tokenizer), "encode_all", lambda self, texts: tokenised.update(["a batch"]) or encode(self, texts)
    )
    frame = pd.concat([some_pairs(store, 200)] * 2)
    score_table(
        run_of(model, store, tmp_path), written(frame, tmp_path / "p.parquet"), tmp_path / "out.parquet", 1, quiet
    )
    assert set(decoded.values()) == {1}
    assert set(decoded) == set(frame["item_a"]) | set(frame["item_b"])
    assert tokenised["a batch"] == 1


def test_vectors_are_kept_for_the_next_table(separate, store, tmp_path, quiet, monkeypatch):
    run = run_of(separate, store, tmp_path)
    table = written(some_pairs(store), tmp_path / "p.parquet")
    score_table(run, table, tmp_path / "one.parquet", 1, quiet)
    monkeypatch.setattr(ItemStore, "image", None)
    score_table(run, table, tmp_path / "two.parquet", 1, quiet)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.mark.parametrize("left", ["chunks", "blocks", "nothing"])
def test_finished_pieces_are_kept(model, store, tmp_path, quiet, monkeypatch, left):
    """Whatever a stopped run has finished, the result is the same bytes."""
    import mlim.matching.batch as batch

    monkeypatch.setattr(batch, "ITEMS_PER_BLOCK", 8)
    table = written(some_pairs(store, 90), tmp_path / "p.parquet")
    score_table(run_of(model, store, tmp_path / "whole"), table, tmp_path / "whole.parquet", 1, quiet)
    task = {"chunks": "_score_chunk", "blocks": "_prepare_block", "nothing": "_read_block"}[left]
    do = getattr(batch, task)

    def stop_at_third(worker, start):
        if start >= {"chunks": 32}.get(left, 16):
            raise KeyboardInterrupt
        return do(worker, start)

    run = run_of(model, store, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(batch, task, stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            score_table(run, table, tmp_path / "cut.parquet", 1, quiet)
    assert not (tmp_path / "cut.parquet").exists()
    assert list((tmp_path / "cut").glob("scoring-*"))
    done = Counter()
    with monkeypatch.context() as patch:
        patch.setattr(
            batch,
            "_score_chunk",
            lambda worker, start, do=batch._score_chunk: done.update([start]) or do(worker, start),
        )
        score_table(run, table, tmp_path / "cut.parquet", 1, quiet)
    assert (tmp_path / "cut.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert len(done) == 6 - (2 if left == "chunks" else 0)


def test_what_killed_runs_of_other_tables_left_goes(separate, store, tmp_path, quiet, monkeypatch):
    """It was kept for ever: the states of all items, where a model reads both items of a pair together."""
    import mlim.matching.batch as batch

    claim(tmp_path / "cache", "--work")
    run, tables = run_of(separate, store, tmp_path / "cache"), [tmp_path / f"{number}.parquet" for number in range(2)]
    first, second = (written(some_pairs(store, 20 + number), path) for number, path in enumerate(tables))
    stopped = tmp_path / "cache" / f"scoring-{run.key(first.path)}"
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_score_chunk", None)
        with pytest.raises(TypeError):
            score_table(run, first, tmp_path / "out.parquet", 1, quiet)
        assert stopped.is_dir()
        with pytest.raises(TypeError):  # another run begins, and does not finish either
            score_table(run, second, tmp_path / "out.parquet", 1, quiet)
        [left] = (tmp_path / "cache").glob("scoring-*")
        assert left != stopped
    score_table(run, first, tmp_path / "out.parquet", 1, quiet)
    assert not list((tmp_path / "cache").glob("scoring-*"))
    assert list((tmp_path / "cache" / "items").iterdir())


def test_what_mlim_did_not_make_stays_whatever_its_name(separate, store, tmp_path, quiet):
    (tmp_path / "scoring-notes").mkdir()
    score_table(
        run_of(separate, store, tmp_path), written(some_pairs(store), tmp_path / "p.csv"), tmp_path / "o.csv", 1, quiet
    )
    assert (tmp_path / "scoring-notes").is_dir()


def test_a_table_without_pairs_gives_one_without_scores(separate, store, tmp_path, quiet):
    for name in ("p.parquet", "p.csv"):
        table = written(
            pd.DataFrame({"item_a": pd.Series([], dtype="str"), "item_b": pd.Series([], dtype="str")}), tmp_path / name
        )
        summary = score_table(run_of(separate, store, tmp_path), table, tmp_path / "out.parquet", 1, quiet)
        assert summary["pairs"] == 0
        assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_two_ids_of_one_hash_are_told_apart(store, monkeypatch):
    import mlim.matching.item_rows as item_rows

    ids = list(store.ids)
    monkeypatch.setattr(item_rows, "_hashes", lambda texts: np.zeros(len(texts), dtype=np.uint64))
    assert item_rows.ItemRows(store).find([*ids, "gone"]).tolist() == [*range(len(ids)), -1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["item_a", "b"], "lacks the column item_b; it has item_a, b"),
        (["item_a", "item_b", "score"], "already has the columns score; rename or drop them"),
    ],
)
def test_a_table_of_other_columns_is_refused(separate, store, tmp_path, quiet, columns, message):
    table = written(pd.DataFrame([["x"] * len(columns)], columns=columns), tmp_path / "p.csv")
    with pytest.raises(InputError, match=message):
        score_table(run_of(separate, store, tmp_path), table, tmp_path / "out.csv", 1, quiet)
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        score_table(run_of(separate, store, tmp_path), PairsTable(tmp_path / "gone.csv"), tmp_path / "o.csv", 1, quiet)


def test_a_request_is_checked_before_any_item_is_read(separate, tmp_path):
    pairs, there = tmp_path / "p.csv", tmp_path / "there.csv"
    pairs.write_text("item_a,item_b\nx,y\n")
    there.touch()
    check_request(separate, pairs, tmp_path / "out.csv", None)
    for table, out, modality, message in (
        (tmp_path / "gone.csv", tmp_path / "out.csv", None, "no such file"),
        (pairs, there, None, "--force"),
        (pairs, tmp_path / "out.csv", "sound", "sound"),
    ):
        with pytest.raises(InputError, match=message):
            check_request(separate, table, out, modality)


class ByMeasures:
    """Parts of a stack that read texts and images of items."""

    def scores(self, items, first, second):
        measures = items.measures.sum(axis=1) % 1
        lengths = np.array([len(text) for text in items.texts])
        apart = np.abs(measures[first] - measures[second]) * (lengths[first] != lengths[second])
        hashes = np.array([picture.perceptual for picture in items.pictures])
        return pd.DataFrame({"trees": apart, "words": (hashes[first] != hashes[second]).mean(axis=1)})


class Mean:
    parts = ("matcher", "trees", "words")

    def score(self, scores):
        return scores[list(self.parts)].to_numpy().mean(axis=1)


def test_a_stack_reads_the_same_of_kept_items(store, tiny_recipe, tmp_path, quiet):
    plain = build(tiny_recipe, "separate")
    model = type(plain)(plain._matcher, plain.tokenizer, plain.settings, Stack(ByMeasures(), Mean()), "cpu")
    model._sha256 = "stack"
    frame = some_pairs(store)
    run = run_of(model, store, tmp_path)
    score_table(run, written(frame, tmp_path / "p.parquet"), tmp_path / "out.parquet", 1, quiet)
    found = pd.read_parquet(tmp_path / "out.parquet")["score"]
    np.testing.assert_allclose(found, expected_scores(model, store, frame), atol=1e-5)
    assert not np.allclose(found, expected_scores(plain, store, frame), atol=1e-3)


def test_a_table_of_other_ids_is_warned_of(separate, tiny_recipe, tiny_workspace, store, tmp_path, capfd):
    """A spreadsheet took the leading zeros: nothing could be scored, and nobody would look at the column `reason`."""
    pairs, known = tmp_path / "p.csv", list(store.ids)[:2]
    for ids, warned in (("1,2", True), (",".join(known), False)):
        pairs.write_text(f"item_a,item_b\n{ids}\n")
        score_pairs(separate, pairs, tmp_path / f"{warned}.csv", tiny_recipe, tiny_workspace, Terminal(), workers=1)
        assert ("1 of 1 pairs name an item that the catalog does not have" in capfd.readouterr().err) is warned
