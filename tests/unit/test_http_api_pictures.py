"""How the routes read pictures: one at a time, equal paths once in an explanation, and few pixels decoded at once."""

import json
import threading
import warnings
from collections import Counter

import numpy as np
import pytest

from mlim.http_api.app import build_app
from mlim.http_api.options import ApiOptions
from mlim.matching import items
from mlim.matching.decoding_room import DecodingRoom
from mlim.pictures.folder import FolderPictures
from tests.unit.test_http_api import TEXTS, sent
from tests.unit.test_loading import SIDE, build, image, jpeg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which HTTP client the test client uses
    from starlette.testclient import TestClient

REFERENCES = 6


@pytest.fixture(scope="module")
def model(tiny_recipe):
    return build(tiny_recipe, "separate", max_rows=5)


@pytest.fixture
def client(model, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(image(60 * number)))
    with TestClient(build_app(model, ApiOptions(images=tmp_path)), base_url="http://localhost") as client:
        yield client


class Watch:
    """What happens to pictures, in order: `read` of a file, `decoded`."""

    def __init__(self, monkeypatch):
        self.events, self.paths = [], Counter()
        read, prepare = FolderPictures.read, items.prepare_picture

        def watched_read(folder, reference):
            self.events.append("read")
            self.paths[reference] += 1
            return read(folder, reference)

        def watched_prepare(*given):
            self.events.append("decoded")
            return prepare(*given)

        monkeypatch.setattr(FolderPictures, "read", watched_read)
        monkeypatch.setattr(items, "prepare_picture", watched_prepare)


def by_path(number):
    return {"text": TEXTS[number], "path": f"{number}.jpg"}


def test_an_explanation_decodes_each_picture_before_it_reads_the_next_and_equal_paths_once(client, monkeypatch):
    """The bytes of all pictures of a request do not lie in memory together."""
    pair = {"a": by_path(0), "b": by_path(2)}
    references = [{"a": by_path(number % 3), "b": by_path(1)} for number in range(REFERENCES)]
    inline = [{"a": sent(number % 3), "b": sent(1)} for number in range(REFERENCES)]
    expected = client.post("/explain", json={"pair": pair, "references": inline, "regions": False}).json()
    watch = Watch(monkeypatch)
    answer = client.post("/explain", json={"pair": pair, "references": references, "regions": False})
    assert answer.status_code == 200, answer.text
    assert watch.events == ["read", "decoded"] * 3
    assert watch.paths == {"0.jpg": 1, "1.jpg": 1, "2.jpg": 1}
    np.testing.assert_allclose(answer.json()["baseline"], expected["baseline"], atol=1e-6)
    np.testing.assert_allclose(answer.json()["score"], expected["score"], atol=1e-6)


def test_an_explanation_is_given_up_between_two_pictures(client, monkeypatch):
    watch = Watch(monkeypatch)

    def ended(self):
        if len(watch.events) >= 2:
            raise TimeoutError

    monkeypatch.setattr("mlim.http_api.reading.Deadline.check", ended)
    answer = client.post("/explain", json={"pair": {"a": by_path(0), "b": by_path(1)}, "regions": False})
    assert (answer.status_code, watch.events) == (504, ["read", "decoded"])


def test_a_field_name_that_cannot_be_written_is_a_400_of_the_explanation(client):
    wrong = {"fields": {"\ud800": "x"}, "path": "0.jpg"}
    body = json.dumps({"pair": {"a": wrong, "b": by_path(1)}, "regions": False})
    answer = client.post("/explain", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-field")
    assert "a of the pair: the name of a field holds '\\ud800' at character 1" in answer.json()["message"]


@pytest.mark.parametrize("route", ["/score", "/explain"])
def test_the_readers_of_all_requests_share_one_room_for_pixels(tiny_recipe, route, monkeypatch):
    """Each picture takes the room, so no two of them are decoded together."""
    model = build(tiny_recipe)
    model.decoding_room = DecodingRoom(SIDE * SIDE)
    decoding, most, lock, prepare = Counter(), [], threading.Lock(), items.prepare_picture

    def watched(*given):
        with lock:
            decoding["now"] += 1
            most.append(decoding["now"])
        try:
            threading.Event().wait(0.02)
            return prepare(*given)
        finally:
            with lock:
                decoding["now"] -= 1

    monkeypatch.setattr(items, "prepare_picture", watched)
    pair = {"a": sent(0), "b": sent(1)}
    body = {"pairs": [pair]} if route == "/score" else {"pair": pair, "regions": False}
    with TestClient(build_app(model, ApiOptions()), base_url="http://localhost") as client:
        asked = [threading.Thread(target=client.post, args=(route,), kwargs={"json": body}) for _ in range(4)]
        for one in asked:
            one.start()
        for one in asked:
            one.join()
    assert (len(most), max(most)) == (8, 1)
