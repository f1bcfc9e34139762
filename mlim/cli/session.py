"""What every command of a step has in common: recipe, work folder, terminal, and how to show a summary."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mlim.console import Terminal, aligned
from mlim.processes import is_follower
from mlim.workspace import Workspace

if TYPE_CHECKING:
    from mlim.recipe import Recipe


def chosen_recipe(recipe: str, set_: Sequence[str] | None, warn: Callable[[str], None] | None = None) -> "Recipe":
    """The recipe that the options name; `InputError` when it is not valid.

    Its tree is imported here and not at the top: that takes a third of the start, and `--help` does without it.
    """
    from mlim.recipe import load_recipe

    return load_recipe(recipe, set_ or [], warn)


class Session:
    """One command of a step, resolved from its options."""

    def __init__(
        self,
        recipe: str,
        set_: Sequence[str] | None,
        work: Path | None,
        quiet: bool,
        as_json: bool,
        seeds: int | None = None,
    ) -> None:
        """`seeds`: that many, from 0, instead of the recipe's. `InputError` when the recipe is not valid."""
        self.terminal = Terminal(quiet or is_follower())
        given = chosen_recipe(recipe, set_, self.terminal.warn)
        self.recipe = given if seeds is None else given.model_copy(update={"seeds": tuple(range(seeds))})
        self.workspace = Workspace(work or Path("build") / self.recipe.name)
        self._as_json = as_json

    @contextmanager
    def step(
        self, command: str, tracked: bool = True, recorded: bool = True, catalog: Path | None = None
    ) -> Iterator[None]:
        """Announce the command, and lock the work folder for the block; the complete recipe is kept beside its results.

        A step whose results do not depend on the recipe is not `recorded`: what is kept there stays.
        A `tracked` step records in MLflow, unless the recipe says `tracking.uri: none`: whether the server answers is
        checked before any work. Of several processes of one training, the first does all this. `catalog` is what
        the step reads, if it reads one.
        """
        self.terminal.say(f"{command}: recipe {self.recipe.name}, results in {self.workspace.root}; loading ...")
        if is_follower():
            yield
            return
        if tracked and not self.recipe.tracking.offline:
            from mlim.tracking import check_server

            check_server(self.recipe.tracking)
        from mlim.writer import only_writer, recording

        name = f"mlim {command}"
        kept = recording(self.workspace, self.recipe.record) if recorded else nullcontext()
        with only_writer(self.workspace, self.recipe.record, name), kept, self._told(command, catalog):
            yield

    def _told(self, command: str, catalog: Path | None) -> AbstractContextManager[None]:
        """OpenLineage events about a stage of the pipeline, where the environment says who listens."""
        from mlim import run_events

        if not run_events.wanted():
            return nullcontext()
        from mlim.steps.stages import files_of

        stage = files_of(command, self.recipe, self.workspace, catalog)
        return nullcontext() if stage is None else run_events.told(stage, self.workspace, self.terminal.warn)

    def loading(self) -> AbstractContextManager[None]:
        """A spinner while the libraries of a step are imported, which takes seconds."""
        return self.terminal.waiting("loading libraries")

    def seed(self, given: int | None) -> int:
        """The seed that was asked for, else the recipe's first."""
        return self.recipe.seeds[0] if given is None else given

    def show(self, summary: Mapping[str, Any], message: str) -> None:
        """The summary as JSON for machines, or a few words for a person."""
        if self._as_json:
            typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        else:
            self.terminal.say(message)

    def results_table(self) -> str:
        """The PR-AUC of every variant that is trained, as columns of text."""
        from mlim.report.tables import short_table

        return aligned(short_table(self.workspace))
