"""The index of vectors: exact neighbours, what it keeps on disk, and that an update equals a new index."""

import shutil
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.files import claim, write_json
from mlim.matching import index as index_module
from mlim.matching import nearest as nearest_module
from mlim.matching import neighbour_lists
from mlim.matching.index import IndexSettings, VectorIndex, _Cells, cells_for
from mlim.matching.nearest import LEVELS, Nearest, _levels, floats, places_of
from mlim.matching.picture_vectors import picture_vectors
from mlim.matching.vectors import Vectors, open_vectors, save_vectors

ORIGIN = "model:0123456789abcdef"
EXACT = IndexSettings()
CELLS = IndexSettings(exact_below=50, probes=4)
FEW_IN_CELLS = IndexSettings(exact_below=10, probes=3)  # so that 30 items have 16 cells


def vectors(count: int, seed: int = 0, dimensions: int = 8, origin: str = ORIGIN) -> Vectors:
    values = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float16)
    return Vectors([f"item-{number:04d}" for number in range(count)], values, origin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    claim(tmp_path, "work")
    return tmp_path / "index"


def found(index: VectorIndex, asked: Vectors, k: int) -> set[tuple[str, str, int]]:
    return {
        (asked.ids[first], asked.ids[second], int(rank))
        for near in index.neighbours(asked.ids, k)
        for first, second, rank in zip(near.first, near.second, near.rank, strict=True)
    }


def plain(asked: Vectors, k: int) -> set[tuple[str, str, int]]:
    """Every vector compared with every other; of equally similar ones the first by place."""
    held = asked.rows(0, len(asked.ids)).astype(np.float16).astype(np.float32)
    cosine = np.round(held @ held.T, 5)
    np.fill_diagonal(cosine, 0)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    rows, ranks = np.nonzero(np.take_along_axis(cosine, order, 1) > 0)
    return {(asked.ids[row], asked.ids[order[row, rank]], int(rank) + 1) for row, rank in zip(rows, ranks, strict=True)}


def clustered(count: int, dimensions: int = 16, family: int = 5) -> Vectors:
    """Families of equal size, each around a middle of its own."""
    generator = np.random.default_rng(3)
    middles = generator.normal(size=(-(-count // family), dimensions))
    values = np.repeat(middles, family, axis=0)[:count] + 0.2 * generator.normal(size=(count, dimensions))
    return Vectors([f"item-{number:05d}" for number in range(count)], values.astype(np.float16), ORIGIN)


@pytest.mark.parametrize("alike", [1, 5])
def test_a_small_catalog_is_compared_exactly(folder: Path, alike: int) -> None:
    asked = vectors(60)
    asked = Vectors(asked.ids, np.repeat(asked.values, alike, axis=0)[:60], ORIGIN)
    assert found(VectorIndex.build(folder, asked, EXACT), asked, 5) == plain(asked, 5)


def test_all_cells_searched_is_every_vector_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "QUERIES_AT_ONCE", 70)
    asked = vectors(300)
    index = VectorIndex.build(folder, asked, IndexSettings(exact_below=50, probes=300))
    assert found(index, asked, 4) == plain(asked, 4)


def test_few_cells_hold_most_of_the_nearest(folder: Path) -> None:
    """4 of 128 cells are searched; the four others of a family are the nearest."""
    asked = clustered(2000)
    index = VectorIndex.build(folder, asked, IndexSettings(exact_below=50, probes=4))
    nearest = plain(asked, 4)
    assert len(found(index, asked, 4) & nearest) >= 0.98 * len(nearest)


def test_memory_holds_a_block_and_not_the_vectors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (
        (index_module, "QUERIES_AT_ONCE"),
        (index_module, "ROWS_AT_ONCE"),
        (nearest_module, "ROWS_AT_ONCE"),
    ):
        monkeypatch.setattr(place, name, 256)
    monkeypatch.setattr(nearest_module, "KEYS_AT_ONCE", 1 << 15)
    asked = clustered(8000, dimensions=512)  # 8 MB
    index = VectorIndex.build(folder, asked, IndexSettings(exact_below=50, probes=2))
    tracemalloc.start()
    try:
        for _ in index.neighbours(asked.ids, 4):
            pass
        assert tracemalloc.get_traced_memory()[1] < asked.values.nbytes / 2
    finally:
        tracemalloc.stop()


def test_only_similar_items_are_neighbours(folder: Path) -> None:
    asked = Vectors(["a", "b", "empty"], np.array([[1, 0], [-1, 0], [0, 0]], dtype=np.float16), ORIGIN)
    assert found(VectorIndex.build(folder, asked, EXACT), asked, 2) == set()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_items_have_hardly_any_neighbours(folder: Path, count: int) -> None:
    asked = Vectors(["a", "b"][:count], np.ones((count, 4), dtype=np.float16), ORIGIN)
    assert len(found(VectorIndex.build(folder, asked, EXACT), asked, 3)) == count * (count - 1)


def test_items_that_are_all_alike_have_k_neighbours_each(folder: Path) -> None:
    asked = Vectors([f"{number:02d}" for number in range(40)], np.ones((40, 4), dtype=np.float16), ORIGIN)
    assert found(VectorIndex.build(folder, asked, EXACT), asked, 3) == plain(asked, 3)


@pytest.mark.parametrize("how", [EXACT, CELLS])
def test_an_index_comes_back_from_disk(folder: Path, how: IndexSettings) -> None:
    asked = vectors(200)
    made = VectorIndex.build(folder, asked, how)
    assert found(VectorIndex(folder, ORIGIN, how), asked, 4) == found(made, asked, 4)


def test_an_index_of_another_model_is_refused(folder: Path) -> None:
    VectorIndex.build(folder, vectors(5), EXACT)
    with pytest.raises(InputError, match="another model"):
        VectorIndex(folder, "model:fedcba9876543210", EXACT)


@pytest.mark.parametrize("name", ["values.npy", "edges.npy", "items.parquet"])
def test_a_damaged_index_is_refused_in_one_sentence(folder: Path, name: str) -> None:
    VectorIndex.build(folder, vectors(5), EXACT)
    (folder / name).write_bytes(b"no index")
    with pytest.raises(InputError, match="delete the folder"):
        VectorIndex(folder, ORIGIN, EXACT)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 29)), st.sets(st.integers(0, 29)), st.integers(0, 5))
def test_an_updated_index_finds_what_a_new_one_finds(removed: set[int], changed: set[int], added: int) -> None:
    before = vectors(30)
    values = np.where(np.isin(np.arange(30), list(changed))[:, None], vectors(30, seed=1).values, before.values)
    kept = [number for number in range(30) if number not in removed]
    more = vectors(added, seed=2)
    ids = [*(before.ids[number] for number in kept), *(f"new-{number}" for number in range(added))]
    after = Vectors(ids, np.concatenate([values[kept], more.values]), ORIGIN)
    with TemporaryDirectory() as work:
        claim(Path(work), "work")
        index = VectorIndex.build(Path(work) / "index", before, EXACT)
        assert index.update(after) == (added, len(removed), len(changed - removed))
        assert found(index, after, 4) == plain(after, 4)


def test_cells_that_were_updated_find_what_they_would_find_as_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = vectors(200), vectors(260)
    values = np.concatenate([vectors(20, seed=1).values, after.values[20:]])
    after = Vectors(after.ids[10:], values[10:], ORIGIN)
    index = VectorIndex.build(folder, before, CELLS)
    monkeypatch.setattr(index_module, "_centroids", lambda *_: np.load(folder / "centroids.npy"))
    assert index.update(after) == (60, 10, 10)
    fresh = VectorIndex.build(folder.with_name("fresh"), after, CELLS)
    assert found(index, after, 4) == found(fresh, after, 4)


EDITS = st.tuples(st.sets(st.integers(0, 59), max_size=12), st.sets(st.integers(0, 59), max_size=12), st.integers(1, 4))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(EDITS, min_size=1, max_size=4),
    st.sampled_from([EXACT, FEW_IN_CELLS]),
    st.booleans(),
    st.sampled_from([1, 3, 70]),
)
def test_a_search_that_goes_on_finds_what_a_search_of_everything_finds(
    nights: list[tuple[set[int], set[int], int]], how: IndexSettings, alike: bool, k: int
) -> None:
    """Items go, come and change their vectors night after night, so that neighbours fall out of lists and into them.

    Lists keep one neighbour too many at most, so that some are searched anew; with `alike` many are equally near.
    """
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as work:
        patch.setattr(neighbour_lists, "LEAST_SPARE", 1)
        folder = Path(work) / "index"
        claim(folder.parent, "work")
        there = dict.fromkeys(range(0, 60, 2), 0)
        index = VectorIndex.build(folder, drawn(there, alike), how)
        found(index, drawn(there, alike), k)
        for removed, touched, seed in nights:
            there = {item: of for item, of in {**there, **dict.fromkeys(touched, seed)}.items() if item not in removed}
            asked = drawn(there, alike)
            index = VectorIndex(folder, ORIGIN, how)
            index.update(asked)
            goes_on = found(index, asked, k)
            shutil.rmtree(folder / index_module.LISTS)
            assert goes_on == found(index, asked, k)
            if how is EXACT:
                assert goes_on == plain(asked, k)


def drawn(items: dict[int, int], alike: bool) -> Vectors:
    """Vectors of items by number, each drawn from a seed of its own; few different ones where items are `alike`."""
    ordered = sorted(items)
    seeds = [[number % 5 if alike else number, items[number]] for number in ordered]
    values = [np.random.default_rng(seed).normal(size=8) for seed in seeds]
    ids = [f"item-{number:04d}" for number in ordered]
    return Vectors(ids, np.array(values, dtype=np.float16).reshape(len(ids), 8), ORIGIN)


@pytest.mark.parametrize("how", [EXACT, CELLS])
def test_a_search_that_goes_on_compares_what_differs(
    folder: Path, how: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item of 400 is new and one is gone: the others keep their lists, which held more than was asked for.

    They keep the cells that they look into, too: only the new one is compared with the middles of cells.
    """
    before, after = drawn(dict.fromkeys(range(400), 0), False), drawn(dict.fromkeys(range(1, 401), 0), False)
    index = VectorIndex.build(folder, before, how)
    compared = []
    products = Nearest.compare
    monkeypatch.setattr(
        Nearest,
        "compare",
        lambda self, rows, queries, held, places: (
            compared.append(len(rows) * len(held)),
            products(self, rows, queries, held, places),
        ),
    )
    found(index, before, 4)
    everything, compared[:] = sum(compared), []
    index.update(after)
    looking = []
    nearest = _Cells.nearest
    monkeypatch.setattr(
        _Cells, "nearest", lambda self, asked, count: (looking.append(len(asked)), nearest(self, asked, count))[1]
    )
    assert len(found(index, after, 4)) == 1600
    assert 0 < sum(compared) <= 2 * 400 < everything
    assert looking == ([] if how is EXACT else [1])


def test_an_item_whose_vector_changed_looks_into_the_cells_near_to_the_new_one(folder: Path) -> None:
    """Two items of families that are far apart change places; they ask for more than their own cells hold."""
    before = clustered(400)
    values = before.values.copy()
    values[[0, 399]] = before.values[[399, 0]]
    after = Vectors(before.ids, values, ORIGIN)
    index = VectorIndex.build(folder, before, CELLS)
    looked = found(index, before, 20)
    index.update(after)
    goes_on = found(index, after, 20)
    shutil.rmtree(folder / index_module.LISTS)
    assert goes_on == found(index, after, 20)
    names = {before.ids[0]: before.ids[399], before.ids[399]: before.ids[0]}
    swapped = {(names.get(first, first), names.get(second, second), rank) for first, second, rank in looked}
    assert goes_on == swapped


def test_a_search_leaves_the_kept_cells_as_they_are(folder: Path) -> None:
    """One byte each for up to 255 cells; those of items that stay are the same after an update."""
    before = clustered(400)
    after = Vectors([*before.ids, "new"], np.concatenate([before.values, before.values[:1]]), ORIGIN)
    index = VectorIndex.build(folder, before, CELLS)
    found(index, before, 4)
    cells = np.load(folder / index_module.LISTS / "cells.npy")
    assert (cells.dtype, cells.shape) == (np.uint8, (400, 4))
    index.update(after)
    found(index, after, 4)
    assert np.array_equal(np.load(folder / index_module.LISTS / "cells.npy"), np.concatenate([cells, cells[:1]]))


def test_no_lists_outlast_the_cells_that_they_looked_into(folder: Path) -> None:
    asked = vectors(200)
    found(VectorIndex.build(folder, asked, CELLS), asked, 4)
    assert (folder / index_module.LISTS).is_dir()
    VectorIndex.build(folder, asked, CELLS)
    assert not (folder / index_module.LISTS).exists()


def test_lists_that_looked_into_fewer_cells_are_made_again(folder: Path) -> None:
    asked = vectors(200)
    found(VectorIndex.build(folder, asked, CELLS), asked, 4)
    more = VectorIndex(folder, ORIGIN, IndexSettings(exact_below=50, probes=100))
    assert found(more, asked, 4) == plain(asked, 4)


@pytest.mark.parametrize("how", [EXACT, CELLS])
@pytest.mark.parametrize("name", ["keys.npy", "cells.npy"])
def test_lists_that_cannot_be_used_are_made_again(folder: Path, how: IndexSettings, name: str) -> None:
    asked = vectors(100)
    index = VectorIndex.build(folder, asked, how)
    expected = found(index, asked, 3)
    (folder / index_module.LISTS / name).write_bytes(b"")
    assert found(index, asked, 3) == expected
    (folder / index_module.LISTS / name).unlink()
    assert found(index, asked, 3) == expected
    backwards = Vectors(asked.ids[::-1], asked.values[::-1], ORIGIN)  # equally similar ones change places
    assert found(index, backwards, 3) == expected


def test_lists_of_an_earlier_format_are_made_again(folder: Path) -> None:
    """The first one had no cells."""
    asked = vectors(100)
    index = VectorIndex.build(folder, asked, CELLS)
    expected = found(index, asked, 3)
    lists = folder / index_module.LISTS
    (lists / "cells.npy").unlink()
    write_json(lists / "lists.json", {"format": 1, "probes": CELLS.probes})
    assert found(index, asked, 3) == expected
    assert (lists / "cells.npy").is_file()


def test_an_index_that_began_small_is_outgrown_like_any_other(folder: Path) -> None:
    """It stayed one cell, in which every vector is compared, at any size."""
    index = VectorIndex.build(folder, vectors(CELLS.exact_below - 10), CELLS)
    for count, outgrown in ((CELLS.exact_below, False), (CELLS.exact_below + 1, True)):
        index.update(vectors(count))
        assert index.outgrown is outgrown
    index = VectorIndex.build(folder, vectors(CELLS.exact_below + 1), CELLS)
    assert not index.outgrown
    for count, outgrown in ((4 * (CELLS.exact_below + 1), False), (4 * (CELLS.exact_below + 1) + 1, True)):
        index.update(vectors(count))
        assert index.outgrown is outgrown


@pytest.mark.parametrize("exact_below", [1, 2, 7, 50])
def test_a_new_index_is_never_outgrown(folder: Path, exact_below: int) -> None:
    how = IndexSettings(exact_below=exact_below, probes=2)
    for count in (0, 1, 8, exact_below, exact_below + 1, 120):
        assert not VectorIndex.build(folder, vectors(count), how).outgrown


def test_an_opened_index_takes_updates(folder: Path) -> None:
    VectorIndex.build(folder, vectors(100), CELLS)
    index = VectorIndex(folder, ORIGIN, CELLS)
    fewer = Vectors(vectors(100).ids[1:], vectors(100).values[1:], ORIGIN)
    assert index.update(fewer) == (0, 1, 0)
    again = VectorIndex(folder, ORIGIN, CELLS)
    assert again.update(fewer) == (0, 0, 0)
    assert found(again, fewer, 3) == found(index, fewer, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_the_nearest_are_those_of_a_sort_of_all(rows: int, columns: int, kept: int, seed: int) -> None:
    """Similarities of one decimal, so that many are equal; brought in in parts."""
    scores = np.random.default_rng(seed).integers(-3, 10, size=(rows, columns)) / np.float32(10)
    places = np.random.default_rng(seed).permutation(columns)
    collected = Nearest(rows, kept)
    for part in np.array_split(np.arange(columns), 3):
        collected.compare(np.arange(rows), scores, np.eye(columns, dtype=np.float32)[part], places[part])
    expected = [
        (row, int(places[at]), float(scores[row, at]))
        for row in range(rows)
        for at in np.lexsort((places, -scores[row]))[:kept]
        if scores[row, at] > 0
    ]
    rows_found, keys = collected.found()
    assert [*zip(rows_found.tolist(), places_of(keys).tolist(), strict=True)] == [both[:2] for both in expected]
    assert (_levels(keys) / LEVELS).tolist() == pytest.approx([score for *_, score in expected])


def test_every_finite_half_is_the_same_number_as_float() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    assert np.array_equal(floats(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))


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
