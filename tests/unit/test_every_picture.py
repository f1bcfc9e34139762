"""`columns.image.choose: all`: items with several pictures, of which pre-training sees another one in each epoch."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.description import CatalogDescription
from mlim.config import parse
from mlim.data.loader import BatchLoader
from mlim.data.looks import Rotation
from mlim.errors import InputError
from tests.small_catalog import described


def test_an_unknown_choice_is_refused():
    columns = {**described()["columns"], "image": {"column": "picture", "choose": "every"}}
    with pytest.raises(InputError, match="choose"):
        parse(CatalogDescription, described(columns=columns), "catalog.yaml")


counts = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def rotation(numbers, seed=0):
    return Rotation([str(item) for item in range(len(numbers))], lambda item: range(numbers[int(item)]), seed)


@settings(deadline=None)
@given(counts, st.integers(0, 2**31), st.integers(0, 30))
def test_every_picture_is_seen_once_before_any_is_seen_twice(numbers, seed, epoch):
    """Point 9: another picture in each epoch, as a pure function of (seed, epoch, item)."""
    looks = rotation(numbers, seed)
    for place, count in enumerate(numbers):
        turn = [looks.at(place, epoch + later) for later in range(count)]
        assert {look.item for look in turn} == {str(place)}
        assert sorted(look.picture for look in turn) == list(range(count))
        assert rotation(numbers, seed).at(place, epoch) == turn[0] == looks.at(place, epoch + count)


def test_items_begin_at_different_pictures_and_seeds_differ():
    first = [rotation([4] * 40).at(place, 0).picture for place in range(40)]
    assert set(first) == {0, 1, 2, 3}
    assert first != [rotation([4] * 40, 1).at(place, 0).picture for place in range(40)]


@settings(deadline=None)
@given(counts, st.integers(1, 5), st.integers(0, 9), st.integers(1, 3))
def test_batches_show_the_pictures_of_their_epoch_on_all_ranks_and_after_a_stop(numbers, size, done, ranks):
    """Point 9: batches straddle epochs; what is fetched ahead does not matter."""

    def loaders():
        share = {"world_size": ranks}
        return [BatchLoader(rotation(numbers), size, 0, list, rank=rank, **share) for rank in range(ranks)]

    def batches(sources, count):
        found = [list(itertools.islice(source, count)) for source in sources]
        for source in sources:
            source.close()
        return [[look for part in parts for look in part] for parts in zip(*found, strict=True)]

    through = batches(loaders(), done + 4)
    seen = [look for batch in through for look in batch]
    for start in range(0, len(seen), len(numbers)):
        for look in seen[start : start + len(numbers)]:
            assert look == rotation(numbers).at(int(look.item), start // len(numbers))
    stopped, resumed = loaders(), loaders()
    for before, after in zip(stopped, resumed, strict=True):
        list(itertools.islice(before, done))
        after.load_state_dict(before.state_dict())
        before.close()
    assert batches(resumed, 4) == through[done:]
