"""Candidates: blocking rules against all comparisons, hard rules, the union, and the step on a small catalog."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.description import CatalogDescription
from mlim.catalog.match_rules import MatchRules
from mlim.catalog.values import Values
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import claim
from mlim.matching import neighbour_lists
from mlim.matching.candidates import candidate_store
from mlim.matching.columns import read_rules
from mlim.matching.completeness import shares
from mlim.matching.index import Neighbours
from mlim.matching.text_vectors import TextEncoder, fit_text_encoder, text_vectors
from mlim.matching.vectors import save_vectors
from mlim.recipe import Recipe
from mlim.recipe.match import NeighboursConfig
from mlim.steps import candidates as candidates_module
from mlim.steps.candidates import find_candidates
from mlim.workspace import Workspace

NOTHING = np.empty(0, dtype=np.int64)


def table(rows: list[dict[str, str]], families: list[str | None] | None = None) -> pd.DataFrame:
    """Items whose columns are metadata."""
    return pd.DataFrame(
        {
            "id": [f"item-{number:02d}" for number in range(len(rows))],
            "family": families or [None] * len(rows),
            "attributes": "{}",
            "facts": [json.dumps(row) for row in rows],
        }
    )


def candidates(items: pd.DataFrame, rules: MatchRules, folder: Path, most: int = 100, near: Any = ()) -> pd.DataFrame:
    blocks, never = read_rules(items, rules, Values())
    with candidate_store(len(items), 100, never) as found:
        for block in blocks:
            found.add_block(block, most)
        for name, neighbours in near:
            found.add_neighbours(name, neighbours)
        found.write(folder / "candidates.parquet", items["id"].tolist())
    return pd.read_parquet(folder / "candidates.parquet")


def pairs_of(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["item_a"], frame["item_b"], strict=True))


prices = st.one_of(
    st.floats(0.5, 50).map(lambda price: f"{price:.2f}"), st.sampled_from(["", "much", "-1", "0", "inf"])
)
rows_drawn = st.lists(
    st.fixed_dictionaries({"brand": st.sampled_from(["A", "a ", "b", ""]), "price": prices}), max_size=9
)


@settings(max_examples=10, deadline=None)
@given(rows_drawn, st.sampled_from([0.1, 0.5, 3.0]))
def test_a_band_finds_what_comparing_all_pairs_finds(
    tmp_path_factory: Any, rows: list[dict[str, str]], band: float
) -> None:
    rules = MatchRules.model_validate({"blocks": [["brand", {"column": "price", "band": band}]]})
    items = table(rows)
    found = candidates(items, rules, tmp_path_factory.mktemp("found"))

    def near(one: dict[str, str], other: dict[str, str]) -> bool:
        brands = [row["brand"].strip().lower() for row in (one, other)]
        try:
            low, high = sorted(float(row["price"]) for row in (one, other))
        except ValueError:
            return False
        return brands[0] == brands[1] != "" and low > 0 and high < np.inf and high / low <= 1 + band + 1e-6

    numbered = list(zip(items["id"], rows, strict=True))
    assert pairs_of(found) == {
        (a, b) for (a, one), (b, other) in itertools.combinations(numbered, 2) if near(one, other)
    }


def test_each_candidate_is_once_there_and_knows_what_found_it(tmp_path: Path) -> None:
    items = table([{"brand": "x", "kind": "k"}, {"brand": "x", "kind": "k"}, {"brand": "y", "kind": "k"}])
    rules = MatchRules.model_validate({"blocks": [["brand"], ["brand", "kind"]]})
    near = Neighbours(np.array([0, 1, 2]), np.array([1, 0, 0]), np.array([3, 2, 1]))
    found = candidates(items, rules, tmp_path, near=[("text", [near])])
    written = [(row.item_a, row.item_b, list(row.found_by)) for row in found.itertuples()]
    assert written == [
        ("item-00", "item-01", ["block:brand", "block:brand + kind", "text"]),
        ("item-00", "item-02", ["text"]),
    ]
    assert found["rank"].tolist() == [2, 1]


def test_large_blocks_are_left_out_and_counted() -> None:
    items = table([{"brand": "common"}] * 5 + [{"brand": "rare"}] * 2)
    blocks, rules = read_rules(items, MatchRules.model_validate({"blocks": [["brand"]]}), Values())
    with candidate_store(7, 100, rules) as found:
        found.add_block(blocks[0], 4)
        assert found.left_out == {"block:brand": 5}
        assert found.ranks_of(np.array([5, 1]), np.array([6, 0]))["block:brand"][1] == -1


def test_prices_that_are_no_plain_numbers_are_counted() -> None:
    prices = ["10.00", "10.50", "10,00", "1,299.00", "10 \N{EURO SIGN}", "", "n/a"]
    rules = MatchRules.model_validate({"blocks": [["kind", {"column": "price", "band": 0.1}]]})
    (block,), _ = read_rules(table([{"kind": "k", "price": price} for price in prices]), rules, Values())
    assert block.unread == 3
    assert [number >= 0 for number in block.key] == [True, True, False, False, False, False, False]


def test_pairs_that_never_match_are_no_candidates(tmp_path: Path) -> None:
    rows = [
        {"kind": "k", "brand": "x"},
        {"kind": "k", "brand": "y"},
        {"kind": "k", "brand": ""},
        {"kind": "k", "brand": "x"},
    ]
    given_rules = {"blocks": [["kind"]], "never": [{"differ": ["brand"]}], "families": "across"}
    found = candidates(table(rows, ["f", "g", "h", "f"]), MatchRules.model_validate(given_rules), tmp_path)
    assert pairs_of(found) == {("item-00", "item-02"), ("item-01", "item-02"), ("item-02", "item-03")}


def test_a_rule_of_columns_that_were_not_ingested_is_refused() -> None:
    with pytest.raises(InputError, match="lack the column price; run `mlim ingest`"):
        read_rules(table([{"brand": "x"}]), MatchRules.model_validate({"blocks": [["price"]]}), Values())


@pytest.mark.parametrize(
    "rules", [{"blocks": [[]]}, {"blocks": [[{"column": "price", "band": 0.1}]]}, {"never": [{}]}, {"families": "some"}]
)
def test_rules_that_say_nothing_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MatchRules.model_validate(rules)


def test_columns_of_rules_are_ingested() -> None:
    values = {
        "table": "t.csv",
        "images": ".",
        "columns": {"id": "sku", "image": "picture", "text": ["title"]},
        "matching": {"blocks": [["brand", "title"]], "never": [{"same": ["seller"]}]},
    }
    described = CatalogDescription.model_validate(values)
    assert described.metadata_columns == ("brand", "seller")
    assert {"brand", "seller"} < set(described.needed_columns)


@pytest.mark.parametrize(("found", "items", "share"), [(0, 0, 0), (0, 1, 0), (1, 2, 1), (3, 4, 0.5)])
def test_the_share_of_all_pairs(found: int, items: int, share: float) -> None:
    assert shares(found, items) == {"share_of_all_pairs": share, "reduction_ratio": 1 - share}


def test_words_that_matches_keep_weigh_more_than_words_as_rare() -> None:
    texts = ["kept left", "kept", "left", *(f"other{number}" for number in range(20))]
    encoder = fit_text_encoder(texts, np.array([0]), np.array([1]), 64, seed=0)
    weights = dict(zip(encoder.words, encoder.weights, strict=True))
    assert weights["kept"] > weights["left"] > 0


@pytest.mark.parametrize("texts", [[], [""], ["", "?!"], ["one word"], ["a b", "c d", "e f"]])
def test_any_texts_can_be_encoded(texts: list[str], tmp_path: Path) -> None:
    encoder = fit_text_encoder(texts, NOTHING, NOTHING, 2, seed=0)
    blocks = list(encoder.encode(texts))
    assert sum(map(len, blocks)) == len(texts)
    assert all(np.isfinite(block).all() for block in blocks)
    encoder.save(tmp_path / "encoder.npz")
    assert TextEncoder.load(tmp_path / "encoder.npz").origin == encoder.origin


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """The description of the catalog of `tiny_workspace`."""
    values = {
        "table": "tiny.csv",
        "images": ".",
        "columns": {"id": "id", "image": "image", "family": "family", "text": ["kind", "colour"]},
        "pairs": {"decided_by": ["pattern"]},
        "matching": {"blocks": [["kind"]]},
    }
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(recipe: Recipe, described: Path, workspace: Workspace, *vectors: str) -> dict[str, Any]:
    return find_candidates(recipe, described, workspace, Terminal(quiet=True), vectors)


def test_a_catalog_gives_candidates_with_figures(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path
) -> None:
    summary = run(tiny_recipe, described, own_workspace)
    found = pd.read_parquet(own_workspace.candidates / "candidates.parquet")
    assert (summary["items"], summary["candidates"]) == (40, len(found))
    assert (found["item_a"] < found["item_b"]).all()
    assert not found.duplicated(["item_a", "item_b"]).any()
    assert summary["pair_completeness"]["test"]["all"] == {"share": 1.0, "matches": 4}
    assert set(summary["recall_at"]["test"]) == {"text", "picture"}


def test_a_second_run_gives_the_same_bytes(tiny_recipe: Recipe, own_workspace: Workspace, described: Path) -> None:
    run(tiny_recipe, described, own_workspace)
    first = (own_workspace.candidates / "candidates.parquet").read_bytes()
    run(tiny_recipe, described, own_workspace)
    assert (own_workspace.candidates / "candidates.parquet").read_bytes() == first
    shutil.rmtree(own_workspace.indexes)
    run(tiny_recipe, described, own_workspace)
    assert (own_workspace.candidates / "candidates.parquet").read_bytes() == first


def night(items: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Some items go, some come, and of some the text, the picture or the family changes."""
    gone, told, seen, moved, copied = (generator.choice(len(items), 3, replace=False) for _ in range(5))
    new = items.iloc[copied].assign(id=[f"{name}-{generator.integers(1000)}" for name in items["id"].iloc[copied]])
    changed = items.copy()
    for column, rows in (("text", told), ("image_hash", seen), ("family", moved)):
        changed.iloc[rows, changed.columns.get_loc(column)] = generator.permutation(items[column])[:3]
    return pd.concat([changed.drop(changed.index[gone]), new]).drop_duplicates("id").reset_index(drop=True)


@pytest.mark.parametrize("exact_below", [0, 1000])
def test_candidates_after_a_night_are_those_of_a_search_of_everything(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, monkeypatch: pytest.MonkeyPatch, exact_below: int
) -> None:
    """Neighbours fall out of lists and into them, which hold one too many, and vectors that are given change, too."""
    monkeypatch.setattr(neighbour_lists, "LEAST_SPARE", 1)
    near = {"neighbours": NeighboursConfig(text=3, picture=2, vectors=2), "exact_below": exact_below, "probes": 2}
    candidates = tiny_recipe.match.candidates.model_copy(update=near)
    recipe = tiny_recipe.model_copy(update={"match": tiny_recipe.match.model_copy(update={"candidates": candidates})})
    shutil.rmtree(own_workspace.pairs)
    index, written = own_workspace.valid / "index.parquet", own_workspace.candidates / "candidates.parquet"
    items, generator = pd.read_parquet(index), np.random.default_rng(exact_below)
    folder = own_workspace.root / "given"
    for _ in range(3):
        drawn = generator.normal(size=(len(items), 4)).round(0).astype(np.float16)
        save_vectors(folder, items["id"].tolist(), [drawn], 4, "model:a")
        run(recipe, described, own_workspace, f"own={folder}")
        goes_on = written.read_bytes()
        for lists in own_workspace.indexes.glob("*/nearest"):
            shutil.rmtree(lists)
        shutil.rmtree(own_workspace.cache / "text-vectors")
        run(recipe, described, own_workspace, f"own={folder}")
        assert goes_on == written.read_bytes()
        items = night(items, generator)
        items.to_parquet(index, index=False)


def test_an_index_that_outgrew_one_cell_is_made_again(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path
) -> None:
    index, centroids = own_workspace.valid / "index.parquet", own_workspace.indexes / "text" / "centroids.npy"
    shutil.rmtree(own_workspace.pairs)
    items = pd.read_parquet(index)
    limited = tiny_recipe.match.candidates.model_copy(update={"exact_below": 30})
    recipe = tiny_recipe.model_copy(update={"match": tiny_recipe.match.model_copy(update={"candidates": limited})})
    cells = []
    for count in (20, 30, 40):
        items.iloc[:count].to_parquet(index, index=False)
        run(recipe, described, own_workspace)
        cells.append(len(np.load(centroids)))
    assert cells == [1, 1, 16]


def test_an_encoder_of_other_words_learns_again(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_recipe, described, own_workspace)
    state = own_workspace.indexes / "text-encoder" / "encoder.json"
    before = state.read_bytes()
    run(tiny_recipe, described, own_workspace)
    assert state.read_bytes() == before
    monkeypatch.setattr(candidates_module, "WORDS_FORMAT", candidates_module.WORDS_FORMAT + 1)
    run(tiny_recipe, described, own_workspace)
    assert state.read_bytes() != before


def test_texts_that_did_not_change_are_not_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["red shirt", "blue bag", "red shirt", "green coat"]
    encoder = fit_text_encoder(texts, NOTHING, NOTHING, 8, seed=0)
    expected = np.concatenate(list(encoder.encode(["new red shirt", *texts[1:]]))).astype(np.float16)
    claim(tmp_path, "work")
    folder, ids = tmp_path / "vectors", ["a", "b", "c", "d"]
    text_vectors(folder, ids, texts, encoder)
    asked = list[str]()
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, some, encode=TextEncoder.encode: (asked.extend(some), encode(self, some))[1]
    )
    again = text_vectors(folder, ids, ["new red shirt", *texts[1:]], encoder)
    assert asked == ["new red shirt"]
    np.testing.assert_array_equal(again.values, expected)
    (folder / "texts.npy").write_bytes(b"")
    np.testing.assert_array_equal(text_vectors(folder, ids, ["new red shirt", *texts[1:]], encoder).values, expected)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_catalog_of_hardly_any_items(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, kept: int
) -> None:
    index = own_workspace.valid / "index.parquet"
    pq.write_table(pq.read_table(index).slice(0, kept), index)
    shutil.rmtree(own_workspace.pairs)
    assert run(tiny_recipe, described, own_workspace)["candidates"] == 0
    assert pd.read_parquet(own_workspace.candidates / "candidates.parquet").empty


def test_families_are_the_known_matches_where_there_are_no_pairs(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path
) -> None:
    shutil.rmtree(own_workspace.pairs)
    summary = run(tiny_recipe, described, own_workspace)
    assert summary["pair_completeness"]["all"]["same family"]["matches"] == 10 * 6


def test_vectors_that_are_given_find_their_own(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path
) -> None:
    ids = [f"item-{number:03d}" for number in (3, 1, 39)]
    values = np.array([[1, 0], [1, 0.1], [-1, 0]], dtype=np.float16)
    folder = own_workspace.root / "given"
    save_vectors(folder, ids, [values], 2, "model:a")
    summary = run(tiny_recipe, described, own_workspace, f"embedding={folder}")
    assert summary["ways"]["embedding"]["found"] == 1
    found = pd.read_parquet(own_workspace.candidates / "candidates.parquet")
    assert "embedding" in found.set_index(["item_a", "item_b"]).loc[("item-001", "item-003"), "found_by"]
    save_vectors(folder, ids, [values], 2, "model:b")
    with pytest.raises(InputError, match="another model"):
        run(tiny_recipe, described, own_workspace, f"embedding={folder}")
    save_vectors(folder, ["unknown"], [values[:1]], 2, "model:a")
    with pytest.raises(InputError, match="none of its ids"):
        run(tiny_recipe, described, own_workspace, f"embedding={folder}")


@pytest.mark.parametrize("given_vectors", ["folder", "text=folder", "a/b=folder", "fine=nowhere"])
def test_vectors_that_are_given_wrongly(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, given_vectors: str
) -> None:
    with pytest.raises(InputError):
        run(tiny_recipe, described, own_workspace, given_vectors)


neighbours_drawn = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 5)).filter(lambda found: found[0] != found[1]),
    max_size=20,
    unique_by=lambda found: found[:2],
)


@settings(max_examples=20, deadline=None)
@given(
    neighbours_drawn,
    st.lists(st.sampled_from(["f", "g", None]), min_size=8, max_size=8),
    st.sampled_from(["within", "across", None]),
    neighbours_drawn,
)
def test_neighbours_that_never_match_are_no_candidates_and_known_ones_keep_their_ranks(
    tmp_path_factory: Any, drawn: list[Any], families: list[str | None], allowed: Any, known: list[Any]
) -> None:
    items = table([{"brand": "x"}] * 8, families)
    _, rules = read_rules(items, MatchRules(families=allowed), Values())
    first, second, rank = np.array(drawn, dtype=np.int64).reshape(-1, 3).T
    sides = np.array(known, dtype=np.int64).reshape(-1, 3).T[:2]
    path = tmp_path_factory.mktemp("found") / "candidates.parquet"
    with candidate_store(8, 100, rules, (sides[0], sides[1])) as found:
        found.add_neighbours("text", [Neighbours(first, second, rank)])
        counts = found.write(path, items["id"].tolist())
        ranks = found.ranks_of(*sides)["text"].tolist()
    best: dict[tuple[int, int], int] = {}
    for one, other, at in drawn:
        pair = (min(one, other), max(one, other))
        best[pair] = min(at, best.get(pair, at))
    may = {pair for pair in best if not rules.forbidden(*(np.array([side]) for side in pair))[0]}
    assert pairs_of(pd.read_parquet(path)) == {(f"item-{a:02d}", f"item-{b:02d}") for a, b in may}
    assert counts["candidates"] == len(may)
    assert ranks == [best.get((min(a, b), max(a, b)), -1) for a, b, _ in known]
