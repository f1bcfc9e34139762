"""`python -m flows.set_up`: gives the server of PREFECT_API_URL what this project's flows need.

The work pool, the limit of one training at a time on the accelerator, the deployments of prefect.yaml and the
automation of `notifications.py`. All in one process, and a process of its own: it is the server's client, and loading
Prefect takes longer than what a `prefect` command then does.
"""

import asyncio
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

from prefect.cli import app
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows import notifications
from flows.server import GPU_LIMIT, ONE_AT_A_TIME, POOL
from mlim.errors import MlimError
from mlim.failures import exit_code_of

MANY = 200  # the most that the server tells at once
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
    with get_client(sync_client=True) as client:
        print(described(client.read_deployments(limit=MANY)), flush=True)
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
    """The command itself, in this process: what it does with prefect.yaml can be had in no other way.

    It says twenty lines about each deployment, some of them wrong here (to start a worker); they are shown if it fails.
    """
    sys.argv, said = list(DEPLOY), io.StringIO()
    try:
        with redirect_stdout(said):
            app()
    except SystemExit as end:
        if end.code:
            print(said.getvalue(), file=sys.stderr)
            raise MlimError(f"`{' '.join(DEPLOY)}` failed (exit {end.code}); see above") from None


def described(deployments: Sequence[DeploymentResponse]) -> str:
    """How many there are, and which of them run by themselves."""
    scheduled = [
        f"{one.entrypoint.rpartition(':')[2] if one.entrypoint else one.name}/{one.name} at {schedule.schedule.cron}"
        for one in deployments
        for schedule in one.schedules
        if schedule.active and isinstance(schedule.schedule, CronSchedule)
    ]
    return f"{len(deployments)} deployments; by schedule: {', '.join(sorted(scheduled)) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
