"""`mlim serve`: a registered version behind MLflow's scoring server, on this machine alone.

The version's files are compared with the registry's record before anything of them runs; then a process of its own
loads them (mlim/scoring_server.py), with the code that lies beside the model.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field, PositiveFloat, PositiveInt

from mlim.config import Config
from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.http_api.options import ApiOptions
from mlim.processes import die_with_parent, sigterm_raises, wait_briefly
from mlim.recipe import Recipe
from mlim.registry import referred
from mlim.signatures import without_signing_key

SCRIPT: Final = Path(__file__).parents[1] / "scoring_server.py"
HOST: Final = "127.0.0.1"
STOP_SECONDS: Final = 10.0


class ServerLimits(Config):
    """What a scoring server lets in; rows, text and pixels of a request are the version's own settings."""

    port: int = Field(default=5001, ge=1, le=65535)
    body_mb: PositiveFloat = Field(default=32.0, description="of one request, MiB")
    seconds: PositiveInt = Field(default=60, description="for a body to arrive, for a slot, and for an answer")
    at_once: PositiveInt = Field(default=2, description="requests that are computed at the same time")
    waiting: PositiveInt = Field(default=16, description="requests that have arrived and have no answer yet")
    hosts: tuple[str, ...] = Field(default=(HOST, "localhost"), description="what the header Host may say")


def api_options(
    recipe: Recipe, limits: ServerLimits, images: Path | None, hosts: Sequence[str], private: bool, wait_ms: float
) -> ApiOptions:
    """What the routes may do: pictures have the limits of ingest; `InputError` for a wrong folder or host."""
    from mlim.http_api.pictures import host_name  # with its libraries, which other commands do not need

    if images is not None and not images.is_dir():
        raise InputError(f"--images {images}: is no folder")
    return ApiOptions(
        images=None if images is None else images.resolve(),
        url_hosts=tuple(map(host_name, hosts)),
        private_urls=private,
        picture_mb=recipe.ingest.max_picture_mb,
        seconds=limits.seconds,
        batch_wait_ms=wait_ms,
    )


def serve(
    recipe: Recipe, model: str | None, limits: ServerLimits, terminal: Terminal, options: ApiOptions | None = None
) -> None:
    """Serve a version (`models:/NAME@ALIAS`, `NAME/3`; default: the recipe's champion) until stopped.

    `InputError` when there is no such version or the port is taken; `MlimError` when the version's files are not those
    that were registered, or its server ends by itself.
    """
    registry, choice = referred(recipe.tracking, model or recipe.tracking.model_name, "--model")
    _check_port(limits.port)
    version = registry.version_of(choice)
    with registry.fetched(version) as folder:
        terminal.say(f"{registry.name} version {version}: files are those that were registered; loading ...")
        terminal.say(
            f"answers at http://{HOST}:{limits.port} (/score, /encode, /explain, /invocations); Ctrl-C ends it"
        )
        _run(folder, limits, options or ApiOptions(seconds=limits.seconds))


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be used ({error.strerror}); choose another") from None


def _run(folder: Path, limits: ServerLimits, options: ApiOptions) -> None:
    wait_briefly()
    allowed = options.model_dump_json(exclude_defaults=True)
    command = [sys.executable, "-P", str(SCRIPT), str(folder), limits.model_dump_json(), allowed]
    environment = {**without_signing_key(os.environ), "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(limits.seconds)}
    with sigterm_raises():
        server = subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=die_with_parent)  # noqa: S603
        try:
            status = server.wait()
        finally:  # Ctrl-C, SIGTERM: the files are removed only when they are no longer read
            server.terminate()
            server.wait(STOP_SECONDS)
    if status:
        raise MlimError(f"the scoring server ended with status {status}; what it said stands above")
