"""The process behind `mlim serve`: MLflow's scoring server beside the version's own routes, with limits around both.

Run as a script, `python -P scoring_server.py FOLDER LIMITS OPTIONS`: it imports nothing of mlim, so that the first
`mlim` in the process is the package inside the version, and a model answers with the code that made it. `mlim serve`
has compared that code with the registry's record before (mlim/steps/serve.py).
"""

import asyncio
import ctypes
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
CONNECTIONS = 512  # at a time; a process has 1,024 files by default, and more are open than connections
ARRIVING = 256  # bodies that are being read at a time: half of the connections
HEADER_BYTES = 32_768  # of one request, at most
M_MMAP_THRESHOLD = -3  # in malloc.h of glibc
LARGE_BLOCK = 8 * MEBIBYTE  # Pillow has pixels in blocks of 16 MiB
# What MLflow's parsing of a request may raise without an answer of its own; the model's errors it answers itself.
PARSING = (RecursionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class RejectedRequestError(Exception):
    """A request that is rejected: the status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class RequestLimits:
    """ASGI middleware: rejects requests that are too large, and passes on few at a time.

    The body of a POST is read whole before the request counts as one that waits for the model, so that clients who send
    slowly take no place there. Bodies that are arriving have bounds of their own: `ARRIVING` of them, and as many bytes
    as the bodies of all requests that may wait. Requests for `batched` paths wait for no turn: they are many at a time
    by intent.
    """

    def __init__(self, app: App, limits: SimpleNamespace, batched: Collection[str] = ()) -> None:
        self._app, self._limits, self._batched = app, limits, batched
        self._most_bytes = int(limits.body_mb * MEBIBYTE)  # of one body
        self._arriving = self._arrived_bytes = self._waiting = 0
        self._places = asyncio.Semaphore(limits.at_once)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._arrived(scope, receive)
            await self._pass_on(scope, replay(body, receive), send)
        except RejectedRequestError as rejected:
            await answer(send, rejected.status, str(rejected))

    async def _arrived(self, scope: Message, receive: Receive) -> bytes:
        """The body of a request, once it is there."""
        if not any(name == b"content-type" for name, _ in scope["headers"]):
            raise RejectedRequestError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the header Content-Type: application/json"
            )
        if self._arriving >= ARRIVING:
            raise RejectedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are arriving; try again later"
            )
        parts: list[bytes] = []
        self._arriving += 1
        try:
            reading = self._read(receive, parts)
            await in_time(reading, self._limits.seconds, HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive")
        finally:
            self._arriving -= 1
            self._arrived_bytes -= sum(map(len, parts))
        return b"".join(parts)

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        """Put the body into `parts`; one that is too large is read to its end and discarded: its client is answered."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RejectedRequestError(HTTPStatus.BAD_REQUEST, "the connection ended before the request did")
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= self._most_bytes:
                if self._arrived_bytes + len(part) > self._limits.waiting * self._most_bytes:
                    sentence = "the requests that are arriving fill the memory for them; try again later"
                    raise RejectedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, sentence)
                parts.append(part)
                self._arrived_bytes += len(part)
            else:
                self._arrived_bytes -= sum(map(len, parts))
                parts.clear()
        if size > self._most_bytes:
            sentence = f"the request has more than {self._limits.body_mb:g} MiB; send fewer rows or smaller pictures"
            raise RejectedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let the application answer a request whose body is there, when its turn comes."""
        if self._waiting >= self._limits.waiting:
            raise RejectedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting; try again later")
        self._waiting += 1
        try:
            if scope["path"] in self._batched:
                await self._app(scope, receive, send)
                return
            seconds = self._limits.seconds
            await in_time(self._places.acquire(), seconds, HTTPStatus.SERVICE_UNAVAILABLE, "no place became free")
            try:
                await self._app(scope, receive, send)
            finally:
                self._places.release()
        finally:
            self._waiting -= 1


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


def give_back_large_blocks() -> None:
    """Let freed pixels go back to the system; nothing where the C library is not glibc.

    By default, glibc keeps freed blocks of up to 32 MiB for the thread that had them: each thread that ever decoded a
    large picture would keep its memory.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)


class HeaderTimer:
    """Closes the connection of a uvicorn `protocol` when the headers of its next request are not there in time."""

    def __init__(self, protocol: Any, seconds: float) -> None:
        self._protocol, self._seconds = protocol, seconds
        self._running: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin anew: the connection is new, or its last request was answered."""
        self.stop()
        self._running = self._protocol.loop.call_later(self._seconds, self._end)

    def stop(self) -> None:
        """Close nothing any more."""
        if self._running is not None:
            self._running.cancel()

    def _end(self) -> None:
        request = self._protocol.cycle  # the last one whose headers were there
        if request is None or request.response_complete:
            self._protocol.transport.close()


def patient_protocol(seconds: float) -> Any:
    """uvicorn's protocol for HTTP, with `seconds` for the headers of each request.

    Its own limit of that kind, `timeout_keep_alive`, begins after the first request and ends with the first byte.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.header_timer = HeaderTimer(self, seconds)
            self.header_timer.start()

        def on_response_complete(self) -> None:
            self.header_timer.start()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.header_timer.stop()
            super().connection_lost(exc)

    return PatientProtocol


def server_options(limits: SimpleNamespace) -> dict[str, Any]:
    """How uvicorn serves: where, and with which limits on connections and headers."""
    return {
        "host": HOST,
        "port": limits.port,
        "http": patient_protocol(limits.seconds),
        "ws": "none",
        "limit_concurrency": CONNECTIONS,
        "h11_max_incomplete_event_size": HEADER_BYTES,
        "log_level": "warning",
        "timeout_graceful_shutdown": 5,
    }


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    folder, limits, options = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2])), json.loads(sys.argv[3])
    give_back_large_blocks()
    uvicorn.run(build(folder, limits, options), **server_options(limits))


if __name__ == "__main__":
    main()
