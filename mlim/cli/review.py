"""What people say of pairs: `mlim review`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import JsonOption, QuietOption, RecipeOption, SetOption, WorkOption
from mlim.cli.session import Session
from mlim.console import Terminal
from mlim.errors import MlimError

app = typer.Typer()


@app.command(epilog="Example: `mlim review --work build/demo --by anna`")
def review(
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pairs with scores, .parquet or .csv. Default: those of `mlim match`."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another model's scores; pairs that it decides differently are disputed."),
    ] = None,
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help="The table of answers (CSV); made when it is not there.")
    ] = Path("labels.csv"),
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who answers. Default: the user of this machine.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=2000, help="Length of the queue.")] = 100,
    contradictions: Annotated[
        bool, typer.Option("--contradictions", help="Ask about contradicting answers again.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page as a file (HTML) that downloads its answers.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Add the answers that such a page downloaded.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback (127.0.0.1); 0: a free one.")] = 0,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Label the most useful pairs with the keyboard: a page on loopback, or a file to send to somebody.

    The answers go into a table that `pairs.labelled` in catalog.yaml can name.
    """
    session = Session(recipe, set_, work, quiet, as_json)
    with session.loading():
        from mlim.matching.review import QueueSettings
        from mlim.pairs.answers import AnswerTable
        from mlim.steps.review import ReviewRequest, import_answers, report_contradictions, serve_review, write_review

    table = AnswerTable(labels)
    request = ReviewRequest(
        scores=scores, compare=compare, contradictions=contradictions, queue=QueueSettings(pairs=pairs)
    )
    if import_ is not None:
        summary = import_answers(import_, table, session.terminal)
    elif out is not None:
        summary = write_review(request, session.workspace, table, by, out)
        session.terminal.say(f"wrote {out} with {summary['queue']} pairs; its answers come back with --import")
    else:
        summary = serve_review(request, session.workspace, table, by, port, _announce)
    if summary.get("added"):
        _tell_server(labels, summary["added"], session.terminal)
    report_contradictions(summary, session.terminal)
    counts = ", ".join(f"{summary[key]} {key}" for key in ("match", "differs", "unsure"))
    session.show(summary, f"{labels}: {counts}")


def _tell_server(labels: Path, added: int, terminal: Terminal) -> None:
    """An event for the Prefect server of this environment, if any: it may start a training. The answers are safe."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from flows.events import tell_labels_saved

    try:
        tell_labels_saved(labels, added)
    except MlimError as error:
        terminal.warn(f"the answers are saved, but no training will start because of them: {error}")


def _announce(address: str) -> None:
    typer.echo(f"review at {address} ; Ctrl-C ends it", err=True)
