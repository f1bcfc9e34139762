"""The pipeline's flow in this process: Prefect's settings before it, and its errors in one sentence.

Without a server of its own Prefect starts one for as long as the flow runs. It keeps this user's data, deployments
among them, so it has a login too: a secret that this process and its children alone know.
"""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

from flows.login import USER, login_file
from mlim.errors import InputError
from mlim.processes import LOOPBACK, reach_loopback_directly, without_proxies

BEFORE = {  # read when prefect is loaded
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the stages speak for themselves; a server gets its log
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # else events that a server which is gone does not take
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # not 5, a minute for each question to a server that is gone
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # not 20: with two free cores it takes 12
}


@contextmanager
def engine() -> Iterator[str | None]:
    """Prefect, ready for a flow in the block; yields the address of its server when one runs already.

    `InputError` when that one asks for another login.
    """
    address = _prepare()
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield address
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.UNAUTHORIZED:
            raise
        raise InputError(
            f"the Prefect server {address} asks for a login; if it is yours, run: "
            f'export PREFECT_API_AUTH_STRING="$(cat {login_file()})"'
        ) from None


def _prepare() -> str | None:
    """Set the environment of Prefect and of the server that it may start; gives the address of one that runs."""
    for name, value in BEFORE.items():
        os.environ.setdefault(name, value)
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url  # from the environment or from a profile of this user
    if address is None:
        os.environ.update(_own_server())
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")  # nobody reads it, and it is kept
    if address is None or urlsplit(address).hostname in LOOPBACK:
        reach_loopback_directly(os.environ)
        hidden = without_proxies(os.environ)
        os.environ.clear()
        os.environ.update(hidden)
    refresh_global_settings_context()
    if address is None:
        _start_own_server()
    return address


def _start_own_server() -> None:
    """Start the server that lives as long as this process, and leave Ctrl-C in the terminal to this process.

    It reaches both: a server that stopped at once could not be told how the run ended. Meanwhile it is held back, which
    the new process inherits.
    """
    from prefect.server.api.server import SubprocessASGIServer

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _own_server() -> dict[str, str]:
    """A login for the server that lives as long as this process, and no page of any site."""
    secret = f"{USER}:{secrets.token_urlsafe()}"
    names = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
    return {**dict.fromkeys(names, secret), "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1"}
