"""What trains: `mlim pretrain`, `finetune`, `stack`."""

import sys
from typing import Annotated

import typer

from mlim.cli.options import (
    JsonOption,
    QuietOption,
    RecipeOption,
    Resume,
    ResumeOption,
    SeedOption,
    SeedsOption,
    SetOption,
    WorkOption,
)
from mlim.cli.session import Session
from mlim.errors import InputError
from mlim.processes import end_once

app = typer.Typer()


@app.command(epilog="Example: `mlim pretrain recon-mlm-naive --recipe small --set pretrain.steps=100`")
def pretrain(
    name: Annotated[
        str | None, typer.Argument(help="One of the recipe's `pretrainings`; default: the main variant's.")
    ] = None,
    seed: SeedOption = None,
    resume: ResumeOption = "auto",
    find_batch_size: Annotated[
        bool, typer.Option("--find-batch-size", help="Only measure how many items fit into memory.")
    ] = False,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Pre-train on the catalog's items.

    `--set tracking.uri=none` trains on a machine without MLflow; `mlim import-run` records the training later.
    """
    end_once()
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("pretrain"):
        name = name or session.recipe.main_variant.pretraining
        if name is None:
            raise InputError(
                f"the main variant `{session.recipe.main}` has no pre-training; name one: mlim pretrain NAME"
            )
        if find_batch_size:
            _find_batch_size(session, name, session.seed(seed))
        else:
            _pretrain(session, name, session.seed(seed), resume)


def _find_batch_size(session: Session, name: str, seed: int) -> None:
    with session.loading():
        from mlim.steps.pretrain import largest_batch

    size = largest_batch(session.recipe, session.workspace, session.terminal, name, seed)
    session.show({"batch_size": size}, f"the largest batch_size that fits into memory: {size}")


def _pretrain(session: Session, name: str, seed: int, resume: Resume) -> None:
    with session.loading():
        from mlim.steps.pretrain import pretrain as run_step
        from mlim.steps.trained import named
        from mlim.training.launch import launch_if_wanted

    recipe = session.recipe
    groups = recipe.pretrain.batch_size // recipe.together(named("pretrainings", recipe.pretrainings, name))
    launch_if_wanted(recipe.compute, recipe.device, groups, sys.argv[1:])
    summary = run_step(session.recipe, session.workspace, session.terminal, name, seed, resume)
    if summary:  # else another process of the same training shows it
        losses = ", ".join(f"{loss} {value:.4f}" for loss, value in summary["final"].items() if value is not None)
        session.show(summary, f"{name}: {summary['steps']} steps in {summary['seconds']:.0f} s, validation {losses}")


@app.command(epilog="Example: `mlim finetune no-mdo --recipe small --seed 1`")
def finetune(
    variant: Annotated[
        str | None, typer.Argument(help="One of the recipe's `variants`; default: the main variant.")
    ] = None,
    seed: SeedOption = None,
    again: Annotated[
        int, typer.Option(min=0, metavar="N", help="Run the N-th further fine-tuning of the same pre-training.")
    ] = 0,
    resume: ResumeOption = "auto",
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a variant: on pairs, or to another task.

    `--set tracking.uri=none` trains on a machine without MLflow; `mlim import-run` records the training later.
    """
    end_once()
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("finetune"):
        with session.loading():
            from mlim.steps.finetune import describe_validation
            from mlim.steps.finetune import finetune as run_step
            from mlim.steps.trained import named
            from mlim.training.launch import launch_if_wanted

        chosen = session.recipe
        variant = variant or chosen.main
        row = named("variants", chosen.variants, variant)
        groups = chosen.tuning_of(row).batch_size // chosen.together(row)
        launch_if_wanted(chosen.compute, chosen.device, groups, sys.argv[1:])
        summary = run_step(
            session.recipe, session.workspace, session.terminal, variant, session.seed(seed), resume, again
        )
        if summary:  # else another process of the same training shows it
            session.show(summary, f"{variant}: {summary['steps']} steps, validation {describe_validation(summary)}")


@app.command(epilog="Example: `mlim stack --recipe small`")
def stack(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    seeds: SeedsOption = None,
) -> None:
    """Combine the main model with simple models; the best on validation pairs is registered."""
    session = Session(recipe, set_, work, quiet, as_json, seeds)
    with session.step("stack"):
        with session.loading():
            from mlim.steps.stack import stack as run_step

        summary = run_step(session.recipe, session.workspace, session.terminal)
        session.show(summary, f"registered: {summary['registered']}")
