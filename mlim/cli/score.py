"""Applying a model to a catalog: `mlim score`, `match`, `explain`, `complete`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlim.cli.options import (
    DEFAULT_CATALOG,
    CatalogOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    WorkOption,
)
from mlim.cli.session import Session, chosen_recipe
from mlim.console import Terminal, printable
from mlim.files import check_replaceable

if TYPE_CHECKING:  # torch takes seconds to load
    from mlim.loading import CatalogModel
    from mlim.recipe.base import Modality

app = typer.Typer()

ModelOption = Annotated[
    str, typer.Option(metavar="WHERE", help="models:/NAME@ALIAS, models:/NAME/3, a work folder or a saved model.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that compute. Default: as many as it is worth; one with a GPU."),
]


@app.command(epilog="Example: `mlim score --pairs pairs.csv --work build/demo --out scores.csv`")
def score(
    pairs: Annotated[
        Path, typer.Option(metavar="FILE", help="A table (CSV, TSV, JSON lines, Parquet) with item_a and item_b.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The same table with scores, as .parquet or .csv.")],
    model: ModelOption = "models:/mlim-matcher@champion",
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ingest and validate this catalog.yaml first, if need be.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(metavar="both|text|image", help="What is read. Default: what the model is judged on.")
    ] = None,
    workers: WorkersOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score the pairs of a table: one row out for each row in, with the reason where a pair cannot be scored.

    A run that was stopped goes on where it was when the same command is run again.
    """
    loaded = open_model(model, recipe, set_, Terminal(quiet))
    from mlim.steps.score import check_request, prepare_items, prepared_for, score_pairs

    session = Session(recipe, set_, work, quiet, as_json)
    prepared, shown = prepared_for(session.recipe, loaded.settings), cast("Modality | None", modality)
    with session.step("score", tracked=False, recorded=False):
        check_request(loaded, pairs, out, shown, force=force)
        if catalog is not None:
            prepare_items(prepared, catalog, session.workspace, session.terminal)
        summary = score_pairs(
            loaded,
            pairs,
            out,
            prepared,
            session.workspace,
            session.terminal,
            modality=shown,
            workers=workers,
            force=force,
        )
        session.show(summary, f"wrote {out}")


def open_model(where: str, recipe: str, set_: Sequence[str] | None, terminal: Terminal) -> "CatalogModel":
    """The model at `where`, in the registry that the recipe names."""
    tracking = chosen_recipe(recipe, set_).tracking
    terminal.say(f"loading the model {where} ...")
    from mlim.loading import load

    return load(where, tracking_uri=tracking.uri)


@app.command(epilog="Example: `mlim match --catalog catalog.yaml --out matches`")
def match(
    catalog: CatalogOption = DEFAULT_CATALOG,
    model: ModelOption = "models:/mlim-matcher@champion",
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one of an earlier run.")] = Path("matches"),
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Promise this precision with 95 % confidence. Default: the model's threshold."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Promise this recall of the known matches instead.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An earlier match of this catalog: score and group only what differs."),
    ] = None,
    full_if_changed: Annotated[
        bool,
        typer.Option(
            "--full-if-changed", help="Match everything where --since is missing or of another model or settings."
        ),
    ] = False,
    workers: WorkersOption = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Your catalog in, matches out: candidates, scores, groups, tables for a spreadsheet, and a page.

    A catalog that the work folder does not have yet is ingested and validated first, with --since any catalog. A run
    that was stopped goes on where it was.
    """
    from mlim.evaluation.promise import asked_promise

    promise = asked_promise(precision, recall)
    loaded = open_model(model, recipe, set_, Terminal(quiet))
    from mlim.steps.match import match as run_step
    from mlim.steps.score import prepared_for

    session = Session(recipe, set_, work, quiet, as_json)
    prepared = prepared_for(session.recipe, loaded.settings)
    with session.step("match", recorded=False, catalog=catalog):
        summary = run_step(
            loaded,
            model,
            catalog,
            out,
            prepared,
            session.workspace,
            session.terminal,
            promise=promise,
            since=since,
            full_if_changed=full_if_changed,
            workers=workers,
            gate=loaded.gate,
            tracked=session.recipe.record,
        )
        session.show(summary, f"wrote {out}: open {out / 'matches.html'}")


@app.command(epilog="Example: `mlim explain ITEM_A ITEM_B --work build/demo --out explanation.html`")
def explain(
    first: Annotated[str, typer.Argument(metavar="A", help="The id of an item of the work folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The id of another one.")],
    model: ModelOption = "models:/mlim-matcher@champion",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page (HTML) as well.")] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Why two items match or not: what texts, columns and pictures contribute, and what would have to change.

    The nearest labelled pairs are named where the work folder has labelled pairs.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    from mlim.report.explanation.page import SIGN

    if out is not None:
        check_replaceable(out, SIGN)
    loaded = open_model(model, recipe, set_, session.terminal)
    from mlim.report.explanation.page import write_page
    from mlim.report.explanation.sentences import describe
    from mlim.steps.explain import explain_pair

    found = explain_pair(loaded, model, first, second, session.recipe, session.workspace)
    typer.echo(json.dumps(found.summary, indent=2) if as_json else "\n".join(map(printable, describe(found))))
    if out is not None:
        write_page(found, out)
        session.terminal.say(f"wrote {out}")


@app.command(epilog="Example: `mlim complete --attribute colour --work build/demo`")
def complete(
    attribute: Annotated[str, typer.Option(metavar="COLUMN", help="A text column of the catalog.")],
    top: Annotated[int, typer.Option(min=1, help="Values proposed for each item, the likeliest first.")] = 3,
    sigmas: Annotated[
        float, typer.Option(min=0, help="A written value contradicts so many standard deviations below the usual.")
    ] = 3.0,
    below: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="P", help="It contradicts with a lower probability instead.")
    ] = None,
    pretraining: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the main variant's pre-training.")
    ] = None,
    seed: SeedOption = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What is missing from an attribute, by text and picture; and which written values contradict them.

    A pre-trained model proposes values with calibrated probabilities, and is judged on held-back cells.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("complete", recorded=False):
        with session.loading():
            from mlim.steps.complete import complete as run_step
            from mlim.steps.complete import folder_name

        summary = run_step(
            session.recipe,
            session.workspace,
            session.terminal,
            attribute,
            pretraining=pretraining,
            seed=seed,
            top=top,
            sigmas=sigmas,
            below=below,
        )
        session.show(summary, f"wrote {session.workspace.completions / folder_name(attribute)}")
