"""The earlier match that a match follows: found also where a process was killed while it replaced the folder."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import claim, mark, write_json
from mlim.matching.earlier import ItemChanges
from mlim.steps.since import FORMAT, ITEMS_FILE, PAIRS_FILE, SETTINGS, SUMMARY_FILE, compare_with, open_last

DEAD = 2**22 + 1  # no process has this number: the kernel's limit is 2**22
QUIET = Terminal(quiet=True)


@pytest.fixture
def matches(tmp_path: Path) -> Path:
    """A folder as a match leaves it, as far as it is looked at."""
    folder = tmp_path / "matches"
    claim(folder, "--out matches")
    for name in (ITEMS_FILE, PAIRS_FILE, "groups.parquet"):
        (folder / name).touch()
    write_json(folder / SUMMARY_FILE, {"format": FORMAT, SETTINGS: {}, "data_version": "1"})
    return folder


@pytest.mark.parametrize("full_if_changed", [False, True])
def test_a_match_that_was_killed_between_two_renames_is_followed(matches: Path, full_if_changed: bool) -> None:
    """Groups got new ids for good: the night after read that there was no match."""
    matches.rename(matches.with_name(f".matches.{DEAD}.old"))
    unfinished = matches.with_name(f".matches.{DEAD}.tmp")
    unfinished.mkdir()
    mark(unfinished)
    found = open_last(matches, {}, full_if_changed, QUIET)
    assert found is not None
    assert (found.folder, found.data_version) == (matches, "1")
    assert (matches / SUMMARY_FILE).is_file()


def test_a_match_of_the_format_before_keeps_the_ids_of_groups(matches: Path) -> None:
    """Its items were named by something else, so that all pairs are scored; no item is said to have changed."""
    write_json(matches / SUMMARY_FILE, {"format": 1, SETTINGS: {}, "data_version": "1"})
    with pytest.raises(InputError, match=r"another format of matches \(1, now 2\).*--full-if-changed"):
        open_last(matches, {}, False, QUIET)
    found = open_last(matches, {}, True, QUIET)
    assert found is not None
    assert found.anew == "another format of matches"
    before = pd.DataFrame({"id": ["a", "b"], "content": ["1", "2"], "described": ["", ""]})
    before.to_parquet(matches / ITEMS_FILE, index=False)
    pd.DataFrame({"item": ["a", "b"], "group": ["g", "g"]}).to_parquet(matches / "groups.parquet", index=False)
    pairs = {"item_a": ["a"], "item_b": ["b"], "score": [0.9], "probability": [0.9]}
    pd.DataFrame(pairs).to_parquet(matches / PAIRS_FILE, index=False)
    now = pa.table({"id": ["a", "c"], "content": ["x", "y"], "ruled": ["x", "y"]})
    earlier = compare_with(found, now)
    assert earlier.groups == {"a": "g", "b": "g"}
    assert earlier.changes == ItemChanges(["c"], [], ["b"], frozenset("ac"))


def test_a_folder_without_a_match_is_none(tmp_path: Path) -> None:
    assert open_last(tmp_path / "absent" / "matches", {}, True, QUIET) is None
    with pytest.raises(InputError, match="holds no matches"):
        open_last(tmp_path / "absent" / "matches", {}, False, QUIET)
