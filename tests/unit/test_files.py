"""Results on disk: all of them or nothing, and never in the place of what is not mlim's own."""

import csv
import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.files import (
    MARKER,
    atomic_file,
    atomic_folder,
    claim,
    is_ours,
    link_or_copy,
    read_csv,
    remove_folder,
    restore_folder,
    write_csv,
)

DEAD = 2**22 + 1  # no process has this number: the kernel's limit is 2**22


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of mlim's own."""
    claim(tmp_path / "own", "--work own")
    return tmp_path / "own"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Somebody's folder, with a file in a folder."""
    (tmp_path / "precious" / "items").mkdir(parents=True)
    (tmp_path / "precious" / "items" / "a.jpg").write_text("mine")
    return tmp_path / "precious"


def replace(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "new").write_text("new")


def test_only_what_is_there_and_ours_is_replaced(own: Path, precious: Path) -> None:
    """Point 19: a folder without the marker, or one above it, is refused before anything is written."""
    for _ in range(2):
        replace(own / "items")
        replace(precious / "absent" if not (precious / "absent").exists() else own / "other")
    before = sorted(precious.rglob("*"))
    with pytest.raises(InputError, match="which mlim did not make"):
        replace(precious / "items")
    with pytest.raises(InputError, match="which mlim did not make"):
        remove_folder(precious / "items")
    assert sorted(precious.rglob("*")) == before
    assert sorted(path.name for path in own.iterdir()) == [MARKER, "items", "other"]


def test_a_link_is_replaced_or_removed_and_what_it_leads_to_stays(own: Path, precious: Path) -> None:
    """Point 19: a linked folder inside a work folder is never followed out and deleted."""
    for change in (replace, remove_folder):
        (own / "items").symlink_to(precious / "items")
        change(own / "items")
        assert not (own / "items").is_symlink()
        assert (precious / "items" / "a.jpg").read_text() == "mine"
        remove_folder(own / "items")
    assert [path.name for path in own.iterdir()] == [MARKER]


def test_a_marker_that_is_a_link_marks_nothing(own: Path, precious: Path, tmp_path: Path) -> None:
    """Point 19: the marker of another folder says nothing about this one."""
    (precious / MARKER).symlink_to(own / MARKER)
    assert not is_ours(precious / "year")
    with pytest.raises(InputError, match=r"its \.mlim-folder is a link"):
        claim(precious, "--work precious")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match="No such file or directory"):
        claim(tmp_path / "nowhere", "--work nowhere")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("way", ["link/items", "../precious/items"])
def test_a_way_that_leads_out_of_our_folder_is_refused(own: Path, precious: Path, way: str) -> None:
    """Point 19: where a folder really lies decides, not how its path begins."""
    (own / "link").symlink_to(precious)
    for change in (replace, remove_folder):
        with pytest.raises(InputError, match="which mlim did not make"):
            change(own / way)
    assert (precious / "items" / "a.jpg").read_text() == "mine"


def test_leftovers_of_a_dead_process_go_and_what_only_looks_like_one_stays(own: Path, precious: Path) -> None:
    """Point 19: the name alone does not make a temporary folder or file ours."""
    for folder in (own, precious):
        for name in (f".results.{DEAD}.tmp", f".results.{DEAD}.old", f".results.{os.getppid()}.tmp"):
            (folder / name).mkdir()
        for name in (f".t.csv.{DEAD}.tmp", f".t.csv.{os.getppid()}.tmp", f".other.csv.{DEAD}.tmp", ".t.csv.notes.tmp"):
            (folder / name).write_text("half")
        replace(folder / "results")
        write_csv(folder / "t.csv", [], ["id"])
    stays = {f".results.{os.getppid()}.tmp", f".t.csv.{os.getppid()}.tmp", f".other.csv.{DEAD}.tmp", ".t.csv.notes.tmp"}
    assert {path.name for path in own.iterdir()} == {MARKER, "results", "t.csv", *stays}
    assert len(list(precious.iterdir())) == 10


def test_a_folder_is_claimed_when_it_holds_nothing_of_anybodys(tmp_path: Path) -> None:
    """Point 19: what systems put into empty folders does not count, nor what the caller knows."""
    for name in ("lost+found", ".gitignore", "known"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"--work x: holds something that mlim did not make \(known\)"):
        claim(tmp_path, "--work x")
    assert not is_ours(tmp_path / "known")
    claim(tmp_path, "--work x", known=["known"])
    assert is_ours(tmp_path / "known" / "deeper")


FORMULAS = ("=1+1", "+49", "-5", "@SUM(A1)", "\t=1", "\rx", "\nx", " =1", "\u00a0-1", "'=1")
FULL_WIDTH = ("\uff1d1", "\uff0b1", "\uff0d1", "\uff201")


@pytest.mark.parametrize("text", [*FORMULAS, *FULL_WIDTH, "''=1"])
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str, tmp_path: Path) -> None:
    """Point 24: a text that a spreadsheet would compute is led by an apostrophe, and read as it was written."""
    write_csv(tmp_path / "t.csv", [{"id": text, "score": 0.5}], ["id", "score"])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as source:
        [_, (cell, _)] = csv.reader(source)
    assert cell == f"'{text}"
    assert read_csv(tmp_path / "t.csv") == [{"id": text, "score": "0.5"}]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_comes_back_from_a_table(text: str) -> None:
    """Point 24: nothing that a catalog writes is changed by the way through a file."""
    with TemporaryDirectory() as folder:
        write_csv(Path(folder) / "t.csv", [{"id": text, "other": "x"}], ["id", "other"])
        assert read_csv(Path(folder) / "t.csv") == [{"id": text, "other": "x"}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,b\n1,2\n3\n", "the row that ends in line 3 has not as many cells as the header"),
        (b"a,b\n1,2,3\n", "the row that ends in line 2 has not as many cells as the header"),
        ("a,b\n1,2\n".encode("utf-16"), "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_table_that_something_else_has_written_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"t\.csv: {said}"):
        read_csv(tmp_path / "t.csv")


def test_the_mark_that_a_spreadsheet_writes_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8-sig")
    assert read_csv(tmp_path / "t.csv") == [{"a": "1", "b": "2"}]


def test_numbers_stay_numbers_and_what_is_missing_empty(tmp_path: Path) -> None:
    """Point 24: a negative figure is no formula."""
    write_csv(tmp_path / "t.csv", [{"a": -0.12, "b": -3, "c": None}, {"a": float("nan"), "b": True}], ["a", "b", "c"])
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n-0.12,-3,\n,True,\n"


def full(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file")


def test_a_full_disk_is_reported_with_the_result_that_it_did_not_take(tmp_path: Path) -> None:
    """Arrow says `Error writing bytes to file` and not to which one."""
    (tmp_path / "pairs.parquet").write_text("before")
    with pytest.raises(OSError, match=r"No space left on device: .*pairs\.parquet") as caught:
        full(tmp_path / "pairs.parquet")
    assert caught.value.errno == errno.ENOSPC
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"pairs.parquet": "before"}


def test_stopped_between_two_renames_the_earlier_result_stays(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = own / "results"
    replace(results)
    before = sorted(path.name for path in results.iterdir())
    rename = Path.replace

    def stopped(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt), atomic_folder(results) as made:
            (made / "new").touch()
    assert sorted(path.name for path in results.iterdir()) == before
    assert {path.name for path in own.iterdir()} == {MARKER, "results"}


def test_killed_between_two_renames_the_next_command_brings_the_earlier_result_back(own: Path) -> None:
    """Even one that makes nothing itself."""
    replace(own / "results")
    (own / "results").rename(own / f".results.{DEAD}.old")
    with pytest.raises(ZeroDivisionError), atomic_folder(own / "results"):
        raise ZeroDivisionError
    assert {path.name for path in own.iterdir()} == {MARKER, "results"}
    assert any((own / "results").iterdir())


def test_killed_between_two_renames_a_reader_brings_the_earlier_result_back(own: Path) -> None:
    replace(own / "results")
    (own / "results").rename(own / f".results.{DEAD}.old")
    (own / f".results.{DEAD}.tmp").mkdir()
    restore_folder(own / "results")
    assert [path.name for path in (own / "results").iterdir()] == ["new"]
    restore_folder(own / "results")  # it is there
    restore_folder(own / "absent" / "results")  # nothing is
    assert {path.name for path in own.iterdir()} == {MARKER, "results", f".results.{DEAD}.tmp"}


def test_what_a_process_that_is_alive_is_replacing_is_left_to_it(own: Path, precious: Path) -> None:
    """And what only looks like a leftover stays where it is."""
    (own / f".results.{os.getppid()}.old").mkdir()
    (precious / f".results.{DEAD}.old").mkdir()
    for folder in (own, precious):
        restore_folder(folder / "results")
        assert not (folder / "results").exists()


def test_a_later_result_is_not_replaced_by_the_earlier_one(own: Path) -> None:
    replace(own / "results")
    (own / f".results.{DEAD}.old").mkdir()
    restore_folder(own / "results")
    assert [path.name for path in (own / "results").iterdir()] == ["new"]


def test_an_earlier_result_that_cannot_be_renamed_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / f".results.{DEAD}.old").mkdir()

    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(InputError, match=rf"was left as \.results\.{DEAD}\.old .*Permission denied.*; rename it"):
        restore_folder(own / "results")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_a_second_name_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """File systems of some networks and sticks have no hard links."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    link_or_copy(source, target)
    assert target.read_bytes() == b"content"
    assert target.samefile(source) is links


def _no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")
