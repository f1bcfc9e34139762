"""Pages that mkdocs makes from what lies elsewhere: files at the top, the command line, the keys of a recipe."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from typer.cli import get_docs_for_click

from mlim.cli.main import app
from mlim.recipe import Recipe

ROOT = Path(__file__).parents[1]
FILE = re.compile(r"<!-- file: (\S+) -->")
TOP_LINK = re.compile(r"\]\((CHANGELOG|CONTRIBUTING)\.md")
COMMANDS, KEYS = "<!-- commands -->", "<!-- keys -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its marks replaced by what they name."""
    markdown = FILE.sub(lambda mark: top_file(mark[1]), markdown)
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_line())
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, "\n".join(["| key | type | what |", "|---|---|---|", *rows(Recipe)]))
    return markdown


def top_file(name: str) -> str:
    """A file at the top of the project, with its links as they are in docs/."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return TOP_LINK.sub(lambda link: link[0].lower(), text)


def command_line() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="mlim"), name="mlim")


def rows(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """One line of a table for each key of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"| **`{prefix}{name}`** | | {(inner.__doc__ or '').splitlines()[0]} |"
            yield from rows(inner, f"{prefix}{name}.")
        else:
            description = (field.description or "").replace("|", "\\|")
            yield f"| `{prefix}{name}` | {kind(inner)} | {description} |"


def kind(annotation: Any) -> str:
    """A type as short as it can be said."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(parts[0])
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(kind, parts))
    if origin is not None:
        return f"{origin.__name__} of {', '.join(kind(part) for part in parts if part is not ...)}"
    return "null" if annotation in (None, NoneType) else getattr(annotation, "__name__", str(annotation))
