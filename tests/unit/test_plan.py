"""The plan, dvc.yaml, params.yaml and the packaged demo recipe tell the same story."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.recipe import Recipe, load_recipe
from mlim.steps.evaluate import evaluate
from mlim.steps.order import Needs, companions, needs
from mlim.steps.plan import PIPELINES, Pipeline, Stage, everything, stages_from, sweep, trainings
from mlim.steps.register import register
from mlim.steps.stack import stack
from mlim.steps.stages import define_stages
from mlim.workspace import Workspace
from tests import decoder_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo")


def dvc_targets(recipe: Recipe, pipeline: Pipeline) -> set[str]:
    targets = set()
    for name, stage in yaml.safe_load((ROOT / pipeline.file).read_text())["stages"].items():
        axes = [recipe.seeds if values == "${seeds}" else values for values in stage.get("matrix", {}).values()]
        targets |= {f"{name}@{'-'.join(map(str, cell))}" for cell in product(*axes)} if axes else {name}
    return targets


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_dvc_yaml_has_exactly_the_stages_of_the_plan(pipeline: Pipeline) -> None:
    recipe = load_recipe(pipeline.recipe or "demo")
    assert dvc_targets(recipe, pipeline) == {stage.target for stage in everything(recipe, pipeline.matches)}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_params_yaml_is_the_packaged_recipe(pipeline: Pipeline) -> None:
    assert load_recipe(str(ROOT / pipeline.parameters)) == load_recipe(pipeline.recipe or "demo")


def test_dvc_calls_a_stage_of_another_folder_by_its_file() -> None:
    stage = Stage("pretrain", "vilt", 0)
    assert [each.target(stage) for each in PIPELINES] == [
        "pretrain@vilt-0",
        "pipelines/systems/dvc.yaml:pretrain@vilt-0",
    ]


def test_every_stage_runs_once(recipe: Recipe) -> None:
    targets = [stage.target for stage in everything(recipe)]
    assert len(targets) == len(set(targets))


def test_more_seeds_mean_more_cells_of_every_kind(recipe: Recipe) -> None:
    two = recipe.model_copy(update={"seeds": (0, 1)})
    assert len(trainings(two)) == 2 * len(trainings(recipe))


def test_a_pretraining_that_no_variant_uses_is_not_run(recipe: Recipe) -> None:
    variants = {name: variant for name, variant in recipe.variants.items() if variant.pretraining != "itm-mlm-naive"}
    fewer = recipe.model_copy(update={"variants": variants})
    assert all(stage.name != "itm-mlm-naive" for stage in sweep(fewer))


def test_starting_late_leaves_out_what_came_before(recipe: Recipe) -> None:
    commands = {stage.command for stage in stages_from(recipe, "ablate")}
    assert commands == {"ablate", "probe", "report", "register", "match"}


def test_an_unknown_start_names_the_nearest_stage(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="did you mean `finetune`"):
        stages_from(recipe, "fine-tune")


def order_of(recipe: Recipe, pipeline: Pipeline = PIPELINES[0]) -> Needs:
    stages = list(everything(recipe, pipeline.matches))
    return needs(recipe, Workspace(Path("build") / recipe.name), pipeline, stages)


def test_a_stage_needs_what_it_reads_and_nothing_else(recipe: Recipe) -> None:
    two = recipe.model_copy(update={"seeds": (0, 1)})
    found = {stage.target: {each.target for each in needed} for stage, needed in order_of(two).items()}
    prepared = {"ingest", "validate", "pairs"}
    assert found["pretrain@itm-mlm-mam-1"] == prepared
    assert found["finetune@itm-mlm-mam-1"] == {*prepared, "pretrain@itm-mlm-mam-1"}
    assert found["finetune-variant@no-mdo-1"] == {*prepared, "pretrain@recon-mlm-mam-1"}
    assert found["finetune-scratch@no-pretraining-0"] == prepared
    assert found["stack"] == {*prepared, "finetune@recon-mlm-mam-0"}
    assert {stage.target for stage in trainings(two)} <= found["ablate"]
    assert {name for name in found["probe"] if name.startswith("finetune")} == set()
    assert {"ablate", "evaluate", "register"} <= found["report"]
    assert "ablate" not in found["register"]
    assert "report" not in found["match"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_order_of_the_pipeline_has_what_a_stage_needs_before_it(recipe: Recipe, pipeline: Pipeline) -> None:
    chosen = recipe if pipeline.recipe is None else load_recipe(pipeline.recipe)
    done: set[Stage] = set()
    for stage, needed in order_of(chosen, pipeline).items():
        assert needed <= done
        assert stage.command == "ingest" or needed
        done.add(stage)


def beside(recipe: Recipe) -> dict[str, set[str]]:
    found = companions(order_of(recipe))
    return {stage.target: {each.target for each in others} for stage, others in found.items()}


def test_beside_a_stage_run_those_that_need_nothing_of_it(recipe: Recipe) -> None:
    """On these depend the threads of a training, and on those its rounding: a run that goes on has the same."""
    found = beside(recipe)
    assert found["ingest"] == found["pairs"] == set()
    assert found["ablate"] == {"stack", "evaluate", "probe", "register", "match"}
    of_main = {"recon-mlm-mam", "no-mdo", "text-only", "image-only"}  # which start from the same weights
    others = {stage.target for stage in trainings(recipe) if stage.name not in of_main}
    assert found["pretrain@recon-mlm-mam-0"] == others
    assert others <= found["stack"]


def test_trainings_of_the_main_model_alone_run_one_after_another(recipe: Recipe) -> None:
    found = beside(recipe.model_copy(update={"variants": {recipe.main: recipe.main_variant}}))
    assert found["pretrain@recon-mlm-mam-0"] == set()
    assert found["finetune@recon-mlm-mam-0"] == {"probe"}


def test_annotations_are_made_where_a_training_learns_from_them(recipe: Recipe) -> None:
    assert "annotate" not in {stage.command for stage in everything(recipe)}
    annotated = load_recipe("demo", decoder_recipe.SETTINGS)
    commands = [stage.command for stage in everything(annotated)]
    assert commands[:4] == ["ingest", "validate", "pairs", "annotate"]
    asked = load_recipe("demo", ["tasks={answer: {}}", "variants.a={label: a, pretraining: null, task: answer}"])
    assert [stage.command for stage in everything(asked)][:4] == commands[:4]
    defined = define_stages(annotated, Workspace(Path("build")))
    assert defined["annotate"].writes == [Path("build/annotations")]


@pytest.fixture
def systems() -> Recipe:
    return load_recipe("systems-demo")


def test_without_pairs_the_other_tasks_are_trained_compared_and_reported(systems: Recipe) -> None:
    stages = list(everything(systems, matches=False))
    commands = list(dict.fromkeys(stage.command for stage in stages))
    assert commands[:4] == ["ingest", "validate", "pairs", "annotate"]
    assert commands[-2:] == ["ablate", "report"]
    assert not {"stack", "evaluate", "probe", "register", "match"} & set(commands)
    finetuned = {stage.name for stage in stages if stage.command == "finetune"}
    assert finetuned == {name for name, variant in systems.variants.items() if variant.task != "match"}
    pretrained = {stage.name for stage in stages if stage.command == "pretrain"}
    assert pretrained == {systems.variants[str(name)].pretraining for name in finetuned} - {None}
    assert len(set(stages)) == len(stages)


@pytest.mark.parametrize("start", ["stack", "evaluate", "register", "match"])
def test_a_start_at_pairs_that_are_not_there_is_refused(systems: Recipe, start: str) -> None:
    with pytest.raises(InputError, match=rf"--from {start}: is about pairs.*start at one of ingest, .*ablate, report"):
        stages_from(systems, start, matches=False)
    assert Stage(start) in stages_from(systems, start)


def test_a_recipe_that_only_matches_is_refused_where_nothing_matches(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="all its variants match, and the catalog has no pairs"):
        list(everything(recipe, matches=False))


@pytest.mark.parametrize("step", [stack, evaluate, register])
def test_a_step_about_pairs_is_refused_where_there_are_none(recipe: Recipe, tmp_path: Path, step: Callable) -> None:
    work = Workspace(tmp_path)
    work.pairs.mkdir()
    pq.write_table(pa.table({"item_a": pa.array([], pa.string())}), work.pairs / "pairs.parquet")
    with pytest.raises(InputError, match=rf"mlim {step.__name__}: is about pairs, and .*pairs.parquet has none"):
        step(recipe, work, Terminal(quiet=True))
