"""Prefect's server on a socket that is open already, for those alone who call it by a name of loopback.

Prefect looks at the login (PREFECT_SERVER_API_AUTH_STRING) and at origins, not at the Host header, with which a page
of somebody's site reaches loopback under the site's own name (DNS rebinding).
"""

import socket
import sys

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.middleware.trustedhost import TrustedHostMiddleware

HOSTS = ("127.0.0.1", "localhost")


def main() -> None:
    """Serve on the listening socket whose file descriptor is the argument, until a signal comes."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    settings = get_current_settings().server.api
    config = uvicorn.Config(
        TrustedHostMiddleware(create_app(final=True), allowed_hosts=HOSTS, www_redirect=False),
        timeout_keep_alive=settings.keepalive_timeout,
        ws_ping_interval=settings.websocket_ping_interval,
        ws_ping_timeout=settings.websocket_ping_timeout,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
