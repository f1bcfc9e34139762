"""`mlim serve`: a real scoring server behind its limits, and versions whose files were changed."""

import base64
import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.manifest import ChangedFilesError, write_manifest
from mlim.recipe import Recipe
from mlim.registry import VERSION_SHA256, Registry
from mlim.roles import CHAMPION
from mlim.steps.register import register
from mlim.steps.serve import ServerLimits, serve
from mlim.tracking import client
from mlim.workspace import Workspace
from tests.integration.test_registry_serving import free_port, wait_for
from tests.registry_room import Registered, artifacts_of, put_model, some_pairs, tracked_at

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_versions")]

REQUEST_SECONDS = 60
LIMITS = ("--max-body-mb", "2", "--max-seconds", "20")
MARKER = "import pathlib, os; pathlib.Path(os.environ['MARKER']).write_text('executed')\n"


@pytest.fixture(scope="module")
def registered(
    tiny_recipe: Recipe,
    tiny_workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    new_store: Callable[[Path], str],
) -> Registered:
    place = tmp_path_factory.mktemp("served")
    recipe = tracked_at(tiny_recipe, new_store(place / "own.db"))
    workspace = Workspace(place / "work")
    shutil.copytree(tiny_workspace.root, workspace.root)
    put_model(recipe, workspace, seed=0)
    summary = register(recipe, workspace, Terminal(quiet=True))
    return Registered(recipe, workspace, summary, artifacts_of(recipe, "1"))


class Served:
    """A running `mlim serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, images: Path) -> None:
        self.process, self.port = process, port
        self.address = f"http://127.0.0.1:{port}"
        self.images = images

    def post(
        self, body: bytes, host: str | None = None, kind: str | None = "application/json", path: str = "/invocations"
    ) -> tuple[int, str]:
        """Status and body of an answer, whatever it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        headers = {} if kind is None else {"Content-Type": kind}
        connection.request("POST", path, body, headers | ({"Host": host} if host else {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def ask(self, value: Any, **options: Any) -> tuple[int, str]:
        return self.post(json.dumps(value).encode(), **options)


def start(recipe: Recipe, log: Path, *options: str) -> Served:
    port = free_port()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": str(recipe.tracking.uri)}
    command = [sys.executable, "-m", "mlim", "serve", "--port", str(port), *options]
    with log.open("wb") as target:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=target, stderr=target, start_new_session=True
        )
    return Served(process, port, log.parent)


@pytest.fixture(scope="module")
def served(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    pictures = ("--images", str(log.parent), "--allow-url-host", "127.0.0.1", "--allow-private-urls")
    running = start(registered.recipe, log, "--model", "models:/mlim-matcher@champion", *LIMITS, *pictures)
    try:
        wait_for(f"{running.address}/ping", running.process, log)
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(REQUEST_SECONDS) == 128 + signal.SIGTERM


def records(registered: Registered, count: int = 2, **changes: Any) -> list[dict[str, Any]]:
    return [{**row, **changes} for row in some_pairs(registered.workspace, count).to_dict(orient="records")]


def test_an_untouched_version_serves_what_it_scores(registered, served):
    """Point 23: a version whose files are those that were registered serves and scores alike."""
    pairs = some_pairs(registered.workspace)
    status, body = served.ask({"dataframe_records": pairs.to_dict(orient="records")})
    assert status == 200, body
    probabilities = [row["probability"] for row in json.loads(body)["predictions"]]
    np.testing.assert_allclose(probabilities, Registry(registered.recipe.tracking).score("1", [pairs]), atol=1e-6)


@pytest.fixture(scope="module")
def shop(registered: Registered, served: Served) -> Iterator[str]:
    """The address of a shop on this machine; its pictures are also in the folder that the server reads."""
    for name, data in ((name, base64.b64decode(records(registered)[0][f"image_{name}"])) for name in "ab"):
        (served.images / f"{name}.jpg").write_bytes(data)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Shop, directory=served.images)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Shop(SimpleHTTPRequestHandler):
    """Files of a folder, and an address that leads to another host."""

    def do_GET(self) -> None:
        if self.path != "/away":
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/a.jpg")
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        """Nothing."""


def test_items_score_as_rows_do_whatever_form_their_pictures_have(registered, served, shop):
    """One model behind all routes; a redirect to a host that is not allowed refuses its row alone."""
    row = records(registered)[0]
    _, body = served.ask({"dataframe_records": [row]})
    expected = json.loads(body)["predictions"][0]
    ways = [
        {side: {"text": row[f"text_{side}"], **picture(side)} for side in "ab"}
        for picture in (
            lambda side: {"image": row[f"image_{side}"]},
            lambda side: {"path": f"{side}.jpg"},
            lambda side: {"url": f"{shop}/{side}.jpg"},
            lambda side: {"url": f"{shop}/{'away' if side == 'b' else 'a.jpg'}"},
            lambda side: {"url": f"{shop}/none.jpg"},
        )
    ]
    status, answer = served.ask({"pairs": ways}, path="/score")
    assert status == 200, answer
    *same, away, missing = json.loads(answer)["results"]
    np.testing.assert_allclose([one["probability"] for one in same], expected["probability"], atol=1e-6)
    assert {one["match"] for one in same} == {expected["match"]}
    assert [one["error"]["code"] for one in (away, missing)] == ["url-not-allowed", "http-status"]
    status, answer = served.ask({"pair": ways[1], "regions": False}, path="/explain")
    assert status == 200, answer
    np.testing.assert_allclose(json.loads(answer)["probability"], expected["probability"], atol=1e-6)
    status, answer = served.ask({"items": [ways[0]["a"]]}, path="/encode")
    assert (status, "has no vector of one item" in answer) == (400, True)


def test_many_small_requests_are_all_answered(registered, served, shop):
    """As many clients as may wait: requests that are computed together take no turns."""
    rows = [
        {side: {"text": row[f"text_{side}"], "path": f"{side}.jpg"} for side in "ab"} for row in records(registered)
    ]
    bodies = [json.dumps({"pairs": [row]}).encode() for row in rows]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: served.post(bodies[number % 2], path="/score"), range(64)))
    assert {status for status, _ in answers} == {200}
    for which in (0, 1):
        scores = [json.loads(body)["results"][0]["score"] for _, body in answers[which::2]]
        np.testing.assert_allclose(scores, scores[0], atol=1e-6)


def test_the_server_runs_the_code_of_the_version_with_short_waits(registered, served):
    """Point 24: how threads wait is said before torch loads; the package beside the model is the one that runs."""
    [child] = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    assert b"GOMP_SPINCOUNT=3000" in environment
    assert not Path(f"/proc/{child}/cwd").readlink().is_relative_to(registered.folder)  # it reads a compared copy


HEADERS = [("127.0.0.1", 200), ("localhost:5001", 200), ("shop.example", 400), ("127.0.0.1.nip.io:80", 400), ("", 400)]


@pytest.mark.parametrize(("host", "status"), HEADERS)
def test_a_foreign_host_is_refused(registered, served, host, status):
    """Points 21 and 24: a web page that a name leads to loopback is not answered."""
    assert served.ask({"dataframe_records": records(registered)}, host=host or "x")[0] == status


BODIES: list[tuple[bytes, str]] = [
    (b'{"dataframe_records": [{}]}', "0 rows"),
    (b"[{}]", "list"),
    (b'{"dataframe_records": []}', "0 rows"),
    (b"{}", ""),
    (b"", ""),
    (b"null", ""),
    (b'"x"', ""),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"dataframe_records": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    (b'{"dataframe_records": [{"text_a": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}]}", "nested too deeply"),
    (b'{"dataframe_records": 5}', ""),
    (b'{"dataframe_records": [5]}', ""),
    (b'{"dataframe_records": [[]]}', ""),
    (b'{"dataframe_records": null}', ""),
    (b'{"dataframe_records": [{"text_a": {"a": 1}, "text_b": 2}]}', ""),
    (b'{"dataframe_split": {}}', ""),
    (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', ""),
    (b'{"inputs": {"text_a": "x"}}', ""),
    (b'{"instances": [[[1]]]}', ""),
    (b'{"instances": 1}', ""),
    (b'{"dataframe_records": [{"text_a": 1e999}], "params": 5}', ""),
    (b"\xff\xfe", ""),
    (b'{"dataframe_records": [{"text_a": "\\ud83d", "text_b": "x"}], "params": {"modality": "text"}}', "surrogate"),
    (b'{"dataframe_records": [{"text_a": "x", "text_b": "y"}], "params": {"modality": ["text"]}}', ""),
    (b'{"dataframe_records": [{"text_a": "x", "text_b": "y"}], "params": {"modality": "\\ud83d"}}', ""),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=range(len(BODIES)))
def test_what_is_no_request_is_a_400_with_its_reason(served, body, message):
    """Point 24: `[{}]`, deep JSON, no rows and other things that nobody can score are a 400, never a 500."""
    status, answer = served.post(body)
    assert status == 400, answer
    assert message in answer
    assert json.loads(answer)["message"]


def test_another_kind_of_content_is_a_415(served):
    """Point 24: a request that does not say what it is."""
    assert served.post(b"{}", kind=None)[0] == 415
    assert served.post(b"{}", kind="text/plain")[0] == 415
    assert served.post(b"x", kind="application/vnd.apache.parquet")[0] == 400
    assert served.post(b"\x00", kind="text/csv")[0] == 400


def test_what_is_too_large_is_refused_before_it_costs(registered, served):
    """Point 24: limits on body, rows and text, each with what to do; nothing of it is computed."""
    status, answer = served.post(b'{"dataframe_records": [{"text_a": "' + b"x " * 10_000_000)
    assert (status, "more than 2 MiB" in answer) == (413, True)
    words = {"text_a": "x", "text_b": "y"}
    texts = {"params": {"modality": "text"}}
    status, answer = served.ask({"dataframe_records": [words] * 1025, **texts})
    assert (status, "1,025 rows; send at least one and at most 1,024" in answer) == (400, True)
    status, answer = served.ask({"dataframe_records": [words, {**words, "text_b": "x " * 10_001}], **texts})
    assert (status, "row 2, text_b has 20,002 characters, more than the 20,000" in answer) == (400, True)
    assert served.ask({"dataframe_records": [{**words, "text_b": "x " * 10_000}], **texts})[0] == 200


def test_many_clients_are_answered_or_turned_away(registered, served):
    """Point 24: few are computed at a time, some wait, the rest hear 503; afterwards all is as before."""
    body = json.dumps({"dataframe_records": records(registered, 8)}).encode()
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        statuses = [status for status, _ in pool.map(lambda _: served.post(body), range(40))]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 2
    assert served.post(body)[0] == 200


def test_base64_as_clients_send_it(registered, served):
    """Point 13: line ends, a data: prefix, no padding and the URL-safe alphabet give the same answer."""
    plain = records(registered, 1)[0]
    data = base64.b64decode(plain["image_a"])
    forms = [
        plain["image_a"],
        base64.encodebytes(data).decode(),
        f"data:image/jpeg;base64,{plain['image_a']}",
        plain["image_a"].rstrip("="),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        f"\r\n {base64.encodebytes(data).decode()}".replace("\n", "\r\n"),
    ]
    status, answer = served.ask({"dataframe_records": [{**plain, "image_a": form} for form in forms]})
    assert status == 200, answer
    assert len({row["probability"] for row in json.loads(answer)["predictions"]}) <= 2  # padding of a batch: rounding


def change_weights(folder: Path) -> str:
    weights = folder / "artifacts" / "matcher" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    write_manifest(weights.parent)
    return "model.safetensors"


def change_serving(folder: Path) -> str:
    path = folder / "serving.py"
    path.write_text(MARKER + path.read_text())
    return "serving.py"


def change_package(folder: Path) -> str:
    (folder / "code" / "mlim" / "__init__.py").write_text(MARKER)
    return "__init__.py"


def add_module(folder: Path) -> str:
    (folder / "code" / "torch.py").write_text(MARKER)
    return "torch.py"


def change_settings(folder: Path) -> str:
    path = folder / "artifacts" / "matcher" / "serving.json"
    write_json(path, {**read_json(path), "threshold": 0.0})
    write_manifest(path.parent)
    return "serving.json"


def change_description(folder: Path) -> str:
    path = folder / "MLmodel"
    path.write_text(path.read_text().replace("python_function:", "python_function:\n    data: elsewhere", 1))
    return "MLmodel"


def remove_file(folder: Path) -> str:
    (folder / "code" / "mlim" / "manifest.py").unlink()
    return "manifest.py"


CHANGES = [change_weights, change_serving, change_package, add_module, change_settings, change_description, remove_file]


@pytest.fixture
def touched(registered: Registered, tmp_path: Path) -> Iterator[Path]:
    """The files of the version, put back afterwards."""
    shutil.copytree(registered.folder, tmp_path / "kept")
    yield registered.folder
    shutil.rmtree(registered.folder)
    shutil.copytree(tmp_path / "kept", registered.folder)


@pytest.mark.parametrize("sealed_again", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_files_are_refused_and_never_executed(registered, touched, tmp_path, monkeypatch, change, sealed_again):
    """Point 23: weights, settings, code and description; also when every manifest was written anew."""
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    name = change(touched)
    if sealed_again:
        write_manifest(touched)
        name = "manifest.json"
    with pytest.raises(ChangedFilesError, match=rf"mlim-matcher version 1 are not those .*{name}"):
        Registry(registered.recipe.tracking).score("1", [some_pairs(registered.workspace)])
    with pytest.raises(ChangedFilesError, match="do not use it"):
        serve(registered.recipe, None, ServerLimits(port=free_port()), Terminal(quiet=True))
    assert not (tmp_path / "marker").exists()


def test_the_command_refuses_changed_code_with_one_sentence(registered, touched, tmp_path, monkeypatch):
    """Point 23: `mlim serve` ends with 1 and says which file it is; nothing of it has run."""
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    change_package(touched)
    server = start(registered.recipe, tmp_path / "serve.log")
    assert server.process.wait(REQUEST_SECONDS) == 1
    said = (tmp_path / "serve.log").read_text()
    assert "mlim-matcher version 1 are not those that were registered: code/mlim/__init__.py changed" in said
    assert "Traceback" not in said
    assert not (tmp_path / "marker").exists()


def test_what_python_and_mlflow_write_beside_the_files_is_no_change(registered, touched):
    """Point 23: compiled modules are removed, not executed; they do not make a version unusable."""
    cache = touched / "code" / "mlim" / "__pycache__"
    cache.mkdir()
    (cache / f"serving.{sys.implementation.cache_tag}.pyc").write_bytes(b"no bytecode")
    (touched / "registered_model_meta").write_text("model_name: mlim-matcher\n")
    with Registry(registered.recipe.tracking).fetched("1") as folder:
        assert not list(folder.rglob("*.pyc"))
        assert not (folder / "registered_model_meta").exists()


def test_a_version_without_a_record_is_refused(registered):
    """Point 23: what was registered before files were recorded has to be registered again."""
    store = client(registered.recipe.tracking)
    recorded = store.get_model_version("mlim-matcher", "1").tags[VERSION_SHA256]
    store.delete_model_version_tag("mlim-matcher", "1", VERSION_SHA256)
    with pytest.raises(ChangedFilesError, match="has no record of its files"):
        Registry(registered.recipe.tracking).score("1", [some_pairs(registered.workspace)])
    store.set_model_version_tag("mlim-matcher", "1", VERSION_SHA256, recorded)


@pytest.mark.parametrize("model", ["models:/mlim-matcher@nobody", "mlim-matcher/9", "models:/other@champion", "a/b/c"])
def test_a_version_that_is_not_there_is_one_sentence(registered, model):
    """Point 23: an unknown model, version or alias."""
    with pytest.raises(InputError):
        serve(registered.recipe, model, ServerLimits(port=free_port()), Terminal(quiet=True))


def test_a_taken_port_is_one_sentence(registered, served):
    """Point 24: a second server on the same port does not start."""
    with pytest.raises(InputError, match="cannot be used"):
        serve(registered.recipe, None, ServerLimits(port=served.port), Terminal(quiet=True))


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_lost_champion_is_no_opponent(promoted, quiet, harm):
    """Points 15 and 23: `register` opens the champion's files; one that is lost does not win by default."""
    recipe, workspace = promoted
    if harm == "changed":
        change_weights(artifacts_of(recipe, "1"))
    else:
        shutil.rmtree(artifacts_of(recipe, "1"))
    summary = register(recipe, workspace, quiet)  # the very same model: it is no champion already
    assert (summary["version"], summary["promoted"]) == ("2", True)
    assert "version 1, champion until now, is lost" in summary["why"]
    registry = Registry(recipe.tracking)
    assert registry.roles.holder(CHAMPION) == "2"
    assert registry.score("2", [some_pairs(workspace)]).size
    again = register(recipe, workspace, quiet)
    assert (again["version"], again["why"]) == ("2", "is the champion already; nothing in it has changed")
