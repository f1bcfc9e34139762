"""What a flow is asked to do, resolved once: recipe, catalog, work folder, and who runs the stages."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from mlim.files import atomic_file
from mlim.recipe import Recipe, load_recipe
from mlim.steps.plan import Stage, everything, stages_from
from mlim.versions import everything_reproduced, repro_command, workspace_is_dvc
from mlim.workspace import Workspace

QUIET_VARIABLE = "MLIM_QUIET"
READ_THE_CATALOG = frozenset({"ingest", "validate", "pairs"})


@dataclass(frozen=True)
class Job:
    """One pipeline: `dvc` says that DVC owns these results, so stages go through `dvc repro`.

    A `quiet` job keeps what its stages say in their log files only.
    """

    recipe: Recipe
    catalog: Path
    workspace: Workspace
    dvc: bool
    quiet: bool
    todo: frozenset[Stage]

    def is_done(self) -> bool:
        """Whether DVC owns these results and finds all of them up to date."""
        return self.dvc and everything_reproduced()

    def command(self, stage: Stage) -> list[str]:
        """The command line of a stage: exactly what a person would type."""
        if self.dvc:
            return repro_command(stage.target)
        options = ["--recipe", str(self.workspace.recipe), "--work", str(self.workspace.root)]
        if stage.command in READ_THE_CATALOG:
            options += ["--catalog", str(self.catalog)]
        return [sys.executable, "-m", "mlim", *stage.arguments, *options]


def prepare(recipe: str, catalog: str, work: str | None, overrides: list[str] | None, start: str) -> Job:
    """Resolve what was asked for and store the resolved recipe; `InputError` before any work."""
    resolved = load_recipe(recipe, overrides or [])
    workspace = Workspace(Path(work or f"build/{resolved.name}"))
    with atomic_file(workspace.recipe) as temporary:
        temporary.write_text(resolved.to_yaml(), encoding="utf-8")
    dvc = workspace_is_dvc(resolved, Path(catalog), workspace)
    todo = frozenset(everything(resolved)) if dvc else stages_from(resolved, start)
    return Job(resolved, Path(catalog), workspace, dvc, bool(os.environ.get(QUIET_VARIABLE)), todo)
