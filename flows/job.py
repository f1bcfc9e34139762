"""What a flow is asked to do, resolved once: recipe, catalog, work folder, and who runs the stages."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlim.catalog.description import load_description
from mlim.recipe import Recipe, load_recipe
from mlim.steps.pipeline import pipeline_of
from mlim.steps.plan import READ_THE_CATALOG, Pipeline, Stage, everything, own_options, stages_from
from mlim.versions import everything_reproduced, repro_command
from mlim.workspace import Workspace
from mlim.writer import fix_recipe, only_writer, record_recipe

QUIET_VARIABLE = "MLIM_QUIET"


@dataclass(frozen=True)
class Job:
    """One pipeline: where DVC owns these results, `dvc` is its pipeline, and stages go through `dvc repro`.

    `matches`: whether the catalog has pairs. `recipe_file` holds the recipe as it was when the job began. A `quiet` job
    prints nothing of what its stages say. `todo` are the stages from `start` on; what is before them keeps its results.
    `reason` says why it was started.
    """

    recipe: Recipe
    recipe_file: Path
    catalog: Path
    workspace: Workspace
    matches: bool
    dvc: Pipeline | None
    quiet: bool
    start: str
    todo: frozenset[Stage]
    reason: str

    @property
    def part(self) -> dict[str, str]:
        """The parameters with which a part of this job is the same job."""
        return {
            "recipe": str(self.recipe_file),
            "catalog": str(self.catalog),
            "work": str(self.workspace.root),
            "start": self.start,
            "reason": self.reason,
        }

    def is_done(self) -> bool:
        """Whether DVC owns these results and finds all of them up to date."""
        return self.dvc is not None and everything_reproduced(self.dvc.file)

    def command(self, stage: Stage) -> list[str]:
        """The command line of a stage: exactly what a person would type; a training that is finished is kept."""
        if self.dvc is not None:
            return repro_command(self.dvc.target(stage))
        options = ["--recipe", str(self.recipe_file), "--work", str(self.workspace.root)]
        if stage.command in READ_THE_CATALOG:
            options += ["--catalog", str(self.catalog)]
        options += own_options(stage.command, self.workspace)
        options += ["--resume", "keep"] if stage.trains else []
        return [sys.executable, "-m", "mlim", *stage.arguments, *options]


@contextmanager
def prepare(
    recipe: str, catalog: str, work: str | None, overrides: Sequence[str], start: str, reason: str
) -> Iterator[Job]:
    """Resolve what was asked for, fix the resolved recipe, and lock the work folder for the job.

    `InputError` or `MlimError` before any work when something is wrong or another command has the folder.
    """
    resolved = load_recipe(recipe, overrides)
    workspace = Workspace(Path(work or f"build/{resolved.name}"))
    dvc = pipeline_of(resolved, Path(catalog), workspace)
    matches = not load_description(Path(catalog)).pairs.none
    todo = frozenset(everything(resolved, matches)) if dvc is not None else stages_from(resolved, start, matches)
    with only_writer(workspace, resolved.record, "a flow of Prefect"):
        record_recipe(workspace, resolved.record)
        yield Job(
            recipe=resolved,
            recipe_file=fix_recipe(workspace, resolved.record),
            catalog=Path(catalog),
            workspace=workspace,
            matches=matches,
            dvc=dvc,
            quiet=bool(os.environ.get(QUIET_VARIABLE)),
            start=start,
            todo=todo,
            reason=reason,
        )
