"""The server behind the page of `mlim review`: on loopback, for who knows the token in the address.

The header Host must name this machine, so that no page of another site reaches it under a name of its own (DNS
rebinding); an Origin, where a browser sends one, must be the server's own. Answers are JSON, which no form of another
page can send.
"""

import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mlim.errors import InputError
from mlim.matching.review import ReviewSession

HOST: Final = "127.0.0.1"
HOSTS: Final = (HOST, "localhost")
JSON: Final = "application/json"
MAX_BYTES: Final = 10_000  # of a request
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Endpoint = Callable[[Request], Awaitable[Response]]


class RejectedError(Exception):
    """A request that is not answered: the status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def listen(port: int) -> socket.socket:
    """A socket on loopback, at a free port for 0; `InputError` when the port is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # who opens the address at once waits for the first answer
    except OSError as error:
        listening.close()
        raise InputError(f"--port {port}: cannot be used ({error.strerror}); choose another") from None
    return listening


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run([listening])


def build_app(session: ReviewSession, page: str, token: str, port: int) -> Starlette:
    """The application: the page at /TOKEN/, what it asks for below."""

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def state(request: Request) -> Response:
        return JSONResponse(session.state())

    async def answer(request: Request) -> Response:
        given = await _body(request)
        number, label = given.get("pair"), given.get("label")
        if type(number) is not int or not isinstance(label, str):
            raise RejectedError(HTTPStatus.BAD_REQUEST, "send {pair: NUMBER, label: 1, 0 or unsure}")
        session.answer(number, label)
        return JSONResponse(session.state())

    async def undo(request: Request) -> Response:
        await _body(request)
        number = session.undo()
        return JSONResponse({**session.state(), "pair": number})

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def check_first(request: Request) -> Response:
            _check(request, token, port)
            return await endpoint(request)

        return check_first

    routes = [
        Route("/{token}/", guarded(show)),
        Route("/{token}/state", guarded(state)),
        Route("/{token}/answers", guarded(answer), methods=["POST"]),
        Route("/{token}/undo", guarded(undo), methods=["POST"]),
        Route("/{path:path}", guarded(show), methods=["GET", "POST"]),  # anything else has no token
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)],
        exception_handlers={RejectedError: _rejected, InputError: _rejected},
    )


def _check(request: Request, token: str, port: int) -> None:
    """`RejectedError` unless the request has the token and comes from no other site."""
    if not secrets.compare_digest(str(request.path_params.get("token", "")).encode(), token.encode()):
        raise RejectedError(
            HTTPStatus.FORBIDDEN, "this address lacks the token; open the one that `mlim review` printed"
        )
    origin = request.headers.get("origin")
    if origin is not None and origin not in {f"http://{host}:{port}" for host in HOSTS}:
        raise RejectedError(HTTPStatus.FORBIDDEN, "requests of other sites are not answered")


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
        raise RejectedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send the header Content-Type: {JSON}")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise RejectedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {MAX_BYTES} bytes")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RejectedError(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
    return value


async def _rejected(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RejectedError) else HTTPStatus.BAD_REQUEST
    return JSONResponse({"message": str(error)}, status_code=int(status))
