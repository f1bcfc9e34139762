"""dvc.yaml: the stages of a recipe as DVC needs to know them, written from their definitions."""

from pathlib import Path
from typing import Any

import yaml

from mlim.errors import InputError
from mlim.files import atomic_file
from mlim.recipe import Recipe, complete_recipe
from mlim.steps.closure import Sources
from mlim.steps.plan import READ_THE_CATALOG, own_options
from mlim.steps.stages import NAME, SEED, WHOLE_RECIPE, Definition, define_stages
from mlim.versions import DVC_BUILD, DVC_CATALOG, DVC_PARAMETERS, DVC_PIPELINE, DVC_SUFFIX, dvc_pipeline
from mlim.workspace import Workspace

HEADER = f"""\
# The pipeline of `mlim run` on the embedded catalog, as DVC sees it: every stage is the command a person would type.
# Written by `mlim pipeline --write` from mlim/steps/{{plan,stages}}.py, the imports of each step and the variants of
# {DVC_PARAMETERS}, which is the recipe; do not edit: a stage that does not name all it reads keeps stale results.
"""
LINE_LENGTH = 150


def pipeline_yaml(root: Path) -> str:
    """What dvc.yaml in the project folder `root` should hold; `InputError` when recipe or code are not there."""
    recipe = complete_recipe(root / DVC_PARAMETERS)
    work = Workspace(DVC_BUILD / recipe.name)
    sources = Sources(root)
    stages = {kind: _stage(defined, sources, work) for kind, defined in define_stages(recipe, work).items()}
    metrics = [(folder / "metrics.json").as_posix() for folder in (work.evaluation, work.ablation)]
    return HEADER + yaml.dump(
        {"stages": stages, "metrics": metrics, "plots": _plots(work)},
        Dumper=_Dumper,
        sort_keys=False,
        width=LINE_LENGTH,
        default_flow_style=False,
    )


def write_pipeline(root: Path) -> Path:
    """Write dvc.yaml; gives its path."""
    text, path = pipeline_yaml(root), root / DVC_PIPELINE
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def check_pipeline(root: Path) -> None:
    """`InputError` with one sentence unless dvc.yaml is what `write_pipeline` would write."""
    path = root / DVC_PIPELINE
    if not path.is_file() or path.read_text(encoding="utf-8") != pipeline_yaml(root):
        raise InputError(
            f"{path} is not what {DVC_PARAMETERS} and the code ask for, so `dvc repro` could keep stale results; run "
            "`mlim pipeline --write`"
        )


def workspace_is_dvc(recipe: Recipe, catalog: Path, workspace: Workspace, root: Path | None = None) -> bool:
    """Whether a run of `recipe` over `catalog` in `workspace` is exactly the pipeline that `root/dvc.yaml` describes.

    True when params.yaml holds the same recipe, the catalog is `data/catalog.yaml` and the work folder is
    `build/RECIPE`; then `dvc repro` may run the steps and skip those that are up to date.
    """
    here = (root or Path.cwd()).resolve()
    if not dvc_pipeline(here) or not (here / DVC_SUFFIX).is_dir():
        return False
    same_places = (catalog.resolve(), workspace.root.resolve()) == (
        (here / DVC_CATALOG).resolve(),
        (here / DVC_BUILD / recipe.name).resolve(),
    )
    return same_places and _parameters(here) == recipe


def _parameters(root: Path) -> Recipe | None:
    path = root / DVC_PARAMETERS
    try:
        return complete_recipe(path)
    except InputError:  # not our pipeline, or not ready: the caller falls back to running the steps itself
        return None


class _Dumper(yaml.SafeDumper):
    """Lists that are the same are written again, not referred to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _stage(defined: Definition, sources: Sources, work: Workspace) -> dict[str, Any]:
    matrix = {"matrix": {"name": list(defined.runs), "seed": "${seeds}"}} if defined.runs else {}
    return {
        "desc": defined.what,
        **matrix,
        "cmd": _command(defined, work),
        "deps": [*(path.as_posix() for path in defined.reads), *sources.closure(defined.modules)],
        "params": [{DVC_PARAMETERS: None}] if WHOLE_RECIPE in defined.settings else list(defined.settings),
        # a step replaces its results itself, as a whole, at its end: DVC must not remove them before it, or one that is
        # refused or fails would leave none
        "outs": [{path.as_posix(): {"persist": True}} for path in defined.writes],
    }


def _command(defined: Definition, work: Workspace) -> str:
    run = [NAME, "--seed", SEED] if defined.runs else list(defined.arguments)
    catalog = ["--catalog", DVC_CATALOG.as_posix()] if defined.command in READ_THE_CATALOG else []
    own = own_options(defined.command, work)
    return " ".join(
        ["mlim", defined.command, *run, *catalog, "--recipe", DVC_PARAMETERS, "--work", work.root.as_posix(), *own]
    )


def _plots(work: Workspace) -> list[dict[str, Any]]:
    curve, table = (work.evaluation / "curve.csv").as_posix(), (work.ablation / "table.csv").as_posix()
    return [
        {curve: {"title": "Precision over recall, test pairs", "x": "recall", "y": "precision"}},
        {table: {"title": "PR-AUC by variant", "x": "row", "y": "pr_auc"}},
    ]
