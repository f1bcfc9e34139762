"""`python -m flows.set_up`: gives the server of PREFECT_API_URL what this project's flows need.

The work pool, the limit of one training at a time on the accelerator, the deployments of prefect.yaml and the
automation of `notifications.py`. All in one process, and a process of its own: it is the server's client, and loading
Prefect takes longer than what a `prefect` command then does.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from prefect.cli import app
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows import notifications
from flows.server import GPU_LIMIT, ONE_AT_A_TIME, POOL
from mlim.errors import MlimError
from mlim.failures import exit_code_of

DEPLOY = ("prefect", "--no-prompt", "deploy", "--all")


def main() -> int:
    """Set the server up for the project in the current folder; an error is one sentence."""
    return exit_code_of(_set_up)


def _set_up() -> None:
    settings = notifications.from_environment()
    with get_client(sync_client=True) as client:
        if _missing(client.read_work_pool, POOL):
            make_pool(client)
        if _missing(client.read_global_concurrency_limit_by_name, GPU_LIMIT):
            make_limit(client)
    _deploy()
    asyncio.run(notifications.set_up(settings))


def make_pool(client: SyncPrefectClient) -> None:
    """The work pool of this machine's processes."""
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))


def make_limit(client: SyncPrefectClient) -> None:
    """The limit of one training at a time on the accelerator."""
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=ONE_AT_A_TIME))


def _missing(read: Callable[[str], Any], name: str) -> bool:
    """Whether the server has nothing of this name."""
    try:
        read(name)
    except ObjectNotFound:
        return True
    return False


def _deploy() -> None:
    """The command itself, in this process: what it does with prefect.yaml can be had in no other way."""
    sys.argv = list(DEPLOY)
    try:
        app()
    except SystemExit as end:
        if end.code:
            raise MlimError(f"`{' '.join(DEPLOY)}` failed (exit {end.code}); see above") from None


if __name__ == "__main__":
    sys.exit(main())
