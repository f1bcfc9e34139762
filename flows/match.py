"""Flow: a catalog in, matches out, with a registered model; prefect.yaml has a deployment that runs every night."""

import os
import sys
from pathlib import Path

from prefect import flow

from flows.artifacts import show_matches
from flows.children import Children
from flows.dead_runs import remember_process
from flows.job import QUIET_VARIABLE
from flows.parameters import (
    BY_HAND,
    CatalogFile,
    MatchesFolder,
    ModelName,
    Overrides,
    Precision,
    Reason,
    Recall,
    RecipeName,
    SinceLast,
    WorkFolder,
    run_name,
)
from flows.stage import run_command
from mlim.recipe import load_recipe
from mlim.workspace import Workspace
from mlim.writer import claim_work


@flow(
    name="match",
    description="Find the matches of a catalog with a registered model.",
    flow_run_name=run_name,
    on_running=[remember_process],
)
def match(
    catalog: CatalogFile = "data/catalog.yaml",
    model: ModelName = "models:/mlim-matcher@champion",
    out: MatchesFolder = "matches",
    recipe: RecipeName = "demo",
    work: WorkFolder = None,
    overrides: Overrides = (),
    precision: Precision = None,
    recall: Recall = None,
    since_last: SinceLast = False,
    reason: Reason = BY_HAND,
) -> None:
    """Run `mlim match`, which holds the work folder meanwhile; the parameters are its options.

    `since_last` follows the matches that `out` holds: only what differs is scored and grouped, and ids of groups stay.
    Everything is matched where there are none yet, or where model or settings were others.

    `InputError`, `UnavailableError` or `MlimError` that says what the command said when it fails.
    """
    workspace = Workspace(Path(work or f"build/{load_recipe(recipe, overrides).name}"))
    claim_work(workspace)  # before the log of the command is the first thing in it
    options = ["--catalog", catalog, "--model", model, "--out", out, "--recipe", recipe, "--work", str(workspace.root)]
    options += [part for override in overrides for part in ("--set", override)]
    options += [] if precision is None else ["--precision", str(precision)]
    options += [] if recall is None else ["--recall", str(recall)]
    options += ["--since", out, "--full-if-changed"] if since_last else []
    with Children() as children:
        run_command(
            "match",
            [sys.executable, "-m", "mlim", "match", *options],
            workspace.logs,
            children,
            quiet=bool(os.environ.get(QUIET_VARIABLE)),
        )
    show_matches(Path(out))
