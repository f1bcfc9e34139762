"""Commands that make something, in one process: what they print, leave, reject and keep."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlim.recipe import load_recipe
from mlim.workspace import Workspace
from mlim.writer import TOKENS, Holder, content_sha256, locked
from tests.commands import call as mlim
from tests.small_catalog import SmallCatalog, small_catalog

pytestmark = pytest.mark.integration


LARGEST_FILE = 8_000  # bytes: more than a recipe, less than the shard of a small catalog


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: Callable[[Path], str]) -> SmallCatalog:
    """A small catalog in the current folder, with a store of runs where a command looks for one."""
    monkeypatch.chdir(tmp_path)
    new_store(tmp_path / "mlflow.db")
    return small_catalog(tmp_path / "shop", rows=12)


def test_init_then_ingest_is_all_a_new_catalog_needs(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    catalog.write()
    table = str(catalog.folder / "catalog.csv")
    assert mlim(monkeypatch, "init", table, "--force") == 0
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.description), "--json", "--quiet") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["ingested"] == len(catalog.rows)


def test_quiet_is_silent_and_otherwise_something_is_said_first(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["ingest", "--catalog", str(catalog.write())]
    assert mlim(monkeypatch, *words, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert mlim(monkeypatch, *words) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ingest: recipe demo, results in build/demo")


def test_the_resolved_recipe_lies_beside_the_results(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["ingest", "--catalog", str(catalog.write()), "--set", "image.jpeg_quality=71", "--work", "out", "--quiet"]
    assert mlim(monkeypatch, *words) == 0
    assert "jpeg_quality: 71" in Path("out/recipe.yaml").read_text()


@pytest.mark.parametrize("command", ["ablate", "evaluate", "report"])
def test_what_judges_several_trainings_takes_a_number_of_seeds(
    command: str, catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlim(monkeypatch, command, "--seeds", "2", "--work", "w") == 2  # nothing is trained there
    holder = Holder.model_validate_json(Path("w/.writer.lock").read_bytes())
    assert holder.recipe == content_sha256(load_recipe("demo", ["seeds=[0, 1]"]).record)


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("command", ["ingest", "pairs", "pretrain", "report", "run", "catalog show"])
@pytest.mark.parametrize("name", ["items/holiday.jpg", "notes.txt", "recipe.yaml", ".hidden/x"])
def test_a_work_folder_that_is_not_ours_is_refused_and_left_as_it_is(
    command: str, name: str, catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Point 19: whatever lies in `--work`, an `items/` above all, stays when mlim did not put it there."""
    own = Path("mine") / name
    own.parent.mkdir(parents=True)
    own.write_text("a: year of work")
    catalog.write()
    before = everything_in(Path())
    words = [
        *command.split(),
        *(["--catalog", str(catalog.description)] if command not in ("pretrain", "report") else []),
    ]
    assert mlim(monkeypatch, *words, "--work", "mine", "--quiet") == 2
    [message] = [line for line in capsys.readouterr().err.splitlines() if line]
    assert message.startswith("error: --work mine: holds something that mlim did not make (" + name.partition("/")[0])
    assert "touch mine/.mlim-folder" in message
    assert everything_in(Path()) == before


def test_a_work_folder_is_used_again_and_one_of_an_earlier_version_after_a_touch(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point 19: the marker is all it takes; a folder of the data keeps it through the next drawing."""
    words = ["ingest", "--catalog", str(catalog.write()), "--work", "w", "--quiet"]
    assert [mlim(monkeypatch, *words) for _ in range(2)] == [0, 0]
    Path("w/.mlim-folder").unlink()
    assert mlim(monkeypatch, *words) == 2
    Path("w/.mlim-folder").touch()
    assert mlim(monkeypatch, *words) == 0


@pytest.mark.parametrize("command", ["ingest", "pairs", "pretrain", "report", "run"])
def test_a_second_command_is_refused_and_changes_nothing(
    command: str, catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Point 20: one writer per work folder; the recipe of the first one stays."""
    described = str(catalog.write())
    words = ["--catalog", described] if command not in ("pretrain", "report") else []
    first = load_recipe("demo", ["pairs.test_share=0.2"])
    assert mlim(monkeypatch, "ingest", "--catalog", described, "--work", "w", "--quiet") == 0
    with locked(Workspace(Path("w")), first.record, "mlim run"):
        monkeypatch.delenv(TOKENS)  # as in another terminal
        before = everything_in(Path())
        assert mlim(monkeypatch, command, *words, "--set", "pairs.test_share=0.4", "--work", "w", "--quiet") == 1
        [message] = capsys.readouterr().err.splitlines()
        assert message.startswith("error: --work w: `mlim run` (process ")
        assert everything_in(Path()) == before


def test_refused_inputs_leave_the_record_of_what_was_made(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point 20: recipe.yaml says what the results were made with, not what was asked for last."""
    ingest = ["ingest", "--catalog", str(catalog.write()), "--work", "w", "--quiet", "--set"]
    assert mlim(monkeypatch, *ingest, "image.jpeg_quality=71") == 0
    assert mlim(monkeypatch, "pairs", *ingest[1:], "image.jpeg_quality=72") == 2  # nothing is validated yet
    assert load_recipe("w/recipe.yaml").image.jpeg_quality == 71
    assert mlim(monkeypatch, *ingest, "image.jpeg_quality=73") == 0
    assert load_recipe("w/recipe.yaml").image.jpeg_quality == 73


def test_every_row_quarantined_is_bad_input_and_leaves_no_items(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for path in catalog.images.iterdir():
        path.unlink()
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.write()), "--quiet") == 2
    [message, *_] = capsys.readouterr().err.splitlines()
    assert "12 of 12 rows (100.0%) were quarantined" in message
    assert not Path("build/demo/items").exists()


def test_a_disk_that_takes_no_more_is_one_sentence_and_exit_1(catalog: SmallCatalog) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlim", "ingest", "--catalog", str(catalog.write()), "--quiet"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [message] = done.stderr.splitlines()
    assert message.startswith("error: ")
    assert "make room on the disk" in message
    assert sorted(path.name for path in Path("build/demo").iterdir()) == [
        ".mlim-folder",
        ".writer.lock",
        "recipe.yaml",
        "shards",
    ]
    assert list(Path("build/demo/shards").iterdir()) == []


def test_catalog_show_says_what_it_holds(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["catalog", "show", "--catalog", str(catalog.write()), "--out", "sheet.html"]
    assert mlim(monkeypatch, *words) == 0
    assert "12 rows" in capsys.readouterr().out
    assert "<html" in Path("sheet.html").read_text()


def test_catalog_show_writes_over_its_own_pages_alone(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Point 19: a page of somebody's at `--out` stays; one that mlim made before is made anew."""
    words = ["catalog", "show", "--catalog", str(catalog.write()), "--items", "1", "--out"]
    Path("mine.html").write_text("<!doctype html><title>Our shop</title>")
    assert mlim(monkeypatch, *words, "mine.html") == 2
    assert "mine.html: is there already and mlim did not make it" in capsys.readouterr().err
    assert Path("mine.html").read_text() == "<!doctype html><title>Our shop</title>"
    assert [mlim(monkeypatch, *words, "sheet.html") for _ in range(2)] == [0, 0]
