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
    """Record trainings in MLflow that ran with `tracking.uri: none`, as if they had been tracked.

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
    new, known = len(summary["imported"]), len(summary["known"])
    there = f"{known} recorded there already" if known else ""
    terminal.say(
        f"{summary['store']}: " + ", ".join(filter(None, [f"{new} recorded" if new else "nothing to do", there]))
    )


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
    fix: Annotated[bool, typer.Option("--fix", help="Repair a tracking database that was moved or copied.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the installation: packages, devices, servers, and whether everything that a run starts works."""
    from mlim.doctor import examine, mend

    chosen = chosen_recipe(recipe, set_)
    if fix:
        Terminal(quiet=as_json).say(mend(chosen))
    trying = "" if quick or fix else ", and trying what a run starts (a minute or two)"
    Terminal(quiet=as_json).say(f"looking at packages, devices and servers{trying} ...")
    findings = examine(chosen, quick or fix)
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.fine else 'BAD'}  {finding.subject:<18} {finding.detail}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(MlimError.exit_code)
