"""Model versions in MLflow's registry: what is stored, and what is refused.

A version is a pyfunc model from code (mlim/serving.py) with the whole `mlim` package beside it, so that it loads
where mlim is not installed and always runs with the code that made it; nothing in it is a pickle. The SHA-256 of the
manifest of all its files, code included, is a tag of the version: what differs is refused before any of it runs. Which
version is challenger (the newest one) and which champion (the one in use), `roles` knows (mlim/roles.py).
"""

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from mlim.config import parse
from mlim.errors import InputError, MlimError
from mlim.evaluation.gate import GateDecision
from mlim.failures import MAKE_ROOM, disk_is_full
from mlim.files import read_json
from mlim.local_store import SQLITE
from mlim.manifest import ARTIFACT, MANIFEST, ChangedFilesError, check_manifest, remove_derived, write_manifest
from mlim.recipe.tracking import TrackingConfig
from mlim.roles import CHALLENGER, CHAMPION, Roles
from mlim.signatures import SIGNATURE, check_signature, sign, signing_key
from mlim.tracking import RUNNING, URI_VARIABLE, as_mlim_error, client, tracking_uri

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

MODEL_SHA256 = "mlim.model_sha256"  # of the manifest of weights, settings and tokenizer: the same model
VERSION_SHA256 = "mlim.version_sha256"  # of the manifest of every file of the version, with the code beside it
RUN_PREFIX = "mlim.run."  # with a stage: the run of that stage that led to a version
RUN_OF_REGISTRATION = f"{RUN_PREFIX}register"
FORCED = "mlim.forced"  # of a version: why it is champion against all objections
PROMOTION = "mlim.promotion"  # the last decision about a version, in a sentence
GATE_DECISION = "mlim.gate_decision"  # all that the quality gate found at registration, as JSON
GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")
STORE_VARIABLES = (URI_VARIABLE, "MLFLOW_REGISTRY_URI")
LOCAL = "file:///"  # of what lies in a folder of this machine
NAME = "matcher"
PAGE_CHARACTERS = 5000  # of a description in MLflow
REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^@/]+)(?:[@/](?P<choice>[^@/]+))?")
INPUTS = ("text_a", "image_a", "text_b", "image_b", "fields_a", "fields_b")
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
    "scipy",
    "skops",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "transformers",
)


class Registry:
    """The versions of a registered model: that of `tracking.model_name`, or another one by name."""

    def __init__(self, tracking: TrackingConfig, name: str | None = None) -> None:
        self.name = name or tracking.model_name
        self.uri = tracking_uri(tracking)
        self._client = client(tracking)
        self.roles = Roles(self._client, self.name, self.uri)

    def add(self, run_id: str, folder: Path, example: "pd.DataFrame", modality: str, tags: Mapping[str, str]) -> str:
        """Log the files in `folder` as a model of run `run_id`, register it, and give the new version."""
        import mlflow

        from mlim import serving

        signing_key()  # one that cannot be used is said before anything is stored
        code = Path(serving.__file__)  # stored as text, with the package that it lies in
        with as_mlim_error(self.uri), _fluent(self.uri), _no_bytecode(), mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=NAME,
                python_model=str(code),
                artifacts={ARTIFACT: str(folder)},
                code_paths=[str(code.parent)],
                pip_requirements=requirements(),
                signature=signature(modality),
                input_example=example,
            )
            all_tags = {**tags, VERSION_SHA256: self._seal(logged.model_id)}
            with redirect_stderr(io.StringIO()):  # it tells the terminal, whatever the level of its loggers
                version = mlflow.register_model(logged.model_uri, self.name, tags=all_tags).version
        with as_mlim_error(self.uri):
            self._client.update_run(run_id, status=RUNNING)  # leaving MLflow's block ended it; its stage is at work
        return str(version)

    def _seal(self, model_id: str) -> str:
        """Put signature and manifest of all files of a logged model beside them; gives the manifest's SHA-256."""
        with TemporaryDirectory() as temporary:
            place = self._client.get_logged_model(model_id).artifact_location
            folder = self._download(f"models:/{model_id}", place, temporary)
            remove_derived(folder)
            sign(folder)
            sha256 = write_manifest(folder)
            for path in (folder / SIGNATURE, folder / MANIFEST):
                if path.is_file():
                    self._client.log_model_artifact(model_id, str(path))
        return sha256

    def find(self, sha256: str) -> str | None:
        """The newest version of the same model whose files are still those that were registered, if there is one."""
        with as_mlim_error(self.uri):
            known = self._client.search_model_versions(f"name='{self.name}'")
        same = [int(version.version) for version in known if version.tags.get(MODEL_SHA256) == sha256]
        return next((str(version) for version in sorted(same, reverse=True) if self.is_whole(str(version))), None)

    def is_whole(self, version: str) -> bool:
        """Whether the files of a version can be fetched and are those that were registered."""
        try:
            self.check(version)
        except ChangedFilesError:
            return False
        return True

    def check(self, version: str) -> None:
        """`ChangedFilesError` unless the files of a version can be fetched and are those that were registered."""
        with self.fetched(version):
            pass

    @contextmanager
    def fetched(self, version: str) -> Iterator[Path]:
        """A temporary folder with the files of a version, once they are compared with the registry's record.

        Nothing of the version has run by then. `ChangedFilesError` when files are gone, changed, added or were never
        recorded, or are not signed with the key that is asked for (mlim/signatures.py); `MlimError` when the
        store gives no answer, or the disk has no room for them.
        """
        recorded = self.tags(version).get(VERSION_SHA256)
        if recorded is None:
            raise ChangedFilesError(
                f"{self.name} version {version} has no record of its files ({VERSION_SHA256}); register the model again"
            )
        with TemporaryDirectory() as temporary:
            folder = self._fetch(version, temporary)
            remove_derived(folder)
            check_manifest(folder, f"{self.name} version {version}", recorded)
            check_signature(folder, f"{self.name} version {version}")
            yield folder

    def _fetch(self, version: str, temporary: str, file: str = "") -> Path:
        """A copy of all files of a version, or of one; `ChangedFilesError` when they are gone."""
        from mlflow.exceptions import MlflowException

        with _fluent(self.uri), as_mlim_error(self.uri):
            try:
                place = "" if file else self._client.get_model_version_download_uri(self.name, version)
                return self._download(f"models:/{self.name}/{version}/{file}".removesuffix("/"), place, temporary)
            except (MlflowException, OSError) as error:
                if full := disk_is_full(error):
                    what = f"the files of {self.name} version {version} do not fit there"
                    raise MlimError(f"{temporary}: {what} ({full}); {MAKE_ROOM}") from error
                if not self.uri.startswith(SQLITE) and getattr(error, "error_code", None) not in GONE:
                    raise  # a server that is away for a moment
                reason = str(error).splitlines()[0]
                raise ChangedFilesError(
                    f"the files of {self.name} version {version} are gone ({reason}); register the model again"
                ) from error

    def _download(self, source: str, place: str, temporary: str) -> Path:
        """A copy of a model, or of one file of it, in or below a temporary folder; its store keeps it at `place`.

        What lies beside a store in a file is copied here: MLflow, which checks the path of each of the hundreds of
        files, takes twice the time.
        """
        import mlflow

        if self.uri.startswith(SQLITE) and place.startswith(LOCAL):
            kept = url2pathname(urlsplit(place).path)
            return Path(shutil.copytree(kept, temporary, copy_function=shutil.copyfile, dirs_exist_ok=True))
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=temporary))

    def missing(self, version: str) -> list[str]:
        """The files of a version that its store no longer lists, by its manifest; no file but that is read.

        `ChangedFilesError` when the manifest itself is gone, `MlimError` when the store gives no answer.
        """
        import mlflow

        source = f"models:/{self.name}/{version}"
        with TemporaryDirectory() as temporary, _fluent(self.uri):
            manifest = self._fetch(version, temporary, MANIFEST)
            named = set(read_json(manifest))
            with as_mlim_error(self.uri):
                kept = {
                    entry.path
                    for folder in {PurePosixPath(name).parent for name in named}
                    for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{source}/{folder}".removesuffix("/."))
                }
        return sorted(named - kept)

    def version_of(self, choice: str) -> str:
        """The version that a number or an alias names; `InputError` when there is none."""
        version = choice if choice.isdecimal() else self.roles.holder(choice)
        with as_mlim_error(self.uri):
            known = {str(each.version) for each in self._client.search_model_versions(f"name='{self.name}'")}
        if version is None and choice == CHAMPION and known:
            raise InputError(
                f"{self.name} has {len(known)} version{'s' * (len(known) > 1)} and no champion in {self.uri}: "
                f"`mlim register` says what stands against the newest one, which is models:/{self.name}@{CHALLENGER}"
            )
        if version is None or version not in known:
            advice = _no_model(self.name) or "`mlim register` makes one"
            raise InputError(f"{self.name} has no version `{choice}` in {self.uri}; {advice}")
        return version

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version."""
        with as_mlim_error(self.uri):
            return dict(self._client.get_model_version(self.name, version).tags)

    def gate_decision(self, version: str) -> GateDecision | None:
        """What the quality gate found about a version; None for one of before it was recorded."""
        found = self.tags(version).get(GATE_DECISION)
        where = f"the tag {GATE_DECISION} of {self.name} version {version}"
        return None if found is None else parse(GateDecision, json.loads(found), where)

    def describe(self, version: str, page: str) -> None:
        """Give a version its page (Markdown), and the registered model that of its champion."""
        with as_mlim_error(self.uri):
            self._client.update_model_version(self.name, version, page[:PAGE_CHARACTERS])
        self.show_champion()

    def show_champion(self) -> None:
        """Let the registered model's page be that of its champion, or of its challenger while there is none."""
        shown = self.roles.holder(CHAMPION) or self.roles.holder(CHALLENGER)
        if shown is not None:
            with as_mlim_error(self.uri):
                page = self._client.get_model_version(self.name, shown).description or ""
                self._client.update_registered_model(self.name, page)

    def add_tags(self, version: str, tags: Mapping[str, str]) -> None:
        """Add tags to a version; those of the same names are replaced."""
        with as_mlim_error(self.uri):
            for name, value in tags.items():
                self._client.set_model_version_tag(self.name, version, name, value)

    def score(self, version: str, requests: Iterable["pd.DataFrame"]) -> NDArray[np.float64]:
        """The probability (n,) that a version gives to every pair of the requests: `answer` without the decisions."""
        return np.asarray(self.answer(version, requests)["probability"], dtype=np.float64)

    def answer(self, version: str, requests: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
        """What a version answers to every pair of the requests (probability, match), loaded as any client would.

        Its files are compared with the registry's record first (`fetched`). Runs in this process, so with the code
        installed here and not the copy inside the version.
        """
        import mlflow
        import pandas as pd

        with self.fetched(version) as folder, _fluent(self.uri):
            model = mlflow.pyfunc.load_model(str(folder))
            known = model.metadata.get_input_schema().input_names()  # earlier versions read no fields
            parts = [model.predict(request[request.columns.intersection(known)]) for request in requests]
        answers: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return answers


def referred(tracking: TrackingConfig, reference: str, where: str) -> tuple[Registry, str]:
    """The registered model that `reference` names, and the number or alias of its version (default: champion).

    Written as models:/NAME@ALIAS, models:/NAME/3 or without the scheme; else `InputError`, which begins with `where`.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(f"{where} {reference}: write it as models:/NAME@champion or models:/NAME/3")
    return Registry(tracking, found["name"]), found["choice"] or CHAMPION


def registered(tracking: TrackingConfig) -> dict[str, dict[str, dict[str, str]]]:
    """The tags of every version of every registered model of the store, by name and number."""
    with as_mlim_error(tracking_uri(tracking)):
        versions = client(tracking).search_model_versions()
    found: dict[str, dict[str, dict[str, str]]] = {}
    for each in sorted(versions, key=lambda one: (one.name, int(one.version))):
        found.setdefault(each.name, {})[str(each.version)] = dict(each.tags)
    return found


def _no_model(name: str) -> str:
    """What a name is instead of a registered model's, and how one is written; "" where it may be one."""
    kind = "number" if name.isdecimal() else "folder" if Path(name).is_dir() else ""
    return kind and f"`{name}` is a {kind}: name a registered version, models:/NAME@ALIAS or models:/NAME/VERSION"


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
    """Strings in (pictures as base64, fields as JSON), probability and decision out.

    The parameter `modality` chooses what counts.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    inputs: list[Any] = [ColSpec(DataType.string, name, required=False) for name in INPUTS]
    outputs: list[Any] = [ColSpec(DataType.double, "probability"), ColSpec(DataType.boolean, "match")]
    parameters = ParamSchema([ParamSpec("modality", DataType.string, modality)])
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=parameters)
