"""The code that a step depends on: every module that it can come to import, and the files that these read."""

from pathlib import Path

import pytest

from mlim.errors import InputError
from mlim.steps.closure import Sources

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(ROOT)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `mlim` of a few modules that import each other in every way there is."""
    files = {
        "__init__.py": "",
        "step.py": "import mlim.direct\nfrom mlim.whole import part\n\ndef run():\n    from mlim import late\n",
        "direct.py": "from .whole.other import thing\n",
        "late.py": "from mlim import console\nPAGE = 'page.html'\n",
        "console.py": "import mlim.behind\n",
        "behind.py": "",
        "unused.py": "PAGE = 'other.html'\n",
        "page.html": "",
        "other.html": "",
        "whole/__init__.py": "import mlim.first\n",
        "whole/part.py": "",
        "whole/other.py": "thing = 1\n",
        "whole/values.yaml": "",
        "first.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "mlim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_of_every_kind_are_followed(package: Path) -> None:
    """Point 14: inside functions, relative, of a package's own module, and of the data that modules name."""
    found = Sources(package).closure(["mlim.step"])
    assert found == [
        *("mlim/direct.py", "mlim/first.py", "mlim/late.py"),
        *("mlim/page.html", "mlim/step.py", "mlim/whole"),
    ]


def test_the_report_reads_results_and_needs_no_network(sources: Sources) -> None:
    found = sources.closure(["mlim.steps.report"])
    assert not [name for name in found if name.startswith(("mlim/models", "mlim/tasks", "mlim/training"))]


def test_a_folder_that_is_not_whole_is_named_by_its_files(package: Path) -> None:
    (package / "mlim" / "whole" / "more.py").write_text("")
    found = Sources(package).closure(["mlim.step"])
    assert [name for name in found if "whole" in name] == [
        f"mlim/whole/{name}" for name in ("__init__.py", "other.py", "part.py", "values.yaml")
    ]


def test_code_without_effect_counts_where_it_is_asked_for(package: Path) -> None:
    found = Sources(package).closure(["mlim.step", "mlim.console"])
    assert {"mlim/console.py", "mlim/behind.py"} <= set(found)


def test_a_folder_without_the_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="go to the project's folder"):
        Sources(tmp_path)


def test_a_file_that_is_no_python_is_named(package: Path) -> None:
    (package / "mlim" / "broken.py").write_text("def\n")
    with pytest.raises(InputError, match=r"broken\.py, line 1"):
        Sources(package)


def test_what_an_editor_leaves_is_no_code(package: Path) -> None:
    before = Sources(package).closure(["mlim.step"])
    (package / "mlim" / "whole" / ".part.py.swp").write_text("")
    assert Sources(package).closure(["mlim.step"]) == before


@pytest.mark.parametrize(
    ("step", "file"),
    [
        ("finetune", "mlim/masking.py"),
        ("finetune", "mlim/losses.py"),
        ("pretrain", "mlim/shards/items.py"),
        ("probe", "mlim/models/transformer.py"),
        ("probe", "mlim/data/collate.py"),
        ("register", "mlim/serving.py"),
        ("register", "mlim/registry.py"),
        ("report", "mlim/report/report.html"),
        ("report", "mlim/experiments"),
        ("pairs", "great_expectations/expectations"),
    ],
)
def test_what_was_once_forgotten(sources: Sources, step: str, file: str) -> None:
    """Point 14: a change of any of these left the result as it was."""
    found = sources.closure([f"mlim.steps.{step}"])
    assert {file, *map(str, Path(file).parents)}.intersection(found)


@pytest.mark.parametrize("name", ["console", "errors", "tracking"])
def test_what_only_says_or_records_makes_nothing_stale(sources: Sources, name: str) -> None:
    assert f"mlim/{name}.py" not in sources.closure(["mlim.steps.pretrain"])


def test_the_page_of_the_report_does_not_train_anything(sources: Sources) -> None:
    for step in ("pretrain", "finetune", "evaluate", "probe"):
        assert not [name for name in sources.closure([f"mlim.steps.{step}"]) if name.endswith((".html", ".css"))]
