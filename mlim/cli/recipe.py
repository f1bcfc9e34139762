"""`mlim recipe`: which recipes there are, and what one says in the end."""

from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import SetOption
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_file

app = typer.Typer(no_args_is_help=True, help="List recipes, and show every value of one.")


@app.command("list", epilog="Example: `mlim recipe list`, then `mlim recipe show small`")
def list_recipes() -> None:
    """List the recipes that come with mlim.

    A recipe determines everything about a result. Your own is a YAML file that extends one of these and contains what
    differs: `extends: small`, then for example `image: {size: 96, grid: 6}`. Use it with `--recipe FILE`.
    """
    from mlim.recipe import recipe_names, recipe_purpose

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        typer.echo(f"{name:<{width}}  {recipe_purpose(name)}")


@app.command(epilog="Example: `mlim recipe show small --explain`, or `mlim recipe show mine.yaml --set image.size=96`")
def show(
    recipe: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A name (`mlim recipe list`) or a YAML file.")],
    set_: SetOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add the meaning of each key.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file instead of the terminal.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Show every value of a recipe as YAML, with a comment that names its origin.

    The origin is `default`, a recipe (by name or file), or `--set`; the last one wins. The output is itself a complete
    recipe: write it to a file to keep it unchanged when defaults change. A file never replaces itself: its own comments
    would be lost.
    """
    if out is not None and out.exists():
        _check_overwritable(out, recipe, force)
    from mlim.recipe import resolve
    from mlim.recipe.shown import show_recipe

    resolved, terminal = resolve(recipe, set_ or []), Terminal()
    for note in resolved.notes:
        terminal.warn(note)
    text = show_recipe(resolved, explain)
    if out is None:
        typer.echo(text, nl=False)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    terminal.say(f"wrote {out}")


def _check_overwritable(out: Path, recipe: str, force: bool) -> None:
    """`InputError` for a file without `force`, and for the recipe itself, whose comments are not carried over."""
    if not force:
        raise InputError(f"{out} exists already; choose another --out or add --force")
    if Path(recipe).exists() and out.samefile(recipe):
        raise InputError(
            f"--out {out}: is the recipe itself, whose comments would be lost; write to another file, move "
            f"there what you want to keep of {recipe}, and rename it"
        )
