"""The limits of the scoring server with real sockets: clients that send slowly, or nothing, keep nobody out."""

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from mlim import scoring_server
from mlim.scoring_server import MEBIBYTE, RequestLimits, answer, server_options

pytestmark = pytest.mark.integration

LIMITS = {"body_mb": 1.0, "seconds": 60, "at_once": 2, "waiting": 4}
HEAD = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ANSWER_SECONDS = 30


async def model(scope: Any, receive: Any, send: Any) -> None:
    """Says how many bytes it got, after as many seconds as the path asks for."""
    body = (await receive())["body"]
    await asyncio.sleep(float(scope["path"].removeprefix("/sleep/")) if "sleep" in scope["path"] else 0)
    await answer(send, scoring_server.HTTPStatus.OK, f"{len(body)} bytes")


@contextmanager
def running(**changes: Any) -> Iterator[int]:
    """The port of a server with limits around `model`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = SimpleNamespace(**LIMITS | changes, port=port)
    app = RequestLimits(model, limits, batched={"/score"})
    server = uvicorn.Server(uvicorn.Config(app, **server_options(limits) | {"timeout_graceful_shutdown": 1}))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def opened(port: int, stack: ExitStack, sent: bytes) -> socket.socket:
    """A connection on which so much of a request was sent."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS))
    client.sendall(sent)
    return client


def post(port: int, path: str = "/score", body: bytes = b"{}") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    found = connection.getresponse()
    return found.status, found.read().decode()


@pytest.mark.parametrize("sent", [HEAD + b"Content-Length: 9\r\n\r\n{", HEAD, b""], ids=["body", "headers", "nothing"])
def test_clients_that_send_slowly_keep_nobody_out(sent):
    """Many more of them than requests may wait for the model."""
    with running() as port, ExitStack() as stack:
        slow = [opened(port, stack, sent) for _ in range(20 * LIMITS["waiting"])]
        time.sleep(0.2)
        assert post(port)[0] == 200
        assert post(port, "/invocations")[0] == 200
        if sent.endswith(b"{"):  # they are answered too, when they have sent all
            slow[-1].sendall(b"        ")
            assert slow[-1].recv(12) == b"HTTP/1.1 200"


def test_requests_that_wait_for_the_model_are_few(monkeypatch):
    with running() as port:
        waiting = [threading.Thread(target=post, args=(port, "/sleep/1")) for _ in range(LIMITS["waiting"])]
        for one in waiting:
            one.start()
        time.sleep(0.5)
        status, sentence = post(port)
        for one in waiting:
            one.join()
        assert (status, "too many requests are waiting" in sentence) == (503, True)
        assert post(port)[0] == 200


def test_bodies_that_arrive_are_limited_in_number_and_bytes(monkeypatch):
    monkeypatch.setattr(scoring_server, "ARRIVING", 3)
    with running() as port, ExitStack() as stack:
        for _ in range(3):
            opened(port, stack, HEAD + b"Content-Length: 9\r\n\r\n{")
        time.sleep(0.2)
        assert "too many requests are arriving" in post(port)[1]
    monkeypatch.setattr(scoring_server, "ARRIVING", 256)
    with running() as port:
        with ExitStack() as stack:  # as many bytes as those who wait may have, in bodies that never end
            for _ in range(LIMITS["waiting"]):
                opened(port, stack, HEAD + b"Content-Length: 1048576\r\n\r\n" + b" " * (MEBIBYTE - 1))
            time.sleep(0.5)
            assert "fill the memory for them" in post(port, body=b" " * 100)[1]
        time.sleep(0.5)
        assert post(port, body=b" " * 100)[0] == 200  # what left takes no room


def test_who_sends_no_whole_request_in_time_is_told_or_left():
    with running(seconds=1) as port, ExitStack() as stack:
        body = opened(port, stack, HEAD + b"Content-Length: 9\r\n\r\n{")
        silent, headers = opened(port, stack, b""), opened(port, stack, HEAD)
        for _ in range(4):  # a few bytes now and then do not help
            time.sleep(0.2)
            headers.sendall(b"X-More: 1\r\n")
        assert body.recv(12) == b"HTTP/1.1 408"
        assert silent.recv(1) == b""
        assert headers.recv(1) == b""
        assert post(port)[0] == 200


def test_a_body_that_is_too_large_is_refused_and_takes_no_room():
    with running() as port:
        for _ in range(2 * LIMITS["waiting"]):
            status, sentence = post(port, body=b" " * (MEBIBYTE + 1))
            assert (status, "more than 1 MiB" in sentence) == (413, True)
        assert post(port, body=b" " * MEBIBYTE) == (200, '{"error_code": "OK", "message": "1048576 bytes"}')


def test_connections_beyond_the_limit_hear_so(monkeypatch):
    monkeypatch.setattr(scoring_server, "CONNECTIONS", 8)
    with running() as port, ExitStack() as stack:
        for _ in range(8):
            opened(port, stack, b"")
        time.sleep(0.2)
        assert post(port)[0] == 503
