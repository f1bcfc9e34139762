"""What `mlim doctor` finds: versions, devices, servers, and what is misconfigured."""

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mlim.errors import MlimError
from mlim.recipe import Recipe

# All that a machine needs which only trains (docs/training.md)
TRAINING = ("torch", "transformers", "pyarrow", "pillow", "pydantic", "pandas", "pyyaml")
PACKAGES = (*TRAINING, "prefect", "mlflow", "dvc", "great-expectations")
FASTAPI_LIMIT = (0, 153)  # Prefect's server refuses deployments with this one or later (constraints.txt)
PORT_OF_SCHEME = {"http": 80, "https": 443}
LEAST_FREE_BYTES = 2 * 1024**3
CONNECT_SECONDS = 2.0


class Finding(NamedTuple):
    """One line of the examination."""

    subject: str
    fine: bool
    detail: str


def examine(recipe: Recipe) -> list[Finding]:
    """Everything worth knowing before a run of `recipe` here; of an untracked one, before a training."""
    place = [_devices(recipe), _tracking(recipe), _prefect(), _dvc(), _disk()]
    if recipe.tracking.untracked:
        return [*_packages(TRAINING), *place]
    return [*_packages(PACKAGES), *_fastapi(), *place]


def _packages(names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "is not installed; run `pip install -c constraints.txt -e .`")


def _fastapi() -> Iterator[Finding]:
    try:
        installed = version("fastapi")
    except PackageNotFoundError:  # Prefect, which brings it, is missed already
        return
    fine = tuple(int(part) for part in installed.split(".")[:2]) < FASTAPI_LIMIT
    yield Finding("fastapi", fine, installed if fine else f"{installed} keeps Prefect's server from working; use 0.149")


def _devices(recipe: Recipe) -> Finding:
    from mlim.training.device import choose_device

    try:
        device = choose_device(recipe.device)
    except MlimError as error:
        return Finding("device", False, str(error))
    return Finding("device", True, f"{device} ({os.cpu_count()} CPU cores)")


def _tracking(recipe: Recipe) -> Finding:
    if recipe.tracking.untracked:
        return Finding("MLflow", True, "not used (tracking.uri: none); `mlim import-run` records the trainings later")
    from mlim.tracking import check_server, tracking_uri

    try:
        check_server(recipe)
    except MlimError as error:
        return Finding("MLflow", False, str(error))
    return Finding("MLflow", True, tracking_uri(recipe))


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("Prefect", True, "no server configured: flows run in this process (PREFECT_API_URL is not set)")
    fine = _answers(address)
    return Finding("Prefect", fine, address if fine else f"{address} does not answer; `make serve-prefect` starts one")


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        port = parts.port or PORT_OF_SCHEME.get(parts.scheme, 0)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _dvc() -> Finding:
    if not Path("dvc.yaml").is_file():
        return Finding("DVC workspace", True, "none here: `mlim run` runs its stages directly")
    missing = [name for name in ("params.yaml", ".dvc", "data") if not Path(name).exists()]
    if missing:
        return Finding("DVC workspace", False, f"{', '.join(missing)} missing; `mlim catalog synthesize` makes data")
    return Finding("DVC workspace", True, str(Path.cwd()))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("free disk", free >= LEAST_FREE_BYTES, f"{free / 1024**3:.0f} GiB")
