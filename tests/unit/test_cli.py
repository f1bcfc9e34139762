"""What a person meets on the command line: clear errors, the right exit codes, help that teaches."""

import json
import sys
from pathlib import Path

import pytest

from mlim import cli
from tests.small_catalog import SmallCatalog, small_catalog


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
    for command in cli.app.registered_commands:
        assert mlim(monkeypatch, str(command.name or command.callback.__name__), "--help") == 0
        assert "Example:" in capsys.readouterr().out


def test_init_then_ingest_is_all_a_new_catalog_needs(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    catalog.write()
    table = str(catalog.folder / "catalog.csv")
    assert mlim(monkeypatch, "init", table, "--force") == 0
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.description), "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["ingested"] == len(catalog.rows)


def test_init_keeps_a_file_that_exists(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    written = catalog.write().read_text()
    assert mlim(monkeypatch, "init", str(catalog.folder / "catalog.csv")) == 2
    assert catalog.description.read_text() == written


def test_the_resolved_recipe_lies_beside_the_results(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["ingest", "--catalog", str(catalog.write()), "--set", "image.jpeg_quality=71", "--work", "out", "--quiet"]
    assert mlim(monkeypatch, *words) == 0
    assert "jpeg_quality: 71" in Path("out/recipe.yaml").read_text()


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
    words = ["catalog", "show", "--catalog", str(catalog.write()), "--sheet", "sheet.png"]
    assert mlim(monkeypatch, *words) == 0
    assert "12 rows" in capsys.readouterr().out
    assert Path("sheet.png").stat().st_size > 0


def test_doctor_finds_an_unreachable_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert mlim(monkeypatch, "doctor", "--set", "tracking.uri=http://127.0.0.1:9", "--json") == 1
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["MLflow"]["fine"]
    assert findings["torch"]["fine"]
