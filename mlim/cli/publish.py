"""What others see: `mlim report`, `register`, `export`, `serve`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import JsonOption, QuietOption, RecipeOption, SeedsOption, SetOption, WorkOption
from mlim.cli.score import ModelOption, open_model
from mlim.cli.session import Session, chosen_recipe
from mlim.console import Terminal

app = typer.Typer()


@app.command(epilog="Example: `mlim report --recipe small --seeds 3 --results docs/results.md`")
def report(
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write all tracked results into this document, like `mlim results`."),
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    seeds: SeedsOption = None,
) -> None:
    """Write the report: one self-contained HTML page."""
    session = Session(recipe, set_, work, quiet, as_json, seeds)
    with session.step("report"):
        with session.loading():
            from mlim.steps.report import report as run_step

        summary = run_step(session.recipe, session.workspace, session.terminal)
        if results is not None:
            from mlim.report.results import write_results

            write_results(session.recipe.tracking, results)
            session.terminal.say(f"wrote {results}")
        session.show(summary, f"wrote {session.workspace.report / 'index.html'}")


@app.command(epilog="Example: `mlim register --set tracking.model_name=shoes-matcher`")
def register(
    force: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Promote despite objections of the quality gate; WHY is recorded."),
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Register the main model: challenger, and champion if it passes the gate and beats the present one."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("register"):
        with session.loading():
            from mlim.steps.register import register as run_step

        summary = run_step(session.recipe, session.workspace, session.terminal, force)
        session.show(summary, f"{summary['model']} version {summary['version']}: {summary['why']}")


@app.command(epilog="Example: `mlim export --model build/demo --out build/onnx --int8`")
def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one of an earlier export.")],
    model: ModelOption = "models:/mlim-matcher@champion",
    int8: Annotated[bool, typer.Option("--int8", help="Write the graphs with weights of 8 bits.")] = False,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a model to ONNX, for scoring on a CPU: `--model DIR` of `mlim score` and `mlim match` reads it.

    Compares it with torch on the work folder's test pairs: scores, speed, PR-AUC. Needs `pip install 'mlim[onnx]'`.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    loaded = open_model(model, recipe, set_, session.terminal)
    from mlim.steps.export import export as run_step

    summary = run_step(loaded, out, session.recipe, session.workspace, session.terminal, int8=int8)
    session.show(summary, f"wrote {out}; score with `mlim score --model {shlex.quote(str(out))}`")


@app.command(epilog="Example: `mlim serve --model models:/mlim-matcher@champion --port 5001`")
def serve(
    model: Annotated[
        str | None,
        typer.Option(metavar="models:/NAME@ALIAS", help="Or models:/NAME/3. Default: the recipe's champion."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback (127.0.0.1).")] = 5001,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Largest request in MiB; larger ones get 413.")] = 32.0,
    max_seconds: Annotated[int, typer.Option(min=1, help="Time limit of a request; then it gets 504.")] = 60,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Allowed Host header besides 127.0.0.1 and localhost (for a proxy)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Let items name pictures by their path below FOLDER.")
    ] = None,
    allow_url_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Let items name pictures by an address at this host.")
    ] = None,
    allow_private_urls: Annotated[
        bool, typer.Option("--allow-private-urls", help="These hosts may have private addresses.")
    ] = False,
    batch_wait_ms: Annotated[
        float,
        typer.Option(
            min=0, help="How long rows wait for those of other requests, to be computed together; 0: each by itself."
        ),
    ] = 2.0,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a registered model over HTTP, after comparing its files with the registry's record.

    POST /score, /encode and /explain take items as JSON (/openapi.json describes them); /invocations is that of
    MLflow's scoring server. The registry is the recipe's.
    """
    terminal = Terminal(quiet)
    terminal.say("serve: comparing the model with the registry's record ...")
    from mlim.steps.serve import ServerLimits, api_options
    from mlim.steps.serve import serve as run_step

    hosts = (*ServerLimits.model_fields["hosts"].default, *(allow_host or []))
    limits = ServerLimits(port=port, body_mb=max_body_mb, seconds=max_seconds, hosts=hosts)
    chosen = chosen_recipe(recipe, set_)
    options = api_options(chosen, limits, images, allow_url_host or (), allow_private_urls, batch_wait_ms)
    run_step(chosen, model, limits, terminal, options)
