"""What a person meets on the command line: clear errors, the right exit codes, help that teaches."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mlim import cli
from mlim.recipe import load_recipe
from tests.small_catalog import SmallCatalog, small_catalog

LARGEST_FILE = 8_000  # bytes: more than a recipe, less than the shard of a small catalog


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallCatalog:
    monkeypatch.chdir(tmp_path)
    return small_catalog(tmp_path / "shop", rows=12)


def mlim(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the command `mlim WORDS`."""
    monkeypatch.setattr(sys, "argv", ["mlim", *words])
    try:
        return cli.main()
    except SystemExit as done:
        return int(done.code or 0)


def test_every_command_has_help_with_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for group, app in (([], cli.app), (["catalog"], cli.catalog_app)):
        for command in app.registered_commands:
            assert mlim(monkeypatch, *group, str(command.name or command.callback.__name__), "--help") == 0
            assert "Example:" in capsys.readouterr().out


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


def test_init_keeps_a_file_that_exists(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    written = catalog.write().read_text()
    assert mlim(monkeypatch, "init", str(catalog.folder / "catalog.csv")) == 2
    assert catalog.description.read_text() == written


def test_the_resolved_recipe_lies_beside_the_results(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["ingest", "--catalog", str(catalog.write()), "--set", "image.jpeg_quality=71", "--work", "out", "--quiet"]
    assert mlim(monkeypatch, *words) == 0
    assert "jpeg_quality: 71" in Path("out/recipe.yaml").read_text()


@pytest.mark.parametrize("command", ["ablate", "evaluate", "report"])
def test_what_judges_several_trainings_takes_a_number_of_seeds(
    command: str, catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlim(monkeypatch, command, "--seeds", "2", "--work", "w") == 2  # nothing is trained there
    assert load_recipe("w/recipe.yaml").seeds == (0, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ingest", "--recipe", "demmo"], "did you mean `demo`"),
        (["ingest", "--set", "imge.size=3"], "did you mean `image`"),
        (["ingest", "--set", "image.sise=3"], "did you mean `size`"),
        (["ingest", "--set", "seed=many"], "`seed`"),
        (["ingest", "--set", "image.size=65"], "image.grid 4 x the product 16"),
        (["ingest", "--catalog", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["pretrain", "--set", "tracking.uri=http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["pretrain", "recon-mlm-mum"], "did you mean `recon-mlm-mam`"),
        (["finetune", "no-mdoo"], "did you mean `no-mdo`"),
        (["evaluate"], "missing"),
        (["report", "--set", "device=abacus"], "`device`"),
        (["run", "--from", "finetunes", "--catalog", "catalog.yaml"], "catalog.yaml: cannot be read"),
        (["run", "--from", "finetunes", "--catalog", "catalog.yaml"], "did you mean `finetune`"),
        (["ingest", "--work", "/dev/null/x"], "--work /dev/null/x: results cannot be written there"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mlim(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_all_problems_are_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--catalog", "nowhere.yaml", "--set", "tracking.uri=http://127.0.0.1:9"]
    assert mlim(monkeypatch, *words) == 2
    errors = capsys.readouterr().err
    assert "nowhere.yaml" in errors
    assert "127.0.0.1:9" in errors
    assert not Path("build/demo/items").exists()


def without_table(catalog: SmallCatalog) -> Path:
    return catalog.write(table="katalog.csv")


def without_column(catalog: SmallCatalog) -> Path:
    return catalog.write(columns={"id": "skuu", "image": "picture", "family": "product", "text": ["title"]})


def without_rows(catalog: SmallCatalog) -> Path:
    catalog.rows.clear()
    return catalog.write()


def of_one_family(catalog: SmallCatalog) -> Path:
    for row in catalog.rows:
        row["product"] = "p"
    return catalog.write()


def of_wrong_type(catalog: SmallCatalog) -> Path:
    return catalog.write(pairs={"decided_by": ["pattern"], "max_family_size": "many"})


def without_pairs(catalog: SmallCatalog) -> Path:
    return catalog.write(pairs={})


def paired(*lines: str) -> Callable[[SmallCatalog], Path]:
    """A catalog with labelled pairs."""

    def write(catalog: SmallCatalog) -> Path:
        (catalog.folder / "mine.csv").write_text("\n".join(["item_a,item_b,label", *lines]), encoding="utf-8")
        return catalog.write(pairs={"labelled": "mine.csv"})

    return write


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_table, "katalog.csv: no such table"),
        (without_column, "no column `skuu` (did you mean `sku`?)"),
        (without_rows, "the source has no rows"),
        (of_one_family, "the family column `product` holds only one family"),
        (of_wrong_type, "`pairs.max_family_size`"),
        (without_pairs, "nothing tells which items make pairs"),
        (paired("000,001,1", "000,nobody,0"), "row 2: item_b `nobody` is no item of the catalog"),
        (paired("000,001,2"), "row 1: label `2` is neither 1 (match) nor 0 (mismatch)"),
    ],
)
def test_a_bad_catalog_ends_a_run_before_any_work(
    spoil: Callable[[SmallCatalog], Path],
    sentence: str,
    catalog: SmallCatalog,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert mlim(monkeypatch, "run", "--catalog", str(spoil(catalog)), "--quiet") == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ")
    assert sentence in told
    assert [path.name for path in Path("build/demo").iterdir()] == ["recipe.yaml"]


def test_every_row_quarantined_is_bad_input_and_leaves_no_items(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for path in catalog.images.iterdir():
        path.unlink()
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.write()), "--quiet") == 2
    [told] = capsys.readouterr().err.splitlines()
    assert "12 of 12 rows (100.0%) were quarantined" in told
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
    [told] = done.stderr.splitlines()
    assert told.startswith("error: ")
    assert "make room on the disk" in told
    assert sorted(path.name for path in Path("build/demo").iterdir()) == [".ingest.lock", "recipe.yaml", "shards"]
    assert list(Path("build/demo/shards").iterdir()) == []


def test_broken_yaml_names_the_line(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    catalog.write()
    catalog.description.write_text("source: table\ncolumns: [\n")
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.description)) == 2
    assert "line 3" in capsys.readouterr().err


def test_catalog_show_says_what_it_holds(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["catalog", "show", "--catalog", str(catalog.write()), "--out", "sheet.html"]
    assert mlim(monkeypatch, *words) == 0
    assert "12 rows" in capsys.readouterr().out
    assert "<html" in Path("sheet.html").read_text()


def test_doctor_finds_an_unreachable_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert mlim(monkeypatch, "doctor", "--set", "tracking.uri=http://127.0.0.1:9", "--json") == 1
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["MLflow"]["fine"]
    assert findings["torch"]["fine"]


def test_doctor_asks_a_machine_that_only_trains_for_what_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    def nothing_tracks(name: str) -> str:
        if name in {"mlflow", "prefect", "fastapi", "dvc", "great-expectations"}:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("mlim.doctor.version", nothing_tracks)
    monkeypatch.chdir(tmp_path)
    assert mlim(monkeypatch, "doctor", "--set", "tracking.uri=none", "--json") == 0
    findings = {finding["subject"]: finding["detail"] for finding in json.loads(capsys.readouterr().out)}
    assert "import-run" in findings["MLflow"]
    assert mlim(monkeypatch, "doctor", "--json") == 1
    missing = [finding["subject"] for finding in json.loads(capsys.readouterr().out) if not finding["fine"]]
    assert set(missing) >= {"mlflow", "prefect", "dvc"}
