"""The project around the steps: `mlim pipeline`, `import-run`, `ui`, `results`, `doctor`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import JsonOption, QuietOption, RecipeOption, SetOption
from mlim.cli.session import chosen_recipe
from mlim.console import Terminal
from mlim.errors import MlimError

app = typer.Typer()


@app.command(epilog="Example: `mlim pipeline --write` after a change of imports, or of the variants in params.yaml")
def pipeline(
    write: Annotated[bool, typer.Option("--write", help="Write dvc.yaml.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if dvc.yaml is out of date.")] = False,
) -> None:
    """Generate dvc.yaml: every stage with the data, code and settings that it depends on. Prints it by default.

    Run it in the project's folder; the recipe is params.yaml. --write and --check include pipelines/systems.
    """
    from mlim.steps.pipeline import check_pipelines, pipeline_yaml, write_pipelines

    root = Path()
    if write:
        Terminal().say(f"wrote {', '.join(map(str, write_pipelines(root)))}")
    elif check:
        check_pipelines(root)
    else:
        typer.echo(pipeline_yaml(root), nl=False)


@app.command("import-run", epilog="Example: `mlim import-run build/gpu`, copied from a machine without MLflow")
def import_run(
    folder: Annotated[Path, typer.Argument(help="A work folder, or the folder of one training inside it.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="tracking.KEY=VALUE", help="Where to record: tracking.uri, tracking.experiment."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record trainings in MLflow that ran with `tracking.uri: none`, and complete runs whose server was away.

    Trainings that are recorded already are skipped. The folder's recipe.yaml defines what was trained; you define where
    it is recorded: `--set tracking.uri=...`, else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current folder.
    """
    terminal = Terminal(quiet)
    terminal.say(f"import-run: {folder}; loading ...")
    from mlim.steps.import_run import chosen_tracking
    from mlim.steps.import_run import import_run as run_step

    summary = run_step(folder, chosen_tracking(set_ or []), terminal)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        return
    new, known, completed = (len(summary[name]) for name in ("imported", "known", "completed"))
    said = [f"{new} recorded" if new else "", f"{completed} completed" if completed else ""]
    done = [each for each in said if each] or ["nothing to do"]
    there = [f"{known} recorded there already"] if known else []
    terminal.say(f"{summary['store']}: {', '.join([*done, *there])}")


@app.command(
    "copy-runs", epilog="Example: `mlim copy-runs mlflow.db postgresql://USER:PASSWORD@HOST/DATABASE --served`"
)
def copy_runs(
    store: Annotated[Path, typer.Argument(metavar="FILE", help="The sqlite file with the runs, as mlflow.db.")],
    target: Annotated[
        str,
        typer.Argument(metavar="ADDRESS", help="The database of a tracking server, new: `mlflow db upgrade ADDRESS`."),
    ],
    served: Annotated[
        bool,
        typer.Option("--served", help="The server hands out the artifacts beside FILE (--artifacts-destination)."),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy all runs, metrics and models from a sqlite file into the database of a tracking server.

    Everything is copied, or nothing. FILE is only read, and nobody should write to it meanwhile. Artifacts stay where
    they are: with --served their addresses become those of the server, which is started with `mlflow server
    --backend-store-uri ADDRESS --artifacts-destination FOLDER`, FOLDER being `mlruns` beside FILE.
    """
    from mlim.store_copy import copy_store

    copied = copy_store(store, target, served)
    if as_json:
        typer.echo(json.dumps(copied, indent=2, sort_keys=True))
    runs, versions = copied.get("runs", 0), copied.get("model_versions", 0)
    Terminal(quiet).say(f"{runs} runs and {versions} versions of models copied from {store}")


@app.command(epilog="Example: `mlim ui`, then open http://127.0.0.1:5000 in a browser")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On loopback.")] = 5000,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
) -> None:
    """Open MLflow's pages of runs and models on this machine, protected from other sites' pages.

    If the recipe names a tracking server, open that server's pages instead.
    """
    from mlim.tracking import serve_pages

    serve_pages(chosen_recipe(recipe, set_).tracking, port)


@app.command(epilog="Example: `mlim results --out docs/results.md`")
def results(
    out: Annotated[Path, typer.Option(help="Markdown file whose marked block is rewritten.")] = Path("docs/results.md"),
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
) -> None:
    """Write the results of the tracked runs into a document.

    Results of other recipes and catalogs in the document are kept: they are stored as JSON beside it.
    """
    from mlim.report.results import write_results

    Terminal().say("reading the tracked runs ...")
    write_results(chosen_recipe(recipe, set_).tracking, out)
    Terminal().say(f"wrote {out}")


@app.command(epilog="Example: `mlim doctor` after an installation, or when something fails")
def doctor(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Start nothing.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired without loss.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the installation: packages, devices, servers, registry, disks, and whether all that a run starts works.

    A problem comes with the command that mends it, where one does. --fix runs what loses nothing: it rewrites the
    addresses of a tracking database that was moved, lets stages follow their aliases, and on a Prefect server ends runs
    whose processes are gone, makes a missing GPU limit and frees slots that nobody holds.
    """
    from mlim.doctor import examine, mend

    chosen = chosen_recipe(recipe, set_)
    if fix:
        for sentence in mend(chosen):
            Terminal(quiet=as_json).say(sentence)
    trying = "" if quick or fix else ", and trying what a run starts (a minute or two)"
    Terminal(quiet=as_json).say(f"looking at packages, devices and servers{trying} ...")
    findings = examine(chosen, quick or fix)
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.fine else 'BAD'}  {finding.subject:<18} {finding.detail}")
            if finding.command:
                typer.echo(f"{'':<24}$ {finding.command}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(MlimError.exit_code)
