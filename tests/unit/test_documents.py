"""Documentation that works: Python blocks run, commands parse, every block says its language."""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from PIL import Image

import mlim
from mlim.cli.main import app
from mlim.data.tokenize import TextTokenizer
from mlim.models.config import MlimConfig
from mlim.models.mlim import Mlim
from mlim.workspace import Workspace
from tests.unit.test_loading import build

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<path>[^)#\s]+)(?:#[^)]*)?\)")
SHELL = ("sh", "console")
COMMAND = typer.main.get_command(app)
UsageError = typer.BadParameter.__mro__[1]


class Snippet(NamedTuple):
    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def snippets() -> list[Snippet]:
    return [
        Snippet(page, text[: found.start()].count("\n") + 1, found["language"], found["code"], found["reason"])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for found in BLOCK.finditer(text)
    ]


def runnable() -> list[Snippet]:
    return [one for one in snippets() if one.language == "python" and one.reason is None]


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of mlim in the documents, with where it stands."""
    found = []
    for snippet in snippets():
        if snippet.language in SHELL:
            for line in snippet.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:3] == ["python", "-m", "mlim"]:
                    words = words[2:]
                if words[:1] == ["mlim"]:
                    found.append((f"{snippet.page.name}:{snippet.line}", words[1:]))
    return found


def parse(words: list[str]) -> None:
    """Parse a command line down to its last command, without running it; `UsageError` when it is wrong."""
    command, context = COMMAND, None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, list(words), parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    """`mkdocs build --quiet` passed with links that lead nowhere."""
    found = [link["path"] for link in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [path for path in found if not (page.parent / path).exists()] == []


def test_every_block_says_its_language():
    assert [f"{one.page.name}:{one.line}" for one in snippets() if not one.language] == []


@pytest.mark.parametrize(("where", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_one(where, words):
    try:
        parse(words)
    except typer.Exit:  # --help
        return
    except UsageError as error:
        pytest.fail(f"{where}: mlim {shlex.join(words)}: {error.format_message()}")


def test_a_wrong_command_is_noticed():
    with pytest.raises(UsageError, match="No such option"):
        parse(["pairs", "--recipe", "demo", "--seed", "0"])
    with pytest.raises(UsageError, match="No such command"):
        parse(["catalog", "draw"])


@pytest.fixture
def room(tiny_recipe, own_workspace, tmp_path, monkeypatch):
    """A folder as the documents assume it: images, a work folder, and a small random model as the registered one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (32, 32), (80 * number, 120, 40)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "build").mkdir()
    demo = Workspace(own_workspace.root.rename(tmp_path / "build" / "demo"))
    tokenizer = TextTokenizer.learn(["kind: shirt, colour: red"], 64)
    network = Mlim.random(MlimConfig.from_recipe(tiny_recipe.network, tokenizer.vocabulary_size), seed=0)
    network.save_pretrained(demo.pretrained("recon-mlm-mam", 0) / "model")
    tokenizer.save(demo.pretrained("recon-mlm-mam", 0) / "model")
    load, model = mlim.load, build(tiny_recipe, "separate")
    monkeypatch.setattr(mlim, "load", lambda where, **how: load(where, **how) if Path(where).is_dir() else model)


def run(page: Path) -> dict[str, Any]:
    """The names that the Python blocks of a page leave, run from its top to its end."""
    names: dict[str, Any] = {"__name__": "__snippet__"}
    for one in (one for one in runnable() if one.page == page):
        exec(compile("\n" * one.line + one.code, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", sorted({one.page for one in runnable()}), ids=lambda page: page.name)
def test_python_blocks_run(page, room):
    run(page)


def test_the_loss_and_the_embedder_of_the_documents_train(room):
    names = run(ROOT / "docs" / "extending.md")
    colour = [losses["colour"] for losses in names["history"]]
    assert sum(colour[-5:]) < sum(colour[:5]) / 2
    sum(one.term.total for one in names["output"].terms).backward()
    assert names["network"].backbone.image_embedder.project.weight.grad.abs().sum() > 0
