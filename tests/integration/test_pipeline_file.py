"""dvc.yaml is what the plan, the steps' definitions and their imports make of params.yaml."""

import re
import shutil
from pathlib import Path

import grimp
import pytest
import yaml

from mlim.errors import InputError
from mlim.recipe import load_recipe, resolve
from mlim.recipe.shown import show_recipe
from mlim.steps import closure
from mlim.steps.closure import Sources
from mlim.steps.pipeline import check_pipelines, pipeline_yaml, write_pipelines
from mlim.steps.plan import MAIN_PIPELINE, PIPELINES, SYSTEMS_PIPELINE, Pipeline, everything
from mlim.steps.stages import JUDGED_BY, SAME_RESULT, define_stages
from mlim.workspace import Workspace
from tests.watched_recipe import leaves

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CATALOGS = ("data", "scenes")
STEPS = (
    *("ingest", "validate", "pairs", "annotate", "pretrain", "finetune", "stack"),
    *("evaluate", "ablate", "probe", "report", "register", "match"),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder of the code, params.yaml and the dvc.yaml that was made of them."""
    shutil.copytree(ROOT / "mlim", tmp_path / "mlim", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stages(root: Path = ROOT, pipeline: Pipeline = MAIN_PIPELINE) -> dict:
    return yaml.safe_load((root / pipeline.file).read_text())["stages"]


def test_the_committed_files_are_what_is_generated() -> None:
    """Point 14: `mlim pipeline --check`, as the hook before a commit runs it."""
    check_pipelines(ROOT)


def test_the_check_covers_the_second_pipeline(project: Path) -> None:
    shutil.copytree(ROOT / SYSTEMS_PIPELINE.folder, project / SYSTEMS_PIPELINE.folder)
    check_pipelines(project)
    for path in (project / SYSTEMS_PIPELINE.parameters, project / SYSTEMS_PIPELINE.file):
        before = path.read_text()
        path.write_text(before.replace("systems-demo", "another"))
        with pytest.raises(InputError, match="run `mlim pipeline --write`") as refused:
            check_pipelines(project)
        assert [str(path) in problem for problem in refused.value.problems] == [True]
        write_pipelines(project)
        assert path.read_text() == before


def test_a_new_import_is_noticed(project: Path) -> None:
    """Point 14: a step that imports more depends on more, and the check says so in one sentence."""
    assert "mlim/throughput.py" not in stages(project)["ablate"]["deps"]
    step = project / "mlim" / "steps" / "ablate.py"
    step.write_text(step.read_text() + "\n\ndef later() -> None:\n    import mlim.throughput\n")
    with pytest.raises(InputError, match="run `mlim pipeline --write`") as refused:
        check_pipelines(project)
    assert len(refused.value.problems) == 1
    write_pipelines(project)
    assert "mlim/throughput.py" in stages(project)["ablate"]["deps"]


def test_a_new_variant_is_noticed(project: Path) -> None:
    recipe = yaml.safe_load((project / "params.yaml").read_text())
    recipe["variants"]["another"] = {**recipe["variants"]["no-mdo"], "pretraining": "itm-mlm-mam"}
    (project / "params.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError):
        check_pipelines(project)
    write_pipelines(project)
    made = stages(project)["finetune-from-itm-mlm-mam"]
    assert made["matrix"]["name"] == ["another"]
    assert "build/demo/pretrain/itm-mlm-mam-s${item.seed}/model" in made["deps"]
    assert "pretrainings.itm-mlm-mam" in made["params"]


def test_a_setting_that_dvc_could_not_see_is_noticed(project: Path) -> None:
    """params.yaml has no defaults and extends nothing: DVC reads the file alone."""
    parameters = project / "params.yaml"
    parameters.write_text("extends: demo\nname: demo\nimage: {size: 64}\n")
    with pytest.raises(InputError, match=r"does not say seed and \d+ more.*mlim recipe show") as refused:
        write_pipelines(project)
    assert len(refused.value.problems) == 1
    parameters.write_text(show_recipe(resolve(str(parameters))))
    write_pipelines(project)


def test_a_missing_file_is_noticed(project: Path) -> None:
    (project / "dvc.yaml").unlink()
    with pytest.raises(InputError, match="is not what"):
        check_pipelines(project)


def test_without_recipe_or_code_it_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml"):
        pipeline_yaml(tmp_path)


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        ("pairs", "data"),
        ("validate", "data/catalog.yaml"),
        ("pairs", "build/demo/items/quarantine.parquet"),
        ("probe", "build/demo/pretrain"),
        ("ablate", "build/demo/pretrain"),
        ("register", "build/demo/pairs/summary.json"),
        ("report", "build/demo/valid/summary.json"),
    ],
)
def test_data_that_were_once_forgotten(stage: str, needed: str) -> None:
    """Point 14: a change of any of these left the result as it was."""
    assert needed in stages()[stage]["deps"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_dependency_on_code_exists(pipeline: Pipeline) -> None:
    for name, stage in stages(pipeline=pipeline).items():
        code = [path for path in stage["deps"] if not path.startswith((*CATALOGS, "build"))]
        assert code
        assert all((ROOT / path).exists() for path in code), name


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_everything_that_is_read_is_made_by_an_earlier_stage_or_is_the_catalog(pipeline: Pipeline) -> None:
    made = set(CATALOGS)
    for name, stage in stages(pipeline=pipeline).items():
        for path in (path for path in stage["deps"] if path.startswith((*CATALOGS, "build"))):
            path = path.replace("${seeds[0]}", "${item.seed}")
            path = re.sub(r"/[^/]+-s\$\{item.seed\}", "/${item.name}-s${item.seed}", path)
            places = {path, *map(str, Path(path).parents)}
            assert places & made or any(other.startswith(f"{path}/") for other in made), f"{name}: {path}"
        made |= {path for out in stage["outs"] for path in out}


def test_every_setting_makes_a_stage_stale_or_is_said_to_change_no_result() -> None:
    """Point 14: change each setting of the recipe: which stages follow it."""
    recipe = load_recipe(str(ROOT / "params.yaml"))
    known = [
        section for each in define_stages(recipe, Workspace(Path("build/demo"))).values() for section in each.settings
    ]
    cells = {"${item.name}": [*recipe.variants, *recipe.pretrainings]}
    filled = {section.replace("${item.name}", cell) for section in known for cell in cells["${item.name}"]}
    recorded = {"name", "tracking"}  # the report and the registry alone say these: they follow the whole recipe
    recorded |= {"match"}  # of commands that are no stages
    recorded |= {"promotion"}  # of registration
    recorded |= {f"gate.{key}" for key in type(recipe.gate).model_fields if key not in JUDGED_BY}  # of registration
    shown = {f"variants.{variant}.{key}" for variant in recipe.variants for key in ("label",)}
    for leaf in leaves(recipe.model_dump()):
        sections = {leaf[:end] for end in (*(i for i, c in enumerate(leaf) if c == "."), len(leaf))}
        assert sections & (filled | recorded | shown | set(SAME_RESULT)), leaf


def test_what_changes_no_result_is_no_dependency() -> None:
    recipe = load_recipe(str(ROOT / "params.yaml"))
    assert set(SAME_RESULT) <= {key for leaf in leaves(recipe.model_dump()) for key in (leaf, leaf.rpartition(".")[0])}
    for name, stage in stages().items():
        for quiet in SAME_RESULT:
            assert not [key for key in followed(stage) if f"{quiet}.".startswith(f"{key}.")], f"{name} follows {quiet}"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_setting_that_is_followed_is_in_params_yaml(pipeline: Pipeline) -> None:
    """DVC refuses a stage whose parameter is missing."""
    params = yaml.safe_load((ROOT / pipeline.parameters).read_text())
    sections = {
        leaf[:end] for leaf in leaves(params) for end in (*(i for i, c in enumerate(leaf) if c == "."), len(leaf))
    }
    for stage in stages(pipeline=pipeline).values():
        for name in stage.get("matrix", {}).get("name", [""]):
            keys = [key.replace("${item.name}", name) for key in followed(stage)]
            assert set(keys) <= sections


def followed(stage: dict) -> list[str]:
    """The keys of params.yaml that a stage follows; none where it follows the whole file."""
    beside = [
        key for entry in stage["params"] if isinstance(entry, dict) for keys in entry.values() for key in keys or ()
    ]
    return [*(key for key in stage["params"] if isinstance(key, str)), *beside]


def test_the_stages_keep_the_names_of_the_plan() -> None:
    recipe = load_recipe(str(ROOT / "params.yaml"))
    assert {stage.kind for stage in everything(recipe)} == set(stages())


def test_nothing_that_another_reader_of_imports_finds_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 14: import-linter's own graph of the whole package is in what each step is said to depend on."""
    monkeypatch.setattr(closure, "WITHOUT_EFFECT", frozenset())
    sources, graph = Sources(ROOT), grimp.build_graph("mlim", cache_dir=None)
    for step in STEPS:
        found = sources.closure([f"mlim.steps.{step}"])
        for module in graph.find_upstream_modules(f"mlim.steps.{step}"):
            path = Path(*module.split("."))
            places = {path.with_suffix(".py"), path / "__init__.py", path, *path.parents}
            assert places.intersection(map(Path, found)), f"{step} imports {module}"
