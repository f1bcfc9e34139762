"""In which project a folder lies: DVC runs experiments in copies that it removes."""

from pathlib import Path

import pytest

from mlim.recipe.tracking import TrackingConfig
from mlim.tracking import tracking_uri
from mlim.versions import project_of


def test_a_copy_of_an_experiment_belongs_to_its_project(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    assert project_of(copy) == tmp_path.resolve()
    assert project_of(copy / "pipelines" / "systems") == tmp_path.resolve()
    assert project_of(tmp_path / ".dvc" / "tmp") == tmp_path / ".dvc" / "tmp"


def test_a_database_without_a_folder_lies_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path.resolve() / 'runs.db'}"
    assert tracking_uri(TrackingConfig(uri="sqlite:////elsewhere/runs.db")) == "sqlite:////elsewhere/runs.db"
