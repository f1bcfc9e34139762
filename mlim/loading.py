"""`mlim.load`: a model by the place where it lies, whatever kind of place that is."""

from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.gate import GateDecision
from mlim.local_store import SQLITE, database
from mlim.manifest import ARTIFACT, MANIFEST, check_manifest
from mlim.matching.model import MatchingModel
from mlim.matching.settings import SETTINGS
from mlim.models.mlim import Mlim
from mlim.recipe import TrackingConfig, load_recipe, stored_recipe
from mlim.registry import referred
from mlim.roles import CHALLENGER, CHAMPION
from mlim.signatures import check_signature
from mlim.steps.packaged import package_model, read_decision, read_metrics
from mlim.tracking import tracking_uri, without_password
from mlim.workspace import Workspace
from mlim.writer import only_writer

if TYPE_CHECKING:
    import torch

    from mlim.matching.explained import ExplainedPair

SCHEME: Final = "models:/"
DESCRIPTION: Final = "MLmodel"  # in the folder of a version
EXPORTED: Final = "model"  # in the folder that `mlim export` wrote


class CatalogModel(MatchingModel):
    """A loaded model that also works on whole catalogs.

    `gate` is what the quality gate found when it was registered, None where that is not known.
    """

    name: str = "model"
    gate: GateDecision | None = None

    def match(
        self,
        catalog: str | PathLike[str],
        out: str | PathLike[str] = "matches",
        *,
        work: str | PathLike[str] | None = None,
        recipe: str = "demo",
        precision: float | None = None,
        recall: float | None = None,
        since: str | PathLike[str] | None = None,
        full_if_changed: bool = False,
        workers: int | None = None,
        quiet: bool = True,
    ) -> dict[str, Any]:
        """Find the matches of the catalog that a catalog.yaml describes, as `mlim match` does; returns its summary.

        Processes that decode images and score pairs import the script that calls: let it do so under
        `if __name__ == "__main__":`.

        Args:
            catalog: the catalog.yaml.
            out: the folder to be written, a new one or one of an earlier run.
            work: the work folder, which keeps items and what is computed of them; None: `build/RECIPE`.
            recipe: the settings of ingest, validation, candidates and groups.
            precision: what is promised with 95 % confidence; None: the model's threshold.
            recall: promised instead of a precision.
            since: the folder of an earlier match of this catalog, perhaps `out`: only what differs is scored and
                grouped, and the ids of groups stay.
            full_if_changed: match everything where that one is missing or was made with another model or settings.
            workers: processes that compute; None: one for each core where the work is worth starting them, or one where
                the model is on a GPU.
            quiet: print nothing but warnings.

        Raises:
            InputError: catalog, model or folders are wrong, there are too few labels for the promise, or the earlier
                match was made with another model or settings.
            MlimError: the catalog's data cannot be used, or another command is writing into the work folder.
        """
        from mlim.evaluation.promise import asked_promise
        from mlim.steps.match import match  # with its libraries, which only scoring pairs does not need
        from mlim.steps.score import prepared_for

        settings = prepared_for(load_recipe(recipe), self.settings)
        workspace = Workspace(Path(work) if work is not None else Path("build") / settings.name)
        with only_writer(workspace, settings.record, "mlim match"):
            return match(
                self,
                self.name,
                Path(catalog),
                Path(out),
                settings,
                workspace,
                Terminal(quiet),
                promise=asked_promise(precision, recall),
                since=None if since is None else Path(since),
                full_if_changed=full_if_changed,
                workers=workers,
                gate=self.gate,
            )

    def explain_items(
        self, first: str, second: str, work: str | PathLike[str], *, recipe: str = "demo"
    ) -> "ExplainedPair":
        """Why two items of a work folder match or not, as `mlim explain` says it.

        Args:
            first: the id of an item.
            second: the id of another one.
            work: the work folder, which also names the reference pairs and the nearest labelled pairs.
            recipe: where shards are read from, and the seed of what is drawn.

        Raises:
            InputError: an item is not there or was rejected, both are one, or images were prepared for another model.
        """
        from mlim.steps.explain import explain_pair

        return explain_pair(self, self.name, first, second, load_recipe(recipe), Workspace(Path(work)))


def load(
    where: str | PathLike[str], *, tracking_uri: str | None = None, device: "torch.device | str | None" = None
) -> CatalogModel:
    """Load a matching model from where it lies.

    Args:
        where: a version in MLflow's registry (`models:/mlim-matcher@champion`, `models:/mlim-matcher/3`), an alias of
            the default registered model (`champion`, `challenger`), the work folder of a pipeline (`build/demo`), or
            the folder of a model that was saved, downloaded or exported.
        tracking_uri: the registry's address; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.
        device: where to compute, as for torch; None: CUDA where there is one, else the CPU.

    Raises:
        InputError: nothing that can be loaded lies there.
        MlimError: the files are not those that were registered or saved, or the registry does not answer.
    """
    model = _loaded(where, tracking_uri, device)
    model.name = str(where)
    return model


def _loaded(where: str | PathLike[str], uri: str | None, device: "torch.device | str | None") -> CatalogModel:
    if isinstance(where, str) and (where.startswith(SCHEME) or where in (CHAMPION, CHALLENGER)):
        return _from_registry(where, uri, device)
    folder = Path(where)
    if (folder / DESCRIPTION).is_file():
        check_manifest(folder, f"the version in {folder}")
        check_signature(folder, f"the version in {folder}")
        return CatalogModel.from_folder(folder / "artifacts" / ARTIFACT, device)
    if (folder / SETTINGS).is_file() or (folder / MANIFEST).is_file():
        return CatalogModel.from_folder(folder, device)
    if (folder / EXPORTED / SETTINGS).is_file():
        return CatalogModel.from_folder(folder / EXPORTED, device)
    workspace = Workspace(folder)
    if workspace.recipe.is_file():
        return _from_work_folder(workspace, device)
    raise InputError(_nothing_there(folder))


def load_pretrained(folder: str | PathLike[str]) -> Mlim:
    """The pre-trained network in a `model` folder that `mlim pretrain` left, on the CPU in evaluation mode.

    `InputError` when the folder holds none.
    """
    return Mlim.from_pretrained(Path(folder))


def _from_registry(reference: str, uri: str | None, device: "torch.device | str | None") -> CatalogModel:
    tracking = _recorded_at(uri)
    if reference in (CHAMPION, CHALLENGER):
        reference = f"{tracking.model_name}@{reference}"
    registry, choice = referred(tracking, reference, "mlim.load:")
    version = registry.version_of(choice)
    with registry.fetched(version) as folder:
        model = CatalogModel.from_folder(folder / "artifacts" / ARTIFACT, device)
    model.gate = registry.gate_decision(version)
    return model


def _recorded_at(uri: str | None) -> TrackingConfig:
    """The registry at `uri`, with the default name of models; `InputError` for a file that does not exist."""
    tracking = TrackingConfig(uri=uri)
    found = tracking_uri(tracking)
    if found.startswith(SQLITE) and not database(found).is_file():
        raise InputError(
            f"{without_password(found)} does not exist; go to the project's folder, or name its registry: "
            f"tracking_uri=... of mlim.load, `--set tracking.uri={SQLITE}/PATH/mlflow.db` of a command"
        )
    return tracking


def _from_work_folder(workspace: Workspace, device: "torch.device | str | None") -> CatalogModel:
    recipe = stored_recipe(workspace.recipe)
    metrics = read_metrics(recipe, workspace)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / ARTIFACT
        sha256 = package_model(recipe, workspace, metrics, folder)
        model = CatalogModel.from_folder(folder, device)
    model.gate = read_decision(workspace, sha256)
    return model


def _nothing_there(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist; give a folder, or a registered version as models:/NAME@champion"
    if (folder / "config.json").is_file():
        return (
            f"{folder} holds a network without threshold and calibration; give the work folder or a registered version "
            "(a pre-trained network alone: mlim.load_pretrained)"
        )
    return f"{folder} is neither a work folder (recipe.yaml) nor a saved model ({SETTINGS})"
