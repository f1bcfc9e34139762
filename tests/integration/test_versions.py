"""Which code and which data: git and DVC, present or absent."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlim.errors import InputError
from mlim.files import MARKER, sha256_of, write_json
from mlim.recipe import Recipe, load_recipe
from mlim.steps.pipeline import pipeline_of
from mlim.versions import (
    UNKNOWN,
    commit_data,
    dvc_outputs,
    git_state,
    lineage,
    repro_command,
)
from mlim.workspace import Workspace
from mlim.writer import claim_work

pytestmark = pytest.mark.integration


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("/build\n/data\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


@pytest.fixture
def ingested(repository: Path) -> Workspace:
    """A work folder whose items were ingested from data/catalog.yaml and validated."""
    workspace = Workspace(repository / "build" / "demo")
    (repository / "data").mkdir()
    write_json(workspace.items / "manifest.json", [{"file": "part-00000.parquet"}])
    write_json(workspace.items / "summary.json", {"catalog": "data/catalog.yaml"})
    write_json(workspace.valid / "summary.json", {"success": True})
    return workspace


def test_commit_and_dirtiness(repository):
    commit, dirty = git_state(repository)
    assert (commit, dirty) == (git(repository, "rev-parse", "HEAD"), False)
    (repository / "new.py").write_text("")
    assert git_state(repository) == (commit, True)


def test_what_the_pipeline_writes_itself_is_not_dirt(repository):
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    assert git_state(repository)[1] is False


def test_outside_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == (UNKNOWN, False)


def test_without_git_the_commit_is_unknown(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository / "empty"))
    assert git_state(repository) == (UNKNOWN, False)


def test_an_empty_work_folder_has_no_data_version(repository):
    found = lineage(Workspace(repository / "build" / "demo"), repository)
    assert (found.data_version, found.items, found.validation) == (UNKNOWN, UNKNOWN, UNKNOWN)


def test_data_without_dvc_are_named_by_their_manifest(repository, ingested):
    found = lineage(ingested, repository)
    assert found.data_version == found.items == sha256_of(ingested.items / "manifest.json")
    assert (found.catalog, found.validation, found.dirty) == ("data/catalog.yaml", "passed", False)


def test_data_under_dvc_are_named_by_its_hash(repository, ingested):
    (repository / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef.dir\n  path: data\n")
    found = lineage(ingested, repository)
    assert found.data_version == "0123456789abcdef.dir"
    assert found.items == sha256_of(ingested.items / "manifest.json")


def test_a_failed_validation_is_on_record(repository, ingested):
    write_json(ingested.valid / "summary.json", {"success": False})
    assert lineage(ingested, repository).validation == "failed"


@pytest.fixture
def demo() -> Recipe:
    return load_recipe("demo")


@pytest.fixture
def pipeline(repository: Path, demo: Recipe) -> Path:
    (repository / ".dvc").mkdir()
    (repository / "dvc.yaml").write_text("stages: {}\n")
    (repository / "params.yaml").write_text(demo.to_yaml())
    return repository


def test_the_pipeline_of_params_yaml_is_recognised(pipeline, demo):
    catalog, workspace = pipeline / "data" / "catalog.yaml", Workspace(pipeline / "build" / "demo")
    assert pipeline_of(demo, catalog, workspace, pipeline)
    assert not pipeline_of(load_recipe("demo", ["pretrain.steps=7"]), catalog, workspace, pipeline)
    assert not pipeline_of(demo, pipeline / "shop.yaml", workspace, pipeline)
    assert not pipeline_of(demo, catalog, Workspace(pipeline / "elsewhere"), pipeline)


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_without_its_files_there_is_no_pipeline(pipeline, demo, name):
    (pipeline / name).unlink()
    workspace = Workspace(pipeline / "build" / "demo")
    assert not pipeline_of(demo, pipeline / "data" / "catalog.yaml", workspace, pipeline)


def test_relative_places_count_from_the_current_folder(pipeline, demo, monkeypatch):
    monkeypatch.chdir(pipeline)
    assert pipeline_of(demo, Path("data/catalog.yaml"), Workspace(Path("build/demo")))


def test_a_broken_params_yaml_is_not_the_pipeline(pipeline, demo):
    (pipeline / "params.yaml").write_text("name: [\n")
    workspace = Workspace(pipeline / "build" / "demo")
    assert not pipeline_of(demo, pipeline / "data" / "catalog.yaml", workspace, pipeline)


def test_repro_runs_one_stage_with_this_python():
    assert repro_command("pretrain@recon-mlm-mam-0") == [
        *(sys.executable, "-m", "mlim.forked", "dvc.cli:main", "--wait-for-lock", "repro", "--single-item"),
        "pretrain@recon-mlm-mam-0",
    ]


def test_a_folder_without_dvc_file_is_left_alone(tmp_path):
    assert commit_data(tmp_path / "data") == ""


@pytest.mark.integration
def test_data_made_again_are_recorded_by_dvc(repository):
    (repository / "data").mkdir()
    (repository / "data" / "catalog.yaml").write_text("source: synthetic\n")
    (repository / ".gitignore").unlink()
    for arguments in (["init", "--quiet"], ["add", "--quiet", "data"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=repository, check=True)
    recorded = (repository / "data.dvc").read_text()
    assert commit_data(repository / "data") == ", as data.dvc has them"
    assert (repository / "data.dvc").read_text() == recorded
    (repository / "data" / "catalog.yaml").write_text("source: table\n")
    assert commit_data(repository / "data") == "; data.dvc now names them"
    assert (repository / "data.dvc").read_text() != recorded


def test_what_dvc_brings_back_into_a_work_folder_is_known(tmp_path, monkeypatch):
    """Point 19: after `dvc pull` a work folder holds outputs of the pipeline and no marker; it is ours all the same."""
    (tmp_path / "params.yaml").write_text("name: demo\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  one: {cmd: x, outs: [build/demo/items, build/demo/valid/index.parquet, build/other/x]}\n"
        "  two: {cmd: x, outs: [{build/demo/probe: {persist: true}}]}\n"
    )
    monkeypatch.chdir(tmp_path)
    work = Path("build/demo")
    assert dvc_outputs(work) == {"items", "valid", "probe"}
    for name in ("items", "valid", "mine"):
        (work / name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"did not make \(mine\)"):
        claim_work(Workspace(work))
    (work / "mine").rmdir()
    claim_work(Workspace(work))
    assert (work / MARKER).is_file()
    assert dvc_outputs(work, tmp_path / "build") == frozenset()
