"""All commands under one name, and how the process ends."""

import os

import typer

from mlim.cli import catalog, evaluate, match, prepare, project, publish, recipe, registry, review, run, score, train
from mlim.failures import exit_code_of
from mlim.processes import die_with_parent, prepare_for_libraries

# in the order in which `mlim --help` lists them
GROUPS = (prepare, train, evaluate, match, score, review, publish, registry, run, project)

app = typer.Typer(
    name="mlim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a product catalog to a registered model that decides whether two items match.\n\n"
    "Start with `mlim run` on the embedded catalog (created by `mlim catalog synthesize`), or with "
    "`mlim init catalog.csv` on your own. Every step of `mlim run` is also a separate command.",
)
for group in GROUPS:
    app.add_typer(group.app)
app.add_typer(recipe.app, name="recipe")
app.add_typer(catalog.app, name="catalog")


def main() -> int:
    """Run the command line; one sentence per problem.

    Exit code 0, 1 after a failure, 2 for wrong usage or input, 75 where a server gave no answer.
    """
    prepare_for_libraries()
    if os.environ.get("MLIM_DIE_WITH_PARENT"):
        die_with_parent()
    return exit_code_of(lambda: app(prog_name="mlim"))
