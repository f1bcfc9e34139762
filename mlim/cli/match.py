"""From a whole catalog to groups of matching items: `mlim candidates`, `group`."""

from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import (
    DEFAULT_CATALOG,
    CatalogOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SetOption,
    WorkOption,
)
from mlim.cli.session import Session

app = typer.Typer()


@app.command(epilog="Example: `mlim candidates --catalog catalog.yaml --vectors embedding=build/demo/embeddings`")
def candidates(
    catalog: CatalogOption = DEFAULT_CATALOG,
    vectors: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Vectors of the items to search too; may be given more than once."),
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the pairs of the whole catalog that are worth scoring, by rules and by nearest neighbours."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("candidates", tracked=False):
        with session.loading():
            from mlim.steps.candidates import find_candidates

        summary = find_candidates(session.recipe, catalog, session.workspace, session.terminal, vectors or ())
        session.show(summary, f"wrote {session.workspace.candidates}")


@app.command(epilog="Example: `mlim group --scores scores.csv --threshold 0.9`")
def group(
    catalog: CatalogOption = DEFAULT_CATALOG,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pairs with scores, .parquet or .csv. Default: those of `mlim match`."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="From which score on a pair matches. Default: that of `mlim evaluate`."),
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make groups of matching items from scored pairs, within the hard rules of the catalog."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("group", tracked=False):
        with session.loading():
            from mlim.steps.group import group_items

        summary = group_items(session.recipe, catalog, session.workspace, session.terminal, scores, threshold)
        session.show(summary, f"wrote {session.workspace.groups}")
