"""Model versions in MLflow's registry: what is stored, who is challenger, who is champion.

A version is a pyfunc model from code (mlim/serving.py) with the whole `mlim` package beside it, so that it loads
where mlim is not installed and always runs with the code that made it; nothing in it is a pickle. The aliases
`challenger` (the newest version) and `champion` (the one in use) are the truth; MLflow's older stages and a `stage`
tag say the same for tools that still read those.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import mlim
from mlim.recipe import Recipe
from mlim.serving import ARTIFACT
from mlim.tracking import URI_VARIABLE, as_mlim_error, client, tracking_uri

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

Stage = Literal["Production", "Staging", "Archived"]

CHAMPION = "champion"
CHALLENGER = "challenger"
STAGE_TAG = "stage"
MODEL_SHA256 = "mlim.model_sha256"
STORE_VARIABLES = (URI_VARIABLE, "MLFLOW_REGISTRY_URI")
NAME = "matcher"
CODE = Path(mlim.__file__).parent / "serving.py"
INPUTS = ("text_a", "image_a", "text_b", "image_b")
# What the code beside the model imports; written as exact versions, so that MLflow guesses and looks up nothing.
REQUIREMENTS = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "torch",
    "transformers",
)


class Registry:
    """The versions of the recipe's registered model (`tracking.model_name`)."""

    def __init__(self, recipe: Recipe) -> None:
        self.name = recipe.tracking.model_name
        self.uri = tracking_uri(recipe)
        self._client = client(recipe)

    def add(self, run_id: str, folder: Path, example: "pd.DataFrame", modality: str, tags: Mapping[str, str]) -> str:
        """Log the sealed files in `folder` as a model of run `run_id`, register it, and give the new version."""
        import mlflow

        with as_mlim_error(self.uri), _fluent(self.uri), _no_bytecode(), mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=NAME,
                python_model=str(CODE),
                artifacts={ARTIFACT: str(folder)},
                code_paths=[str(CODE.parent)],
                pip_requirements=requirements(),
                signature=signature(modality),
                input_example=example,
            )
            with redirect_stderr(io.StringIO()):  # it tells the terminal, whatever the level of its loggers
                version = mlflow.register_model(logged.model_uri, self.name, tags=dict(tags)).version
        return str(version)

    def find(self, sha256: str) -> str | None:
        """The newest version whose sealed files are the same, if there is one."""
        with as_mlim_error(self.uri):
            known = self._client.search_model_versions(f"name='{self.name}'")
        same = [int(version.version) for version in known if version.tags.get(MODEL_SHA256) == sha256]
        return str(max(same)) if same else None

    def holder(self, alias: str) -> str | None:
        """The version that has an alias, if any."""
        with as_mlim_error(self.uri):
            known = self._client.search_registered_models(f"name='{self.name}'")
        version = known[0].aliases.get(alias) if known else None
        return None if version is None else str(version)

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version."""
        with as_mlim_error(self.uri):
            return dict(self._client.get_model_version(self.name, version).tags)

    def aliases(self, version: str) -> list[str]:
        """The aliases of a version, sorted."""
        return [alias for alias in (CHALLENGER, CHAMPION) if self.holder(alias) == version]

    def challenge(self, version: str) -> None:
        """Make a version the challenger."""
        self._move(CHALLENGER, version, "Staging")

    def crown(self, version: str) -> None:
        """Make a version the champion; the one before it stays in the archive."""
        self._move(CHAMPION, version, "Production")

    def _move(self, alias: str, version: str, stage: Stage) -> None:
        before = self.holder(alias)
        with as_mlim_error(self.uri):
            self._client.set_registered_model_alias(self.name, alias, version)
            if before not in (None, version) and not self.aliases(str(before)):
                self._set_stage(str(before), "Archived")
            self._set_stage(version, "Production" if CHAMPION in self.aliases(version) else stage)

    def _set_stage(self, version: str, stage: Stage) -> None:
        self._client.set_model_version_tag(self.name, version, STAGE_TAG, stage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stages are deprecated; set while they exist
            self._client.transition_model_version_stage(self.name, version, stage)

    def score(self, version: str, requests: Iterable["pd.DataFrame"]) -> NDArray[np.float64]:
        """The probability (n,) that a version gives to every pair of the requests, loaded as any client would.

        Runs in this process, so with the code installed here and not the copy inside the version.
        """
        import mlflow

        with TemporaryDirectory() as folder, _fluent(self.uri):
            model = mlflow.pyfunc.load_model(f"models:/{self.name}/{version}", dst_path=folder)
            parts = [model.predict(request)["probability"].to_numpy() for request in requests]
        return np.concatenate(parts)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow imports the logged script where it lies: its compiled form would be stored with the version."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """MLflow's module-level functions on this store, for runs and models; the process is put back as it was."""
    import mlflow

    before = {name: os.environ.pop(name, None) for name in STORE_VARIABLES}
    search_path = list(sys.path)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        sys.path[:] = search_path  # MLflow puts a version's own code in front, for good


def requirements() -> list[str]:
    """The installed versions of what a model's code imports, as pip requirements (without local labels as `+cpu`)."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature(modality: str) -> "ModelSignature":
    """Strings in (pictures as base64), probability and decision out; the parameter `modality` chooses what counts."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    inputs: list[Any] = [ColSpec(DataType.string, name, required=False) for name in INPUTS]
    outputs: list[Any] = [ColSpec(DataType.double, "probability"), ColSpec(DataType.boolean, "match")]
    parameters = ParamSchema([ParamSpec("modality", DataType.string, modality)])
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=parameters)
