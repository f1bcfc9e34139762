"""dvc.yaml: the stages of a recipe as DVC needs to know them, written from their definitions."""

from pathlib import Path
from typing import Any

import yaml

from mlim.errors import InputError
from mlim.evaluation.judges import judge_of
from mlim.files import atomic_file
from mlim.recipe import Recipe, complete_recipe, load_recipe
from mlim.steps.closure import Sources
from mlim.steps.loss_curves import FINETUNING_LOSSES, PRETRAINING_LOSSES
from mlim.steps.plan import MAIN_PIPELINE, PIPELINES, READ_THE_CATALOG, Pipeline, own_options
from mlim.steps.stages import MAIN_SEED, NAME, SEED, WHOLE_RECIPE, Definition, define_stages
from mlim.versions import DVC_PARAMETERS, DVC_SUFFIX
from mlim.workspace import Workspace

LINE_LENGTH = 150
LOSS_AXES = ("step", "loss")


def pipeline_yaml(root: Path, pipeline: Pipeline = MAIN_PIPELINE) -> str:
    """What a dvc.yaml of the project folder `root` should hold; `InputError` when recipe or code are not there."""
    recipe = complete_recipe(root / pipeline.parameters)
    work, sources = pipeline.work(recipe), Sources(root)
    defined = define_stages(recipe, work, pipeline)
    stages = {kind: _stage(each, sources, work, pipeline) for kind, each in defined.items()}
    shown = _figures(recipe, work, pipeline)
    return _header(pipeline) + yaml.dump(
        {"stages": stages, **shown}, Dumper=_Dumper, sort_keys=False, width=LINE_LENGTH, default_flow_style=False
    )


def parameters_yaml(name: str) -> str:
    """What params.yaml should hold where it is written from the packaged recipe `name`."""
    header = f"""\
# Written by `mlim pipeline --write`: all values of mlim/recipes/{name}.yaml, as DVC has to see them.
"""
    return header + load_recipe(name).to_yaml()


def write_pipelines(root: Path) -> list[Path]:
    """Write dvc.yaml of every pipeline, and params.yaml where that follows a recipe; gives their paths."""
    written = []
    for pipeline in pipelines_in(root):
        if pipeline.recipe is not None:
            written.append(_write(root / pipeline.parameters, parameters_yaml(pipeline.recipe)))
        written.append(write_stages(root, pipeline))
    return written


def write_stages(root: Path, pipeline: Pipeline = MAIN_PIPELINE) -> Path:
    """Write one dvc.yaml; gives its path."""
    return _write(root / pipeline.file, pipeline_yaml(root, pipeline))


def check_pipelines(root: Path) -> None:
    """`InputError` with a sentence for each file that is not what `write_pipelines` would write."""
    problems = []
    for pipeline in pipelines_in(root):
        path = root / pipeline.parameters
        if pipeline.recipe is not None and not _holds(path, parameters_yaml(pipeline.recipe)):
            problems.append(f"{path} is not the recipe {pipeline.recipe}; run `mlim pipeline --write`")
            continue
        try:
            check_stages(root, pipeline)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)


def check_stages(root: Path, pipeline: Pipeline = MAIN_PIPELINE) -> None:
    """`InputError` with one sentence unless dvc.yaml is what `write_stages` would write."""
    if not _holds(root / pipeline.file, pipeline_yaml(root, pipeline)):
        raise InputError(
            f"{root / pipeline.file} is not what {DVC_PARAMETERS} and the code ask for, so `dvc repro` could keep "
            "stale results; run `mlim pipeline --write`"
        )


def pipelines_in(root: Path) -> list[Pipeline]:
    """The main pipeline of a project folder, and the others that it has."""
    return [each for each in PIPELINES if each == MAIN_PIPELINE or (root / each.folder).is_dir()]


def pipeline_of(recipe: Recipe, catalog: Path, workspace: Workspace, root: Path | None = None) -> Pipeline | None:
    """The pipeline of the project folder `root` that a run of `recipe` over `catalog` in `workspace` is, if it is one.

    Its params.yaml holds the same recipe, the catalog is the pipeline's own and the work folder is `build/RECIPE`; then
    `dvc repro` may run the steps and skip those that are up to date.
    """
    here = (root or Path.cwd()).resolve()
    if not (here / DVC_SUFFIX).is_dir():
        return None
    places = (catalog.resolve(), workspace.root.resolve())
    for pipeline in PIPELINES:
        same = places == ((here / pipeline.catalog).resolve(), (here / pipeline.work(recipe).root).resolve())
        if same and (here / pipeline.file).is_file() and _parameters(here / pipeline.parameters) == recipe:
            return pipeline
    return None


def _parameters(path: Path) -> Recipe | None:
    try:
        return complete_recipe(path)
    except InputError:  # not our pipeline, or not ready: the caller falls back to running the steps itself
        return None


def _write(path: Path, text: str) -> Path:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


class _Dumper(yaml.SafeDumper):
    """Lists that are the same are written again, not referred to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _header(pipeline: Pipeline) -> str:
    run = "on the embedded catalog" if pipeline.matches else "with several systems on scenes"
    return f"""\
# The pipeline of `mlim run` {run}, as DVC sees it: every stage is the command a person would type.
# Written by `mlim pipeline --write` from mlim/steps/{{plan,stages}}.py, the imports of each step and the variants of
# {DVC_PARAMETERS}, which is the recipe; do not edit: a stage that does not name all it reads keeps stale results.
"""


def _stage(defined: Definition, sources: Sources, work: Workspace, pipeline: Pipeline) -> dict[str, Any]:
    seeds = [MAIN_SEED] if defined.first_seed else "${seeds}"
    matrix = {"matrix": {"name": list(defined.runs), "seed": seeds}} if defined.runs else {}
    return {
        "desc": defined.what,
        **matrix,
        **({} if pipeline.folder == Path() else {"wdir": _upwards(pipeline)}),
        "cmd": _command(defined, work, pipeline),
        "deps": [*(path.as_posix() for path in defined.reads), *sources.closure(defined.modules)],
        "params": _followed(defined, pipeline),
        # a step replaces its results itself, as a whole, at its end: DVC must not remove them before it, or one that is
        # refused or fails would leave none
        "outs": [{path.as_posix(): {"persist": True}} for path in defined.writes],
    }


def _upwards(pipeline: Pipeline) -> str:
    """The project's folder, seen from that of a pipeline."""
    return "/".join([".."] * len(pipeline.folder.parts))


def _followed(defined: Definition, pipeline: Pipeline) -> list[Any]:
    """Settings of the recipe: their keys, after the name of the file where it is not beside the command's folder."""
    file = pipeline.parameters.as_posix()
    if WHOLE_RECIPE in defined.settings:
        return [{file: None}]
    return list(defined.settings) if pipeline.folder == Path() else [{file: list(defined.settings)}]


def _command(defined: Definition, work: Workspace, pipeline: Pipeline) -> str:
    run = [NAME, "--seed", SEED] if defined.runs else list(defined.arguments)
    catalog = ["--catalog", pipeline.catalog.as_posix()] if defined.command in READ_THE_CATALOG else []
    own, recipe = own_options(defined.command, work), pipeline.parameters.as_posix()
    return " ".join(["mlim", defined.command, *run, *catalog, "--recipe", recipe, "--work", work.root.as_posix(), *own])


def _figures(recipe: Recipe, work: Workspace, pipeline: Pipeline) -> dict[str, Any]:
    """What `dvc metrics` and `dvc plots` show; paths count from the folder of dvc.yaml."""
    source = work.evaluation if pipeline.matches else work.ablation
    charts = _charts(recipe, work, pipeline.matches)
    return {
        "metrics": [_seen_from(pipeline, source / "metrics.json")],
        "plots": [{_seen_from(pipeline, path): chart} for path, chart in charts.items()],
    }


def _charts(recipe: Recipe, work: Workspace, matches: bool) -> dict[Path, dict[str, str]]:
    """A chart for each table, drawn by a template in `.dvc/plots`."""
    charts = {}
    if matches:
        charts[work.evaluation / "curve.csv"] = _chart(
            "curves", ("recall", "precision"), "Precision over recall, test pairs"
        )
        charts[work.ablation / "table.csv"] = _chart("intervals", ("pr_auc", "row"), "PR-AUC by variant, test pairs")
    for task in recipe.other_tasks:
        title = f"{judge_of(task).title} by variant, test split"
        charts[work.ablation / f"{task}.csv"] = _chart("task_intervals", ("value", "row"), title)
    losses = {FINETUNING_LOSSES: "Losses of fine-tuning: thin in training, dots in validation"}
    if any(variant.pretraining for variant in recipe.variants.values()):
        losses = {PRETRAINING_LOSSES: "Losses of pre-training: thin in training, dots in validation", **losses}
    return charts | {work.ablation / table: _chart("losses", LOSS_AXES, title) for table, title in losses.items()}


def _chart(template: str, axes: tuple[str, str], title: str) -> dict[str, str]:
    x, y = axes
    return {"template": template, "x": x, "y": y, "title": title}


def _seen_from(pipeline: Pipeline, path: Path) -> str:
    """A path of the project's folder as the dvc.yaml of a pipeline names it."""
    return path.as_posix() if pipeline.folder == Path() else f"{_upwards(pipeline)}/{path.as_posix()}"
