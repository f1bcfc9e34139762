"""What a person meets on the command line: clear errors, the right exit codes, help that teaches."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import typer

from mlim.cli.main import app
from tests.commands import call as mlim
from tests.small_catalog import SmallCatalog, small_catalog


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallCatalog:
    monkeypatch.chdir(tmp_path)
    return small_catalog(tmp_path / "shop", rows=12)


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, in the order of the help."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def test_every_command_has_help_with_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for words, _ in commands():
        assert mlim(monkeypatch, *words, "--help") == 0
        assert "Example:" in capsys.readouterr().out


def test_the_commands_and_options_that_people_have_scripts_for_are_there() -> None:
    """`command_line.txt` lists them; a command or an option that goes or gets another default is a break."""
    found = [" ".join([*words, *map(described, command.params)]) for words, command in commands()]
    assert found == (Path(__file__).parent / "command_line.txt").read_text(encoding="utf-8").splitlines()


def described(parameter: Any) -> str:
    """An argument by its name, an option as `--name=default`."""
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        return f"<{names}>" if parameter.required else f"[{names}]"
    return f"{names}!" if parameter.required else f"{names}={parameter.default}"


def test_init_keeps_a_file_that_exists(catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    written = catalog.write().read_text()
    assert mlim(monkeypatch, "init", str(catalog.folder / "catalog.csv")) == 2
    assert catalog.description.read_text() == written


def test_init_never_writes_over_the_table(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Point 19: `--force` is about an older catalog.yaml; the rows stay."""
    catalog.write()
    table = catalog.folder / "catalog.csv"
    before = table.read_bytes()
    Path("link.csv").symlink_to(table)
    for out in (str(table), "link.csv"):
        assert mlim(monkeypatch, "init", str(table), "--out", out, "--force") == 2
        assert "is the table itself" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_recipe_is_not_shown_onto_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its comments would be lost."""
    monkeypatch.chdir(tmp_path)
    own, other = Path("own.yaml"), Path("other.yaml")
    own.write_text("# why it is small\nextends: demo\nimage: {size: 64}\n")
    other.write_text("# old\n")
    Path("link.yaml").symlink_to(own)
    for out in (own, Path("link.yaml")):
        assert mlim(monkeypatch, "recipe", "show", str(own), "--out", str(out), "--force") == 2
        assert "is the recipe itself, whose comments would be lost" in capsys.readouterr().err
    assert own.read_text().startswith("# why")
    assert mlim(monkeypatch, "recipe", "show", str(own), "--out", str(other)) == 2
    assert mlim(monkeypatch, "recipe", "show", str(own), "--out", str(other), "--force") == 0
    assert "# own.yaml" in other.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ingest", "--recipe", "demmo"], "did you mean `demo`"),
        (["ingest", "--set", "imge.size=3"], "did you mean `image`"),
        (["ingest", "--set", "image.sise=3"], "did you mean `size`"),
        (["ingest", "--set", "seed=many"], "`seed`"),
        (["ingest", "--set", "image.size=65"], "image.grid 4 x the product 16"),
        (["ingest", "--catalog", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["pretrain", "recon-mlm-mum"], "did you mean `recon-mlm-mam`"),
        (["finetune", "no-mdoo"], "did you mean `no-mdo`"),
        (["evaluate"], "missing"),
        (["report", "--set", "device=abacus"], "`device`"),
        (["run", "--from", "finetunes", "--catalog", "catalog.yaml"], "catalog.yaml: cannot be read"),
        (["run", "--from", "finetunes", "--catalog", "catalog.yaml"], "did you mean `finetune`"),
        (["ingest", "--work", "/dev/null/x"], "--work /dev/null/x: results cannot be written there"),
        (["ingest", "--work", "x" * 300], "results cannot be written there (File name too long); choose another"),
        (["init", "."], ".: is a folder; name a table"),
        (["catalog", "show", "--out", "."], ".: is a folder; name a file"),
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


def test_a_server_that_is_away_is_one_sentence_and_exit_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So that who started the command can tell that it may succeed later, which bad input never does."""
    monkeypatch.chdir(tmp_path)
    assert mlim(monkeypatch, "pretrain", "--set", "tracking.uri=http://127.0.0.1:9") == 75
    captured = capsys.readouterr()
    assert "tracking server http://127.0.0.1:9 cannot be reached" in captured.err
    assert "Traceback" not in captured.err


def test_an_option_of_an_earlier_version_still_works_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mlim(monkeypatch, "ablate", "--grid", "tabel2", "--difference", "0.02") == 2
    reported = capsys.readouterr().err
    assert "warning: --grid is called --experiment now" in reported
    assert "--experiment tabel2: no such experiment (did you mean `table2`?)" in reported


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
    [message] = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert sentence in message
    assert {path.name for path in Path("build/demo").iterdir()} == {".mlim-folder", ".writer.lock"}


def test_broken_yaml_names_the_line(
    catalog: SmallCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    catalog.write()
    catalog.description.write_text("source: table\ncolumns: [\n")
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog.description)) == 2
    assert "line 3" in capsys.readouterr().err


def test_doctor_finds_an_unreachable_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert mlim(monkeypatch, "doctor", "--quick", "--set", "tracking.uri=http://127.0.0.1:9", "--json") == 1
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
    assert mlim(monkeypatch, "doctor", "--quick", "--set", "tracking.uri=none", "--json") == 0
    findings = {finding["subject"]: finding["detail"] for finding in json.loads(capsys.readouterr().out)}
    assert "import-run" in findings["MLflow"]
    assert mlim(monkeypatch, "doctor", "--quick", "--json") == 1
    missing = [finding["subject"] for finding in json.loads(capsys.readouterr().out) if not finding["fine"]]
    assert set(missing) >= {"mlflow", "prefect", "dvc"}
