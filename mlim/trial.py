"""What `mlim doctor` starts, each in a process of its own: what a run starts, at its smallest.

`python -m mlim.trial NAME`, with a recipe as YAML on standard input, says in one line what worked.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from mlim.config import parse
from mlim.failures import exit_code_of
from mlim.processes import reach_loopback_directly
from mlim.recipe import Recipe

SIDE = 8


def compute(recipe: Recipe) -> str:
    """A product of two matrices on the device that the recipe trains on."""
    import torch

    from mlim.training.device import choose_device

    device = choose_device(recipe.device)
    square = torch.ones(SIDE, SIDE, device=device)
    (square @ square).sum().item()
    return f"{device} computes ({os.cpu_count()} CPU cores)"


def track(recipe: Recipe) -> str:
    """A run in a copy of the database, or in a new one; a server is only asked for what it has."""
    from mlim.local_store import SQLITE
    from mlim.tracking import as_mlim_error, check_server, client, initialise, tracking_uri, without_password

    check_server(recipe.tracking)
    uri = tracking_uri(recipe.tracking)
    if not uri.startswith(SQLITE):
        with as_mlim_error(uri):
            client(recipe.tracking).search_experiments(max_results=1)
        return f"{without_password(uri)} answers"
    with TemporaryDirectory() as folder:
        database, copy = Path(uri.removeprefix(SQLITE)), Path(folder) / "mlflow.db"
        known = database.exists()
        if known:
            _copy(database, copy)
        tracking = recipe.tracking.model_copy(update={"uri": f"{SQLITE}{copy}"})
        there = recipe.model_copy(update={"tracking": tracking})
        experiment = initialise(there.tracking)
        with as_mlim_error(uri):
            client(there.tracking).set_terminated(client(there.tracking).create_run(experiment).info.run_id)
    return f"{uri} takes runs (tried on {'a copy' if known else 'a new one'})"


def _copy(database: Path, copy: Path) -> None:
    """The database as it is now, also while it is written."""
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def validate(recipe: Recipe) -> str:
    """The committed suites, opened as `mlim validate` opens them."""
    from mlim.validation import Validation, project_root

    suites = sorted(path.stem for path in (project_root() / "expectations").glob("*.json"))
    with TemporaryDirectory() as pages:
        validation = Validation(Path(pages))
        for suite in suites:
            validation.start(suite)
    return f"{len(suites)} suites in {project_root()}"


def reproduce(recipe: Recipe) -> str:
    """What DVC says about the pipeline of the current folder, if there is one."""
    from mlim.versions import dvc_pipeline, dvc_state

    here = Path.cwd()
    return f"{here}: {dvc_state(here)}" if dvc_pipeline(here) else "none here: `mlim run` runs its stages directly"


TRIALS: Mapping[str, Callable[[Recipe], str]] = {
    "compute": compute,
    "track": track,
    "validate": validate,
    "reproduce": reproduce,
}


def main() -> int:
    """Try what the argument names; an error is one sentence."""
    reach_loopback_directly(os.environ)
    return exit_code_of(lambda: print(TRIALS[sys.argv[1]](parse(Recipe, yaml.safe_load(sys.stdin), "recipe"))))


if __name__ == "__main__":
    sys.exit(main())
