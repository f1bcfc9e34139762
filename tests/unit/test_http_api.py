"""The routes of a served version: items as a shop has them, wrong rows in their places, what is refused as a whole."""

import asyncio
import base64
import io
import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.http_api.app import build_app
from mlim.http_api.options import ApiOptions
from mlim.http_api.pictures import AllowedHosts, PictureSources, host_name
from mlim.http_api.schema import EncodeRequest, ItemIn, ScoreRequest
from mlim.http_api.service import Service
from mlim.steps.serve import ServerLimits, api_options
from tests.unit.test_loading import TEXTS, build, image, jpeg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which HTTP client the test client uses
    from starlette.testclient import TestClient

FIELDS = {"title": " red  shirt", "size": None, "cloth": "cotton"}


@pytest.fixture(scope="module")
def model(tiny_recipe):
    return build(tiny_recipe, "separate", max_rows=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, with a file beside it that a link leads to."""
    place = tmp_path_factory.mktemp("shop")
    (place / "images").mkdir()
    for number in range(3):
        (place / "images" / f"{number}.jpg").write_bytes(jpeg(image(60 * number)))
    (place / "secret.jpg").write_bytes(jpeg(image(9)))
    (place / "images" / "link.jpg").symlink_to(place / "secret.jpg")
    return place / "images"


@pytest.fixture(scope="module")
def client(model, folder):
    with TestClient(build_app(model, ApiOptions(images=folder)), base_url="http://localhost") as client:
        yield client


def sent(number: int, **more):
    return {"text": TEXTS[number], "image": base64.b64encode(jpeg(image(60 * number))).decode(), **more}


def given(number: int):
    return {"text": TEXTS[number], "image": jpeg(image(60 * number))}


def test_pairs_score_as_in_python_whatever_form_their_items_have(client, model):
    texts = {"text": TEXTS[0]}
    forms = [sent(0, id="red"), {**texts, "path": "0.jpg"}, {"fields": FIELDS, "path": "./0.jpg"}]
    answer = client.post("/score", json={"pairs": [{"a": form, "b": sent(2)} for form in forms]})
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), model.predict([(given(0), given(2))])
    assert (found["modality"], found["threshold"]) == ("both", model.threshold)
    assert [sorted(result) for result in found["results"]] == [
        ["a", "match", "probability", "score"],
        *[["match", "probability", "score"]] * 2,
    ]
    assert found["results"][0]["a"] == "red"
    for result in found["results"]:
        np.testing.assert_allclose(result["score"], expected.score[0], atol=1e-6)
        np.testing.assert_allclose(result["probability"], expected.probability[0], atol=1e-6)
        assert result["match"] == bool(expected.match[0])


WRONG = [
    (7, "invalid-item", "no JSON object but int"),
    ({"a": sent(0)}, "invalid-item", "missing key `b`"),
    ({"a": sent(0), "b": {"txt": "x"}}, "invalid-item", "unknown key `b.txt` (did you mean `text`?)"),
    ({"a": sent(0), "b": sent(1, fields={"title": "x"})}, "invalid-item", "`text` and `fields` are both given"),
    ({"a": sent(0), "b": sent(1, path="1.jpg")}, "invalid-item", "`image` and `path` are both given"),
    ({"a": sent(0), "b": {"fields": {"image": "x"}}}, "invalid-item", "a field is called `image`"),
    ({"a": sent(0), "b": {"fields": {"t": ["x"]}, "path": "1.jpg"}}, "invalid-field", "item b: the field `t` is"),
    (
        {"a": sent(0), "b": {"fields": {"\ud800": "x"}, "path": "1.jpg"}},
        "invalid-field",
        "item b: the name of a field holds",
    ),
    (
        {"a": sent(0), "b": {"fields": {"\ud800": ["x"]}, "path": "1.jpg"}},
        "invalid-field",
        "one half of a surrogate pair",
    ),
    ({"a": sent(0), "b": {"fields": {"x" * 20_001: "x"}, "path": "1.jpg"}}, "invalid-field", "more than the 20,000"),
    ({"a": sent(0), "b": {"path": "1.jpg"}}, "missing-text", "item b has no text"),
    ({"a": sent(0), "b": {"text": "x"}}, "missing-image", "item b: the image is missing"),
    ({"a": sent(0, text="x " * 10_001), "b": sent(1)}, "unreadable-text", "more than the 20,000"),
    ({"a": sent(0), "b": {"text": "x", "image": "%"}}, "not-base64", "item b: the value is not base64"),
    ({"a": sent(0), "b": {"text": "x", "image": "QUJD"}}, "not-an-image", "item b: the image cannot be decoded"),
    ({"a": {"text": "x", "path": "9.jpg"}, "b": sent(1)}, "missing-image", "item a: '9.jpg' is not in the images"),
    ({"a": {"text": "x", "path": "../secret.jpg"}, "b": sent(1)}, "outside-folder", "leads out of the images folder"),
    ({"a": {"text": "x", "path": "link.jpg"}, "b": sent(1)}, "outside-folder", "leads out of the images folder"),
    ({"a": {"text": "x", "path": "/etc/passwd"}, "b": sent(1)}, "outside-folder", "leads out of the images folder"),
    ({"a": {"text": "x", "url": "http://127.0.0.1/"}, "b": sent(1)}, "url-not-allowed", "no pictures from 127.0.0.1"),
    ({"a": {"text": "x", "url": "file:///etc/passwd"}, "b": sent(1)}, "unsupported-address", "not an http"),
]


@pytest.mark.parametrize(("row", "code", "message"), WRONG, ids=[code for _, code, _ in WRONG])
def test_a_wrong_row_is_refused_and_its_neighbours_are_scored(client, model, row, code, message):
    good = {"a": sent(0), "b": sent(1)}
    body = json.dumps({"pairs": [good, row, good]})  # halves of surrogate pairs as \u escapes, as clients send them
    answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    first, wrong, last = answer.json()["results"]
    assert set(wrong) == {"error"}
    assert wrong["error"]["code"] == code
    assert message in wrong["error"]["message"]
    expected = model.score([(given(0), given(1))])[0]
    np.testing.assert_allclose([first["score"], last["score"]], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "body"),
        (b"{}", "missing key `pairs`"),
        (b'{"pairs": 5}', "`pairs`: input should be a valid list"),
        (b'{"pairs": []}', "the request holds 0 rows; send at least one and at most 5"),
        (b'{"pairs": [1, 2, 3, 4, 5, 6]}', "the request holds 6 rows"),
        (b'{"pairs": [' + b"0," * 65_536 + b"0]}", "`pairs`: list should have at most 65536 items"),
        (b'{"pairs": [{}], "modality": "sound"}', "`modality`: input should be 'both', 'text' or 'image'"),
        (b'{"pears": [{}]}', "unknown key `pears` (did you mean `pairs`?)"),
    ],
)
def test_a_request_that_is_wrong_as_a_whole_is_a_400(client, body, message):
    answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_only_json_is_read(client):
    """A form of another site's page cannot send JSON without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        assert client.post("/score", content=b'{"pairs": [{}]}', headers={"Content-Type": kind}).status_code == 415


def test_texts_alone_need_no_pictures(client, model):
    pair = {"a": {"text": TEXTS[0], "path": "9.jpg"}, "b": {"text": TEXTS[2]}}
    answer = client.post("/score", json={"pairs": [pair], "modality": "text"})
    expected = model.score([({"text": TEXTS[0]}, {"text": TEXTS[2]})], modality="text")[0]
    np.testing.assert_allclose(answer.json()["results"][0]["score"], expected, atol=1e-6)


def test_vectors_are_those_of_python(client, model):
    answer = client.post("/encode", json={"items": [sent(0, id="red"), {}, sent(1)]}).json()
    first, wrong, last = answer["results"]
    assert (first["id"], wrong["error"]["code"], answer["width"]) == ("red", "missing-text", model.item_width)
    np.testing.assert_allclose([first["vector"], last["vector"]], model.encode([given(0), given(1)]), atol=1e-5)


def test_a_model_that_reads_pairs_has_no_vectors(tiny_recipe):
    service = Service(build(tiny_recipe, "joint"), ApiOptions())
    with pytest.raises(InputError, match=r"has no vector of one item; fine-tune with finetune\.read_out=separate"):
        asyncio.run(service.encode(EncodeRequest(items=[ItemIn(text="x")])))


def test_an_explanation_is_that_of_python(client, model):
    body = {
        "pair": {"a": {"fields": {"colour": "red", "kind": "shirt"}, "path": "0.jpg"}, "b": sent(2)},
        "references": [{"a": sent(1), "b": sent(2)}],
        "regions": False,
    }
    found = client.post("/explain", json=body)
    assert found.status_code == 200, found.text
    first = {"colour": "red", "kind": "shirt", "image": jpeg(image(0))}
    expected = model.explain((first, given(2)), [(given(1), given(2))])
    answer = found.json()
    assert [one["name"] for one in answer["contributions"]] == [one.name for one in expected.contributions]
    np.testing.assert_allclose(answer["score"], expected.score, atol=1e-6)
    total = answer["baseline"] + sum(one["value"] for one in answer["contributions"])
    np.testing.assert_allclose(total, answer["score"], atol=1e-6)
    assert (answer["effects"], answer["regions"]) == (None, [])
    wrong = client.post("/explain", json={**body, "references": [{"a": sent(1), "b": {"text": "x"}}]})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "missing-image")
    assert "b of reference 1: the image is missing" in wrong.json()["message"]


def test_the_schema_names_what_an_item_may_hold(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/score", "/encode", "/explain"}
    item = schema["components"]["schemas"]["ItemIn"]
    assert set(item["properties"]) == {"id", "text", "fields", "image", "path", "url"}
    assert client.get("/docs").status_code == 404  # a page that loads scripts from elsewhere


def test_concurrent_requests_share_batches_and_get_their_own_answers(tiny_recipe):
    model = build(tiny_recipe)
    model.settings = model.settings.model_copy(update={"batch_size": 8})
    sizes, score_source = [], model.score_source
    model.score_source = lambda source, pairs, *rest: sizes.append(len(pairs)) or score_source(source, pairs, *rest)
    pairs = [(first, second) for first in range(3) for second in range(3)][:6]
    requests = [ScoreRequest.model_validate({"pairs": [{"a": sent(a), "b": sent(b)}]}) for a, b in pairs]

    async def ask():
        service = Service(model, ApiOptions(batch_wait_ms=20_000))
        return await asyncio.gather(*map(service.score, requests))

    found = [answer.results[0].score for answer in asyncio.run(ask())]
    assert max(sizes) > 1
    assert sum(sizes) == len(pairs)
    np.testing.assert_allclose(found, model.score([(given(a), given(b)) for a, b in pairs]), atol=1e-6)


def test_a_request_is_given_up_when_its_time_is_over(model, monkeypatch):
    def ended(self):
        raise TimeoutError

    monkeypatch.setattr("mlim.http_api.reading.Deadline.check", ended)
    with TestClient(build_app(model, ApiOptions())) as client:
        answer = client.post("/score", json={"pairs": [{"a": sent(0), "b": sent(1)}]})
    assert (answer.status_code, "send fewer rows" in answer.json()["message"]) == (504, True)


def test_without_a_folder_no_path_is_read(model):
    with TestClient(build_app(model, ApiOptions())) as client:
        row = {"a": {"text": "x", "path": "0.jpg"}, "b": sent(1)}
        assert client.post("/score", json={"pairs": [row]}).json()["results"][0]["error"]["code"] == "path-not-allowed"


def test_connections_go_to_allowed_hosts_and_public_addresses_alone():
    hosts = AllowedHosts(hosts=frozenset({"images.shop.example"}))
    hosts.check("images.shop.example", ["1.1.1.1"])
    for host, addresses, reason in [
        ("shop.example", ["1.1.1.1"], "url-not-allowed"),  # where a redirect leads
        ("images.shop.example", ["1.1.1.1", "127.0.0.1"], "private-address"),
        ("10.0.0.1", ["10.0.0.1"], "url-not-allowed"),
    ]:
        with pytest.raises(RejectedError) as caught:
            hosts.check(host, addresses)
        assert caught.value.rejection.reason == reason


def test_hosts_are_compared_in_one_spelling(tiny_recipe, tmp_path):
    assert host_name("Images.SHOP.example") == "images.shop.example"
    for wrong in ("", "a/b", "user@host", "127.1", "a b/"):
        with pytest.raises(InputError, match=re.escape(f"--allow-url-host {wrong}: is no host name")):
            host_name(wrong)
    with pytest.raises(InputError, match="is no folder"):
        api_options(tiny_recipe, ServerLimits(), tmp_path / "none", [], False, 2.0)
    options = api_options(tiny_recipe, ServerLimits(seconds=9), tmp_path, ["SHOP.example"], True, 0.0)
    assert ApiOptions.model_validate_json(options.model_dump_json(exclude_defaults=True)) == options


def test_a_refused_address_is_not_fetched(model):
    async def fetch():
        items = [ItemIn(url="http://other.example/a.jpg"), ItemIn(url="http://127.0.0.1:1/a.jpg"), ItemIn(text="x")]
        async with PictureSources(ApiOptions(url_hosts=("127.0.0.1",))).fetched(items) as pictures:
            for item, reason in zip(items, ("url-not-allowed", "private-address"), strict=False):
                with pytest.raises(RejectedError) as caught:
                    pictures.read(item)
                assert caught.value.rejection.reason == reason
            assert pictures.read(items[2]) is None

    asyncio.run(fetch())


def test_a_large_picture_needs_no_large_message():
    """What is wrong with a row is said in a sentence, not in a copy of the row."""
    request = ScoreRequest.model_validate({"pairs": [{"a": {"id": "x" * 100_000}, "b": {}}]})
    [row] = request.rows
    assert len(row.message) <= 400


def test_pictures_may_be_any_allowed_format(client, tmp_path):
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, "GIF")
    row = {"a": {"text": "x", "image": base64.b64encode(target.getvalue()).decode()}, "b": sent(1)}
    found = client.post("/score", json={"pairs": [row]}).json()["results"][0]
    assert found["error"]["code"] == "format-not-allowed"
