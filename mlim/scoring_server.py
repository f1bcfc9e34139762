"""The process behind `mlim serve`: MLflow's scoring server beside the version's own routes, with limits around both.

Run as a script, `python -P scoring_server.py FOLDER LIMITS OPTIONS`: it imports nothing of mlim, so that the first
`mlim` in the process is the package inside the version, and a model answers with the code that made it. `mlim serve`
has compared that code with the registry's record before (mlim/steps/serve.py).
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
MEBIBYTE = 2**20
MLFLOW_PATHS = frozenset({"/invocations", "/ping", "/health", "/version"})
BATCHED_PATHS = frozenset({"/score", "/encode"})  # requests there are computed together and limit themselves
# What MLflow's parsing of a request may raise without an answer of its own; the model's errors it answers itself.
PARSING = (RecursionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class RejectedRequestError(Exception):
    """A request that is rejected: the status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class RequestLimits:
    """ASGI middleware: rejects requests that are too large, and passes on few at a time.

    The body of a POST is read whole before it waits for its turn, so that a slow client keeps nobody out. Requests for
    `batched` paths wait for no turn: they are many at a time by intent.
    """

    def __init__(self, app: App, limits: SimpleNamespace, batched: Collection[str] = ()) -> None:
        self._app, self._limits, self._batched = app, limits, batched
        self._requests = 0
        self._places = asyncio.Semaphore(limits.at_once)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._requests += 1
        try:
            await self._pass_on(scope, receive, send)
        except RejectedRequestError as rejected:
            await answer(send, rejected.status, str(rejected))
        finally:
            self._requests -= 1

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        limits = self._limits
        if self._requests > limits.waiting:
            raise RejectedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting; try again later")
        if not any(name == b"content-type" for name, _ in scope["headers"]):
            raise RejectedRequestError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the header Content-Type: application/json"
            )
        body = await in_time(self._read(receive), limits.seconds, HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive")
        if scope["path"] in self._batched:
            await self._app(scope, replay(body, receive), send)
            return
        await in_time(self._places.acquire(), limits.seconds, HTTPStatus.SERVICE_UNAVAILABLE, "no place became free")
        try:
            await self._app(scope, replay(body, receive), send)
        finally:
            self._places.release()

    async def _read(self, receive: Receive) -> bytes:
        """The body; one that is too large is read to its end and discarded, so that the client receives the answer."""
        most, size, more = int(self._limits.body_mb * MEBIBYTE), 0, True
        parts: list[bytes] = []
        while more:
            message = await receive()
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= most:
                parts.append(part)
            else:
                parts.clear()
        if size > most:
            sentence = f"the request has more than {self._limits.body_mb:g} MiB; send fewer rows or smaller pictures"
            raise RejectedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        return b"".join(parts)


class Routes:
    """ASGI: MLflow's application answers for its own paths, that of the version for all others."""

    def __init__(self, mlflow: App, version: App) -> None:
        self._mlflow, self._version = mlflow, version

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        own = scope["type"] == "http" and scope["path"] not in MLFLOW_PATHS
        await (self._version if own else self._mlflow)(scope, receive, send)


async def in_time(work: Awaitable[Any], seconds: float, status: HTTPStatus, sentence: str) -> Any:
    """The result of `work`; `RejectedRequestError` when it takes longer than `seconds`."""
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise RejectedRequestError(status, f"{sentence} within {seconds:g} s") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body, then whatever else the client does."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def answer(send: Send, status: HTTPStatus, sentence: str) -> None:
    """A rejection in the form of MLflow's own."""
    body = json.dumps({"error_code": status.name, "message": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def unreadable(request: object, error: Exception) -> Any:
    """400 for a request that MLflow cannot parse."""
    from starlette.responses import JSONResponse

    reason = (
        "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"[:300]
    )
    content = {"error_code": "BAD_REQUEST", "message": f"the request cannot be read: {reason}"}
    return JSONResponse(content, status_code=int(HTTPStatus.BAD_REQUEST))


def version_app(model: Any, options: Mapping[str, Any]) -> App | None:
    """The routes that a version has beside MLflow's; None for one that was registered before there were any."""
    make = getattr(model.unwrap_python_model(), "http_app", None)
    if make is None:
        print("warning: this version was registered by an earlier mlim and answers /invocations alone", file=sys.stderr)
        return None
    try:
        app: App = make(options)
    except Exception as error:  # an option that the version does not know
        raise SystemExit(f"error: {error}") from None
    return app


def build(folder: str, limits: SimpleNamespace, options: Mapping[str, Any]) -> App:
    """The application that serves the version in `folder`."""
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    model = pyfunc.load_model(folder)
    app = scoring_server.init(model)
    for kind in PARSING:
        app.add_exception_handler(kind, unreadable)
    own = version_app(model, options)
    limited = RequestLimits(app, limits) if own is None else RequestLimits(Routes(app, own), limits, BATCHED_PATHS)
    return TrustedHostMiddleware(limited, allowed_hosts=limits.hosts)


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    folder, limits, options = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])), json.loads(sys.argv[3])
    uvicorn.run(
        build(folder, limits, options), host=HOST, port=limits.port, log_level="warning", timeout_graceful_shutdown=5
    )


if __name__ == "__main__":
    main()
