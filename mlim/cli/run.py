"""Everything at once: `mlim run`."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from mlim.errors import InputError
from mlim.files import read_json
from mlim.workspace import Workspace

if TYPE_CHECKING:
    from mlim.recipe import Recipe

app = typer.Typer()


@app.command(epilog="Example: `mlim run --catalog catalog.yaml --recipe small`")
def run(
    catalog: CatalogOption = DEFAULT_CATALOG,
    start: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Reuse the results of all stages before this one.")
    ] = "ingest",
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    only: Annotated[
        Literal["main"] | None,
        typer.Option("--only", help="Train the recipe's main variant alone, by default in `build/<recipe>-main`."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages, from the catalog to the registry, as a Prefect flow (no server needed).

    If params.yaml and data/ describe this run, stages run through `dvc repro`, which skips what is up to date.
    The other variants of a recipe compare; `--only main` does without them, and is what a shop runs.
    """
    session = Session(recipe, [*(set_ or ()), *_main_alone(recipe, set_)] if only else set_, work, quiet, as_json)
    with session.step("run", tracked=False):  # whether the tracking server answers is one of the checks
        _check_before_work(session.recipe, catalog, session.workspace, start)
        session.terminal.say("starting the workflow engine (about ten seconds) ...")
        _run_pipeline(session, catalog, start)
        session.show(_outcome(session.workspace), _closing_words(session, catalog))


def _main_alone(recipe: str, set_: Sequence[str] | None) -> list[str]:
    """The settings that leave nothing but the main variant of a recipe, which gets a name of its own."""
    whole = chosen_recipe(recipe, set_)
    return [f"name={whole.name}-main", *(f"variants.{name}=null" for name in whole.variants if name != whole.main)]


def _outcome(workspace: Workspace) -> dict[str, Any]:
    """What was evaluated and registered; without pairs, what was compared."""
    from mlim.steps.pairless import has_pairs

    folders = {"evaluate": workspace.evaluation, "register": workspace.registration}
    shown = folders if has_pairs(workspace) else {"ablate": workspace.ablation}
    return {name: read_json(folder / "summary.json") for name, folder in shown.items()}


def _check_before_work(recipe: "Recipe", catalog: Path, workspace: Workspace, start: str) -> None:
    """Everything that can be known to be wrong before work starts, listed at once."""
    from mlim.steps.ingest import check_catalog
    from mlim.steps.plan import stages_from
    from mlim.tracking import check_server

    checks: Sequence[Callable[[], object]] = (
        lambda: stages_from(recipe, start, _may_match(catalog)),
        lambda: check_catalog(recipe, catalog, workspace),
        lambda: _check_stages(recipe, catalog, workspace),
        lambda: _check_start(recipe),
        lambda: _check_lite(recipe),
        lambda: check_server(recipe.tracking),
    )
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)


def _may_match(catalog: Path) -> bool:
    """Whether the catalog has pairs, as far as it can be read; another check says why it cannot."""
    from mlim.catalog.description import load_description

    try:
        return not load_description(catalog).pairs.none
    except InputError:
        return True


def _check_stages(recipe: "Recipe", catalog: Path, workspace: Workspace) -> None:
    """Where DVC owns these results it must know the stages as they are now."""
    from mlim.steps.pipeline import check_stages, pipeline_of

    if (pipeline := pipeline_of(recipe, catalog, workspace)) is not None:
        check_stages(Path(), pipeline)


def _check_start(recipe: "Recipe") -> None:
    if recipe.model.pretrained:  # torch takes seconds to load: not for a start that needs nothing
        from mlim.models.hub import find_start

        find_start(recipe.model.start)


def _check_lite(recipe: "Recipe") -> None:
    if recipe.reads_lite:
        from mlim.models.images.lite import lite_weights

        lite_weights()


def _run_pipeline(session: Session, catalog: Path, start: str) -> None:
    from flows.engine import engine
    from flows.job import QUIET_VARIABLE
    from mlim.writer import fix_recipe

    if session.terminal.quiet:
        os.environ[QUIET_VARIABLE] = "1"
    recipe = fix_recipe(session.workspace, session.recipe.record)
    with engine():
        from flows.pipeline import pipeline

        try:
            pipeline(recipe=str(recipe), catalog=str(catalog), work=str(session.workspace.root), start=start)
        except KeyboardInterrupt:
            session.terminal.say("stopped: the same command goes on with what is left")
            raise


def _closing_words(session: Session, catalog: Path) -> str:
    """The tables, the report, and what to type next."""
    from mlim.steps.pairless import has_pairs
    from mlim.steps.pipeline import pipeline_of
    from mlim.steps.task_tables import describe_tables, read_tables

    work, matches = session.workspace, has_pairs(session.workspace)
    known = shutil.which("mlim") == str(Path(sys.executable).parent / "mlim")
    activate = [] if known else [f"first:   . {shlex.quote(str(Path(sys.executable).parent / 'activate'))}"]
    pipeline = pipeline_of(session.recipe, catalog, work)
    options = ("--catalog", catalog, "--recipe", work.recipe, "--work", work.root)
    again = ("mlim", "run", *options) if pipeline is None else ("dvc", "repro", pipeline.file.as_posix())
    tasks = describe_tables(read_tables(session.recipe, work))
    return "\n".join(
        [
            *(["", session.results_table()] if matches else []),
            *(["", *tasks] if tasks else []),
            "",
            *(_registered(work) if matches else []),
            f"report:  {(work.report / 'index.html').resolve()}",
            *([f"matches: {(work.matches / 'matches.html').resolve()}"] if matches else []),
            *activate,
            f"runs:    mlim ui --recipe {shlex.quote(str(work.recipe))}",
            f"again:   {shlex.join(map(str, again))}",
        ]
    )


def _registered(workspace: Workspace) -> list[str]:
    """What was registered, and what stands against using it."""
    summary = read_json(workspace.registration / "summary.json")
    against = [f"         - {found['sentence']}" for found in summary.get("objections", ())]
    return [f"model:   {summary['model']} version {summary['version']}: {summary['why']}", *against]
