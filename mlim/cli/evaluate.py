"""What measures: `mlim evaluate`, `ablate`, `probe`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mlim.cli.options import JsonOption, QuietOption, RecipeOption, SeedsOption, SetOption, WorkOption
from mlim.cli.prepare import prepare
from mlim.cli.session import Session
from mlim.errors import InputError

app = typer.Typer()


@app.command(epilog="Example: `mlim evaluate --recipe small --json`")
def evaluate(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    seeds: SeedsOption = None,
) -> None:
    """Evaluate the main model and the baselines on the same pairs: PR-AUC with interval, threshold."""
    session = Session(recipe, set_, work, quiet, as_json, seeds)
    with session.step("evaluate"):
        with session.loading():
            from mlim.report.kit import formats
            from mlim.steps.evaluate import evaluate as run_step

        summary = run_step(session.recipe, session.workspace, session.terminal)
        main_auc = summary["pr_auc"][session.recipe.main_variant.modality]
        session.show(summary, f"PR-AUC {formats.interval(**main_auc)}, prevalence {summary['prevalence']:.3f}")


@app.command(epilog="Example: `mlim ablate --experiment table2 --recipe small --seeds 3 --catalog catalog.yaml`")
def ablate(
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="One experiment only: table1, table2, figure2, design, labels, mam, mdo, readout, joining, balance, "
            "images, lite0, lite0-all, longer, lr, pretraining, recon, size, search, visible, weights; with recipe "
            "photos: photo-sizes; with recipe systems: systems, blind, e2e-tasks, e2e-depth, e2e-size, e2e-detect, "
            "lxmert-tasks, lxmert-start, lxmert-cross, overview-image, overview-adapt.",
        ),
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ingest, validate and pair this catalog first, if necessary; make regions and images of other sizes.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Concurrent trainings; default: compute.side_by_side, or one per CUDA device."),
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option(metavar="D", help="Only report how many seeds separate a difference of D, and their time."),
    ] = None,
    power: Annotated[float | None, typer.Option(metavar="P", help="Power for --difference; default 0.8.")] = None,
    grid: Annotated[str | None, typer.Option(hidden=True)] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    seeds: SeedsOption = None,
) -> None:
    """Tables 1 and 2: train the missing variants, then compare all of them with a paired bootstrap."""
    session = Session(recipe, set_, work, quiet, as_json, seeds)
    if grid is not None:
        session.terminal.warn("--grid is called --experiment now; a later version will not know the old name")
        experiment = experiment or grid
    if difference is not None or power is not None:
        _plan(session, experiment, difference, power)
        return
    with session.step("ablate"):
        if catalog is not None:
            prepare(session, catalog)
            _make_regions(session, catalog, experiment)
        if experiment is None:
            _compare_all(session, jobs)
        else:
            _run_experiment(session, experiment, jobs, catalog)


def _make_regions(session: Session, catalog: Path, experiment: str | None) -> None:
    """The regions that the variants to compare read, where they are missing."""
    with session.loading():
        from mlim.experiments import load_experiment
        from mlim.steps.experiment_runs import variants_of
        from mlim.steps.missing_regions import make_missing_regions
        from mlim.steps.pairless import comparable

    recipe = session.recipe if experiment is None else variants_of(session.recipe, load_experiment(experiment))
    make_missing_regions(comparable(recipe, session.workspace), catalog, session.workspace, session.terminal)


def _plan(session: Session, experiment: str | None, difference: float | None, power: float | None) -> None:
    """What a comparison takes, and the command that makes it; only reads: neither MLflow nor the folder's lock."""
    if difference is None:
        raise InputError("--power goes with --difference, the smallest one that matters: --difference 0.02")
    from mlim.steps.sizing import describe_size, size_seeds

    summary = size_seeds(session.recipe, session.workspace, difference, power, experiment)
    command = shlex.join(["mlim", *_without(sys.argv[1:], ("--difference", "--power", "--seeds"))])
    session.show(summary, describe_size(summary, command))


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words of a command line but for some options, each with its value."""
    values = {at + 1 for at, word in enumerate(words) if word in options}
    names = [word.partition("=")[0] for word in words]
    return [word for at, word in enumerate(words) if at not in values and names[at] not in options]


def _compare_all(session: Session, jobs: int | None) -> None:
    with session.loading():
        from mlim.steps.ablate import ablate as run_step
        from mlim.steps.pairless import comparable
        from mlim.steps.task_variants import ExperimentRun
        from mlim.steps.trainings import train_missing

    trained = comparable(session.recipe, session.workspace)
    train_missing([ExperimentRun(trained, session.workspace)], session.terminal, jobs)
    summary = run_step(session.recipe, session.workspace, session.terminal)
    written = f"the tables are in {session.workspace.ablation}"
    session.show(summary, session.results_table() if summary["rows"] else written)


def _run_experiment(session: Session, experiment: str, jobs: int | None, catalog: Path | None) -> None:
    with session.loading():
        from mlim.steps.experiment import describe_experiment, run_experiment

    summary = run_experiment(session.recipe, session.workspace, session.terminal, experiment, jobs, catalog)
    session.show(summary, describe_experiment(summary))


@app.command(epilog="Example: `mlim probe --set probe.items=500`")
def probe(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Figure 2: how much each modality helps the other; reconstructions, nearest neighbours, attention."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("probe"):
        with session.loading():
            from mlim.steps.probe import probe as run_step

        summary = run_step(session.recipe, session.workspace, session.terminal)
        session.show(summary, f"wrote {session.workspace.probe}")
