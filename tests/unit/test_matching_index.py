"""The index of vectors: exact neighbours, what it keeps on disk, and that an update equals a new index."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.files import claim
from mlim.matching.index import IndexSettings, VectorIndex, cells_for
from mlim.matching.picture_vectors import picture_vectors
from mlim.matching.vectors import Vectors, open_vectors, save_vectors

ORIGIN = "model:0123456789abcdef"
EXACT = IndexSettings()
CELLS = IndexSettings(exact_below=50, probes=4)


def vectors(count: int, seed: int = 0, dimensions: int = 8, origin: str = ORIGIN) -> Vectors:
    values = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float16)
    return Vectors([f"item-{number:04d}" for number in range(count)], values, origin)


def found(index: VectorIndex, asked: Vectors, k: int) -> set[tuple[str, str, int]]:
    return {
        (asked.ids[first], asked.ids[second], int(rank))
        for near in index.neighbours(asked, k)
        for first, second, rank in zip(near.first, near.second, near.rank, strict=True)
    }


def test_a_small_catalog_is_compared_exactly() -> None:
    asked = vectors(60)
    held = asked.rows(0, 60).astype(np.float16).astype(np.float32)
    cosine = np.round(held @ held.T, 4)
    np.fill_diagonal(cosine, -1)
    for near in VectorIndex.build(asked, EXACT).neighbours(asked, 5):
        first, second = near.first, near.second
        best = -np.sort(-cosine, axis=1)[:, :5]
        assert near.similarity == pytest.approx(cosine[first, second], abs=1e-3)
        assert near.similarity == pytest.approx(best[first, near.rank - 1], abs=1e-3)


def test_only_similar_items_are_neighbours() -> None:
    asked = Vectors(["a", "b", "empty"], np.array([[1, 0], [-1, 0], [0, 0]], dtype=np.float16), ORIGIN)
    assert found(VectorIndex.build(asked, EXACT), asked, 2) == set()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_items_have_hardly_any_neighbours(count: int) -> None:
    asked = Vectors(["a", "b"][:count], np.ones((count, 4), dtype=np.float16), ORIGIN)
    assert len(found(VectorIndex.build(asked, EXACT), asked, 3)) == count * (count - 1)


def test_items_that_are_all_alike_have_k_neighbours_each() -> None:
    asked = Vectors([f"{number:02d}" for number in range(40)], np.ones((40, 4), dtype=np.float16), ORIGIN)
    assert len(found(VectorIndex.build(asked, EXACT), asked, 3)) == 40 * 3


@pytest.mark.parametrize("how", [EXACT, CELLS])
def test_an_index_comes_back_from_disk(tmp_path: Path, how: IndexSettings) -> None:
    claim(tmp_path, "work")
    asked = vectors(200)
    made = VectorIndex.build(asked, how)
    made.save(tmp_path / "index")
    assert found(VectorIndex.open(tmp_path / "index", ORIGIN, how), asked, 4) == found(made, asked, 4)


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, "work")
    VectorIndex.build(vectors(5), EXACT).save(tmp_path / "index")
    with pytest.raises(InputError, match="another model"):
        VectorIndex.open(tmp_path / "index", "model:fedcba9876543210", EXACT)


def test_a_damaged_index_is_refused_in_one_sentence(tmp_path: Path) -> None:
    claim(tmp_path, "work")
    VectorIndex.build(vectors(5), EXACT).save(tmp_path / "index")
    (tmp_path / "index/index.faiss").write_bytes(b"no index")
    with pytest.raises(InputError, match="delete the folder"):
        VectorIndex.open(tmp_path / "index", ORIGIN, EXACT)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 29)), st.sets(st.integers(0, 29)), st.integers(0, 5))
def test_an_updated_index_finds_what_a_new_one_finds(removed: set[int], changed: set[int], added: int) -> None:
    before = vectors(30)
    index = VectorIndex.build(before, EXACT)
    values = np.where(np.isin(np.arange(30), list(changed))[:, None], vectors(30, seed=1).values, before.values)
    kept = [number for number in range(30) if number not in removed]
    more = vectors(added, seed=2)
    ids = [*(before.ids[number] for number in kept), *(f"new-{number}" for number in range(added))]
    after = Vectors(ids, np.concatenate([values[kept], more.values]), ORIGIN)
    counts = index.update(after)
    assert counts == (added, len(removed), len(changed - removed))
    assert found(index, after, 4) == found(VectorIndex.build(after, EXACT), after, 4)


def test_an_opened_index_takes_updates(tmp_path: Path) -> None:
    claim(tmp_path, "work")
    VectorIndex.build(vectors(100), CELLS).save(tmp_path / "index")
    index = VectorIndex.open(tmp_path / "index", ORIGIN, CELLS)
    fewer = Vectors(vectors(100).ids[1:], vectors(100).values[1:], ORIGIN)
    assert index.update(fewer) == (0, 1, 0)
    index.save(tmp_path / "index")
    again = VectorIndex.open(tmp_path / "index", ORIGIN, CELLS)
    assert again.update(fewer) == (0, 0, 0)
    assert found(again, fewer, 3) == found(index, fewer, 3)


def test_cells_grow_with_the_catalog() -> None:
    assert [cells_for(items, 50_000) for items in (0, 50_000, 100_000, 10_000_000)] == [1, 1, 1024, 8192]


def test_a_hash_is_near_to_hashes_of_few_other_bits() -> None:
    hashes = ["00000000000000ff", "00000000000000fe", "ffffffffffff0000"]
    values = picture_vectors(hashes).astype(np.float32)
    differing = np.array([[0, 1, 56], [1, 0, 55], [56, 55, 0]])
    assert values @ values.T == pytest.approx(1 - differing / 32, abs=1e-2)


def test_vectors_are_written_block_by_block(tmp_path: Path) -> None:
    claim(tmp_path, "work")
    made = vectors(5)
    stored = save_vectors(tmp_path / "vectors", made.ids, [made.values[:3], made.values[3:]], 8, ORIGIN)
    assert (list(stored.ids), stored.origin) == (made.ids, ORIGIN)
    assert np.array_equal(stored.values, made.values)


@pytest.mark.parametrize("problem", ["missing", "rows", "kind", "numbers"])
def test_vectors_that_cannot_be_used_are_refused(tmp_path: Path, problem: str) -> None:
    claim(tmp_path, "work")
    folder, made = tmp_path / "vectors", vectors(4)
    save_vectors(folder, made.ids, [made.values], 8, ORIGIN)
    broken = {"rows": made.values[:3], "kind": made.values.astype(float), "numbers": np.full_like(made.values, np.nan)}
    if problem == "missing":
        (folder / "origin.json").unlink()
    else:
        np.save(folder / "values.npy", broken[problem])
    with pytest.raises(InputError):
        open_vectors(folder)


def test_an_item_has_one_vector(tmp_path: Path) -> None:
    claim(tmp_path, "work")
    with pytest.raises(InputError, match="twice"):
        save_vectors(tmp_path / "vectors", ["a", "a"], [vectors(2).values], 8, ORIGIN)
