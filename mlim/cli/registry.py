"""The registry: `mlim promote`, `rollback`, `compare`, `lineage`, `sbom`, `reproduce`."""

import json
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
from mlim.cli.session import Session, chosen_recipe
from mlim.console import Terminal, aligned
from mlim.errors import InputError, MlimError
from mlim.workspace import Workspace

app = typer.Typer()

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or an alias as `challenger`.")]


@app.command(epilog="Example: `mlim promote challenger --work build/demo`")
def promote(
    version: VersionArgument,
    force: Annotated[
        str | None, typer.Option(metavar="WHY", help="Promote whatever the policy says; WHY is recorded.")
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a registered version the champion, if the recipe's policy has nothing against it.

    What stood against it at registration (section `gate`) still counts. Then it and the present champion answer the
    work folder's test pairs, each with its own code, and section `promotion` says what it has to show: a higher PR-AUC,
    no category that falls, no slower answers.

    Exit code 0: it is the champion. 3: the policy says no, nothing has changed, and the reasons are listed. 1: a
    failure, for instance of a version whose files were changed. 2: wrong input.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    with session.loading():
        from mlim.steps.promote import promote as run_step

    found = run_step(session.recipe, session.workspace, session.terminal, version, force)
    session.show(found, f"{found['model']} version {found['version']}: {found['why']}")


@app.command(epilog="Example: `mlim rollback --why 'calls blue shirts a match'`")
def rollback(
    why: Annotated[str | None, typer.Option(metavar="WHY", help="Recorded with the version taken back.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Default: the champion before the present one.")
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the champion before this one the champion again: no training, no comparison, seconds.

    Running servers keep what they have loaded: start them again. The version that is taken back is marked, so that the
    next `mlim register` does not promote it again. Exit code 2: no earlier champion is known.
    """
    session = Session(recipe, set_, None, quiet, as_json)
    with session.loading():
        from mlim.steps.promote import roll_back

    found = roll_back(session.recipe, session.terminal, why, to)
    session.show(found, f"{found['model']}: champion is version {found['version']} again, not {found['before']}")


@app.command(epilog="Example: `mlim compare challenger champion --work build/demo`")
def compare(
    first: VersionArgument,
    second: VersionArgument = "champion",
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Two registered versions on the same test pairs: PR-AUC, decisions, calibration, time, every category.

    Each answers with the code that is stored beside it, in a process of its own. Test pairs with an item that one of
    them has learned from are left out. Changes nothing.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    with session.loading():
        from mlim.report.decision import category_rows, figure_rows, notes
        from mlim.steps.compare import compare_choices

    found = compare_choices(session.recipe, session.workspace, first, second)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2, sort_keys=True))
        return
    typer.echo("\n".join([aligned(figure_rows(found)), "", aligned(category_rows(found)), *notes(found)]))


@app.command(epilog="Example: `mlim lineage models:/mlim-matcher@champion`; `mlim lineage --item item-000017`")
def lineage(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/3. Default: the champion.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Which models were trained on this data version?")
    ] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="Which models saw this item?")] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where a registered version comes from, or which versions come from some data or an item.

    Of a version: commit, recipe, data version, manifest, source files, validation, runs, environment. With --data or
    --item: all versions of all models in the registry, and the runs that trained on the same data. A version of which
    no items were recorded is named as one that cannot be answered for.
    """
    if sum(each is not None for each in (model, data, item)) > 1:
        raise InputError("give a MODEL, --data or --item: one question at a time")
    tracking = chosen_recipe(recipe, set_).tracking
    from mlim.registry import referred
    from mlim.report.lineage import describe_data, describe_item, describe_version
    from mlim.steps.lineage import lineage_of, saw_item, trained_on

    if data is not None:
        found, lines = (answer := trained_on(tracking, data)), describe_data(answer)
    elif item is not None:
        found, lines = (answer := saw_item(tracking, item)), describe_item(answer)
    else:
        registry, choice = referred(tracking, model or tracking.model_name, "MODEL")
        found, lines = (answer := lineage_of(tracking, registry, registry.version_of(choice))), describe_version(answer)
    typer.echo(json.dumps(found, indent=2, sort_keys=True) if as_json else "\n".join(lines))


@app.command(epilog="Example: `mlim sbom models:/mlim-matcher/3 --out sbom.json`")
def sbom(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/3.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new file, or one of an earlier run.")],
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write what a registered version is made of, as a CycloneDX bill of materials (JSON) for scanners.

    The model with commit, recipe and the hash of its files, its data with their manifest, and every package that was
    installed when it was registered; what its code needs is marked as required. Needs `pip install 'mlim[sbom]'`.
    """
    tracking = chosen_recipe(recipe, set_).tracking
    from mlim.registry import referred
    from mlim.steps.lineage import lineage_of, write_bill

    registry, choice = referred(tracking, model, "MODEL")
    write_bill(lineage_of(tracking, registry, registry.version_of(choice)), out)
    Terminal(quiet).say(f"wrote {out}")


@app.command(epilog="Example: `mlim reproduce models:/mlim-matcher/3 --catalog catalog.yaml --work build/again`")
def reproduce(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/3.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for its results.")],
    catalog: CatalogOption = DEFAULT_CATALOG,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on with other code or data; what differs is reported.")
    ] = False,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a registered version again, from its own recipe, and compare every loss and figure with its runs.

    The commit that trained it has to be checked out without changes, and the catalog has to give the same items. Takes
    as long as the training did; nothing is tracked or registered. Exit code 0: everything is the same to the last bit.
    1: something differs, by as much as is printed (other processors round differently). 2: other code or data.
    """
    terminal = Terminal(quiet)
    tracking = chosen_recipe(recipe, set_).tracking
    from mlim.registry import referred
    from mlim.report.lineage import describe_reproduction
    from mlim.steps.reproduce import reproduce as run_step

    registry, choice = referred(tracking, model, "MODEL")
    found = run_step(tracking, registry, registry.version_of(choice), catalog, Workspace(work), terminal, anyway)
    typer.echo(json.dumps(found, indent=2, sort_keys=True) if as_json else "\n".join(describe_reproduction(found)))
    if not found["same"]:
        raise MlimError(f"{found['model']} version {found['version']}: the largest difference is {found['largest']:g}")
