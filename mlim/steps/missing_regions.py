"""The regions that a comparison reads and that are not there: made where the catalog is known, else refused at once."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from mlim.console import Terminal
from mlim.data.regions import SUMMARY_FILE
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.steps.plan import REGIONS, Stage
from mlim.steps.plan import regions as stages_of_regions
from mlim.steps.pretrain import pretrain
from mlim.steps.recorded import record
from mlim.steps.regions import regions
from mlim.steps.trained import SUMMARY_FILE as TRAINED
from mlim.workspace import Workspace


def require_regions(recipe: Recipe, workspace: Workspace) -> None:
    """`InputError` with the commands that make them, before hours of other trainings have passed."""
    missing = [*_missing(recipe, workspace)]
    if any(stage.command == REGIONS for stage in missing):
        commands = "; ".join(f"`{shlex.join(['mlim', *stage.arguments])}`" for stage in missing)
        raise InputError(
            f"{workspace.root}: regions that systems of the recipe read are missing; run {commands} first, or give "
            "--catalog"
        )


def make_missing_regions(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> None:
    """Train the detectors that are missing, and store what they find, or what other sources have."""
    missing = [*_missing(recipe, workspace)]
    if not any(stage.command == REGIONS for stage in missing):
        return
    for stage in missing:
        name = str(stage.name)
        if stage.command == REGIONS:
            regions(recipe, catalog, workspace, terminal, name)
            record(recipe, workspace, f"{REGIONS}-{workspace.regions(name).name}", workspace.regions(name))
        else:
            pretrain(recipe, workspace, terminal, name, stage.seed or 0)


def _missing(recipe: Recipe, workspace: Workspace) -> Iterator[Stage]:
    """The stages that make regions, and have no result yet, in their order."""
    for stage in stages_of_regions(recipe):
        name = str(stage.name)
        of_regions = workspace.regions(name) / SUMMARY_FILE
        if not (
            of_regions if stage.command == REGIONS else workspace.pretrained(name, stage.seed or 0) / TRAINED
        ).is_file():
            yield stage
