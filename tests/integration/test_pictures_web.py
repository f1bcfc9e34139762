"""Pictures behind addresses: a shop on this machine that answers well, late, falsely or never."""

import asyncio
import datetime
import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlim.catalog.description import Download
from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.files import mark
from mlim.pictures.addresses import Network, is_public_address
from mlim.pictures.web import WebPictures, new_run

pytestmark = pytest.mark.integration

LIMIT = 100_000
TIMEOUT = 0.5  # where the test is about it
PATIENCE = 60.0  # else: no picture takes so long, and no handler keeps a thread for longer
QUICK = Download(allow_private=True, timeout_seconds=PATIENCE, retries=2, backoff_seconds=0.01, per_host=3)
STRICT = QUICK.model_copy(update={"allow_private": False})
SHOP, EVIL, UNKNOWN = "shop.test", "evil.test", "unknown.test"


def picture(form="PNG", colour="red"):
    target = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(target, form)
    return target.getvalue()


GOOD = picture()


@dataclass
class Shop:
    """What the handlers did, and how many of them at once."""

    port: int = 0
    seen: Counter = field(default_factory=Counter)
    hosts: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    good: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}/{path}"

    def record(self, handler):
        with self.lock:
            self.seen[handler.path] += 1
            self.hosts.append(handler.headers["Host"])
            self.headers.append(dict(handler.headers))

    @contextmanager
    def counted(self):
        """To be left before the answer is sent: a client may ask again as soon as it has the last byte."""
        with self.lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            yield
        finally:
            with self.lock:
                self.busy -= 1


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.shop.record(self)
        name, _, argument = self.path.strip("/").partition("/")
        try:
            getattr(self, f"give_{name}")(argument)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def nth(self):
        return self.server.shop.seen[self.path]

    def give_good(self, _):
        self.answer(200, GOOD, Content_Type="image/png")
        with self.server.shop.lock:
            self.server.shop.good += 1

    def give_slow(self, _):
        with self.server.shop.counted():
            time.sleep(0.05)
        self.answer(200, GOOD)

    def give_status(self, number):
        self.answer(int(number))

    def give_flaky(self, _):
        self.answer(*((500,) if self.nth() <= 2 else (200, GOOD)))

    def give_hangup(self, _):
        if self.nth() == 1:
            self.answer(200, GOOD[:20], Content_Length=str(len(GOOD)))
            self.connection.close()
        else:
            self.answer(200, GOOD)

    def give_wait(self, seconds):
        if self.nth() == 1:
            self.answer(429, Retry_After=seconds)
        else:
            self.answer(200, GOOD)

    def give_html(self, _):
        self.answer(200, b"<!DOCTYPE html><html>Please log in</html>", Content_Type="image/jpeg")

    def give_short(self, _):
        self.answer(200, b"GIF", Content_Type="image/gif")

    def give_nothing(self, _):
        self.answer(200, b"", Content_Type="image/png")

    def give_gzipped(self, _):
        self.answer(200, gzip.compress(GOOD), Content_Encoding="gzip", Content_Type="image/png")

    def give_silence(self, _):
        self.server.shop.closing.wait(PATIENCE)

    def give_after(self, count):
        """Once so many have been answered with `give_good`."""
        deadline = time.monotonic() + PATIENCE
        while self.server.shop.good < int(count.partition("/")[0]) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.answer(200, GOOD)

    def give_drip(self, _):
        self.send_response(200)
        self.end_headers()
        for byte in GOOD:
            self.wfile.write(bytes([byte]))
            if self.server.shop.closing.wait(0.1):
                break

    def give_slowheader(self, _):
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000:
            self.wfile.write(bytes([byte]))
            if self.server.shop.closing.wait(0.1):
                break

    def give_endless(self, _):
        self.send_response(200)
        self.end_headers()
        deadline = time.monotonic() + PATIENCE
        self.wfile.write(GOOD)
        while time.monotonic() < deadline:
            self.wfile.write(bytes(10_000))

    def give_huge(self, _):
        self.answer(200, GOOD, Content_Length=str(10 * LIMIT))

    def give_short_of(self, _):
        self.answer(200, GOOD[:20], Content_Length=str(len(GOOD)))
        self.close_connection = True

    def give_nonsense(self, _):
        self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        self.close_connection = True

    def give_redirect(self, count):
        left = int(count)
        way = self.path.split("/")[1]
        self.answer(302, Location=f"/{way}/{left - 1}" if left > 1 else "/good")

    def give_slowly(self, count):
        time.sleep(TIMEOUT / 2)
        self.give_redirect(count)

    def give_to(self, target):
        self.answer(301, Location=unquote(target))

    def give_nonascii(self, _):
        self.answer(302, Location="/good/größe.jpg".encode().decode("latin-1"))  # http.server writes Latin-1

    def give_nowhere(self, _):
        self.answer(302)


@contextmanager
def serving(shop):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.shop, shop.port = shop, server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        shop.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def shop():
    with serving(Shop()) as server:
        yield server.shop


NAMES = {SHOP: ["127.0.0.1"], EVIL: ["127.0.0.1", "10.0.0.1"], "localhost": ["127.0.0.1"]}


def look_up(host, port):
    """A resolver that asks nobody."""
    if host not in NAMES:
        raise OSError(f"{host} is unknown")
    return NAMES[host]


def loopback_is_public(address):
    return address == "127.0.0.1" or is_public_address(address)


LOCAL = Network(look_up, loopback_is_public)


@pytest.fixture
def store(tmp_path):
    return WebPictures(QUICK, tmp_path / "cache", LIMIT, LOCAL)


@pytest.fixture
def hasty(store):
    return replace(store, download=QUICK.model_copy(update={"timeout_seconds": TIMEOUT}))


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client waits, none of which pass."""
    asked, sleep = [], asyncio.sleep

    async def at_once(seconds):
        asked.append(seconds)
        await sleep(0)

    monkeypatch.setattr("mlim.pictures.download.asyncio.sleep", at_once)
    return asked


@pytest.fixture
def strict(tmp_path):
    return WebPictures(STRICT, tmp_path / "cache", LIMIT, LOCAL)


def refusal(pictures, reference):
    with pytest.raises(RejectedError) as caught:
        pictures.read(reference)
    assert caught.value.rejection.detail
    return caught.value.rejection


def files_of(pictures):
    """Every picture, note and half-written file of the cache."""
    kept = [path for name in ("objects", "partial", "addresses") for path in (pictures.cache / name).rglob("*")]
    return [path for path in kept if path.is_file()]


def bytes_of(pictures):
    return [path for path in files_of(pictures) if path.parent.name != "addresses"]


def another_run(pictures):
    return replace(pictures, run=new_run())


def test_a_picture_is_downloaded_once_and_then_read_from_the_cache(shop, store):
    before = store.fingerprint(shop.url("good"))
    assert store.read(shop.url("good")) == store.read(shop.url("good")) == GOOD
    assert another_run(store).read(shop.url("good")) == GOOD
    assert shop.seen == {"/good": 1}
    assert store.fingerprint(shop.url("good")) == before  # else the next run would make every shard again


def test_the_cache_holds_content_once_and_addresses_beside_it(shop, store):
    urls = [shop.url("good"), shop.url("good/again")]
    store.prefetch([*urls, urls[0], ""])
    sha256 = hashlib.sha256(GOOD).hexdigest()
    assert (store.cache / "objects" / sha256[:2] / sha256).read_bytes() == GOOD
    entries = [json.loads(path.read_text()) for path in (store.cache / "addresses").iterdir()]
    assert sorted(entries, key=str) == [{"sha256": sha256, "status": 200, "url": url} for url in urls]
    assert len(files_of(store)) == 3


def test_a_damaged_cache_is_downloaded_again(shop, store):
    store.prefetch([shop.url("good")])
    for path in files_of(store):
        path.write_bytes(b"half")
        assert store.read(shop.url("good")) == GOOD
    assert shop.seen["/good"] == 3


def test_prefetch_keeps_to_the_limit_of_the_host_and_uses_it(shop, store):
    urls = [shop.url(f"slow/{number}") for number in range(24)]
    store.prefetch(urls)
    assert shop.busiest == QUICK.per_host
    assert [store.read(url) for url in urls] == [GOOD] * 24
    assert sum(shop.seen.values()) == 24


def test_waiting_for_a_turn_does_not_use_up_the_time(shop, tmp_path):
    patient = Download(allow_private=True, timeout_seconds=2.0, retries=0, per_host=1)
    pictures = WebPictures(patient, tmp_path, LIMIT, LOCAL)
    urls = [shop.url(f"slow/{number}") for number in range(50)]  # 2.5 s one after the other
    pictures.prefetch(urls)
    assert [pictures.read(url) for url in urls] == [GOOD] * 50
    assert sum(shop.seen.values()) == 50


def test_a_silent_host_does_not_hold_up_the_others(shop, store):
    silent = [shop.url(f"after/10/{number}") for number in range(QUICK.per_host)]
    others = [shop.url(f"good/{number}", SHOP) for number in range(10)]
    store.prefetch([*silent, *others])
    assert [store.read(url) for url in (*silent, *others)] == [GOOD] * 13


@pytest.mark.parametrize("status", [400, 403, 404, 410, 204, 206])
def test_a_status_that_will_not_change_is_refused_at_once(status, shop, store):
    found = refusal(store, shop.url(f"status/{status}"))
    assert found.reason == "http-status"
    assert str(status) in found.detail
    assert shop.seen == {f"/status/{status}": 1}


def test_server_errors_and_lost_connections_are_tried_again(shop, store):
    assert store.read(shop.url("flaky")) == GOOD
    assert store.read(shop.url("hangup")) == GOOD
    assert shop.seen == {"/flaky": 3, "/hangup": 2}


def test_retries_come_to_an_end_and_wait_longer_each_time(shop, tmp_path, waits):
    slower = QUICK.model_copy(update={"backoff_seconds": 100.0})
    found = refusal(WebPictures(slower, tmp_path, LIMIT, LOCAL), shop.url("status/503"))
    assert [seconds for seconds in waits if seconds >= 100] == [100, 200]
    assert (found.reason, shop.seen["/status/503"]) == ("http-status", 3)


def test_a_short_retry_after_is_honoured_and_a_long_one_ends_it(shop, store, waits):
    assert store.read(shop.url("wait/29")) == GOOD
    assert waits.count(29) == 1
    assert refusal(store, shop.url("wait/3600")).reason == "http-status"
    assert shop.seen["/wait/3600"] == 1


def test_a_failure_holds_for_its_run_in_every_process_and_the_next_run_tries_again(shop, store):
    store.prefetch([shop.url("status/404")])
    store.prefetch([shop.url("status/404")])
    assert refusal(pickle.loads(pickle.dumps(store)), shop.url("status/404")) == refusal(store, shop.url("status/404"))
    assert shop.seen["/status/404"] == 1
    assert refusal(another_run(store), shop.url("status/404")).reason == "http-status"
    assert shop.seen["/status/404"] == 2


def test_what_failed_in_one_run_is_read_in_the_next(shop, store):
    impatient = replace(store, download=QUICK.model_copy(update={"retries": 0}))
    assert refusal(impatient, shop.url("flaky")).reason == "http-status"
    assert another_run(store).read(shop.url("flaky")) == GOOD


@pytest.mark.parametrize("path", ["html", "short", "gzipped"])
def test_the_content_decides_whether_it_is_a_picture(path, shop, store):
    assert refusal(store, shop.url(path)).reason == "not-an-image"
    assert bytes_of(store) == []


def test_an_empty_answer_is_an_empty_picture(shop, store):
    assert refusal(store, shop.url("nothing")).reason == "empty-image"


@pytest.mark.parametrize("path", ["silence", "drip", "slowheader", "slowly/4"])
def test_one_deadline_holds_for_the_whole_picture(path, shop, hasty):
    """Each would come to another end: a byte comes often enough, a redirect soon enough, or the server gives up."""
    assert refusal(hasty, shop.url(path)).reason == "timeout"
    assert bytes_of(hasty) == []


@pytest.mark.parametrize("path", ["endless", "huge"])
def test_more_bytes_than_the_limit_are_not_read(path, shop, store):
    found = refusal(store, shop.url(path))
    assert found.reason == "too-many-bytes"
    assert str(LIMIT) in found.detail
    assert bytes_of(store) == []


def test_a_lower_limit_holds_for_what_is_already_cached(shop, store):
    store.prefetch([shop.url("good")])
    assert refusal(WebPictures(QUICK, store.cache, 10, LOCAL), shop.url("good")).reason == "too-many-bytes"


@pytest.mark.parametrize("path", ["short_of", "nonsense"])
def test_answers_that_break_off_or_are_no_http_are_refused(path, shop, store):
    assert refusal(store, shop.url(path)).reason == "unreachable"
    assert bytes_of(store) == []


def test_unknown_names_and_closed_ports_are_unreachable(shop, store):
    assert refusal(store, f"http://{UNKNOWN}/a.jpg").reason == "unreachable"
    assert "refused" in refusal(store, "http://127.0.0.1:1/a.jpg").detail


def test_redirects_are_followed_up_to_the_limit(shop, store):
    assert store.read(shop.url(f"redirect/{QUICK.redirects}")) == GOOD
    assert refusal(store, shop.url(f"redirect/{QUICK.redirects + 1}")).reason == "too-many-redirects"
    assert refusal(store, shop.url("nowhere")).reason == "http-status"


@pytest.mark.parametrize("target", ["ftp://shop.test/a.jpg", "file:///etc/passwd", "data:image/png;base64,AAAA"])
def test_redirects_out_of_http_are_refused(target, shop, store):
    assert refusal(store, shop.url(f"to/{target}")).reason == "unsupported-address"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a.jpg",
        "http://[::1]/a.jpg",
        "http://[::ffff:10.0.0.1]/a.jpg",
        "http://0.0.0.0/a.jpg",
        f"http://{EVIL}/a.jpg",
    ],
)
def test_redirects_to_private_places_are_refused(target, shop, strict):
    found = refusal(strict, shop.url(f"to/{target}", SHOP))
    assert found.reason == "private-address"
    assert "allow_private" in found.detail
    assert refusal(strict, target).reason == "private-address"
    assert strict.read(shop.url("good", SHOP)) == GOOD


def test_loopback_is_private_by_default(shop, tmp_path):
    pictures = WebPictures(STRICT, tmp_path, LIMIT, Network(look_up))
    assert refusal(pictures, shop.url("good")).reason == "private-address"
    assert refusal(pictures, shop.url("good", SHOP)).reason == "private-address"
    assert shop.seen == {}


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::1%25lo]"])
def test_odd_spellings_of_loopback_do_not_pass(host, shop, tmp_path):
    pictures = WebPictures(STRICT, tmp_path, LIMIT, Network(lambda *_: ["127.0.0.1"]))
    assert refusal(pictures, shop.url("good", host)).reason in ("private-address", "unsupported-address")
    assert shop.seen == {}


def test_the_connection_goes_to_the_address_that_was_checked(shop, tmp_path):
    """DNS rebinding: the second look-up would answer with a private address, so there must be none."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    pictures = WebPictures(STRICT, tmp_path, LIMIT, Network(lambda *_: answers.pop(0), loopback_is_public))
    assert pictures.read(shop.url("good", SHOP)) == GOOD
    assert answers == [["10.0.0.1"]]
    assert shop.hosts == [f"{SHOP}:{shop.port}"]


@pytest.fixture
def tls_shop(shop, tmp_path):
    """A second server that speaks TLS as shop.test, with a certificate that it made itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes the test's certificate")
    certificate, key = self_signed(x509, SHOP)
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)
    with serving(Shop()) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        yield server.shop, tmp_path / "cert.pem", names


def self_signed(x509, name):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(who, who, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form)


def read_trusting(certificate, pickled, url):
    os.environ["SSL_CERT_FILE"] = str(certificate)  # read when aiohttp is imported: in a new process
    return pickle.loads(pickled).read(url)


def test_tls_is_checked_against_the_name_not_the_address(tls_shop, strict):
    tls, certificate, names = tls_shop
    url = tls.url("good", SHOP).replace("http:", "https:")
    assert "certificate" in refusal(strict, url).detail
    assert len(names) == 1  # and is not tried again
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(read_trusting, certificate, pickle.dumps(another_run(strict)), url).result() == GOOD
    assert names == [SHOP, SHOP]


def test_logins_in_addresses_are_refused_and_not_shown(shop, store):
    found = refusal(store, f"http://user:secret@127.0.0.1:{shop.port}/good")
    assert found.reason == "unsupported-address"
    assert "secret" not in found.detail
    assert refusal(store, shop.url(f"to/http://user@127.0.0.1:{shop.port}/good")).reason == "unsupported-address"


@pytest.mark.parametrize(
    "reference", ["a.jpg", "/etc/passwd", "ftp://shop.test/a", "file:///a", "http://", "http:///a"]
)
def test_what_is_no_web_address_is_refused(reference, store):
    assert refusal(store, reference).reason == "unsupported-address"


def test_an_empty_cell_is_a_missing_picture(store):
    assert refusal(store, "").reason == "missing-image"


def test_proxies_and_cookies_of_the_environment_are_ignored(shop, store, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert store.read(shop.url("good")) == GOOD
    assert not {"Cookie", "Authorization"} & set(shop.headers[0])


def test_a_disk_that_fills_stops_the_run_and_leaves_no_half_file(shop, store):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(GOOD) // 2, hard))  # writing fails as on a full disk
    try:
        with pytest.raises(OSError) as caught:
            store.prefetch([shop.url("good")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert bytes_of(store) == []
    assert store.read(shop.url("good")) == GOOD


@pytest.mark.parametrize(("ours", "left"), [(True, {"new"}), (False, {"new", "old"})])
def test_leftovers_of_killed_processes_are_swept(shop, store, ours, left):
    """Point 19: in a folder of ours, not in one that a link leads to."""
    partial = store.cache / "partial"
    partial.mkdir(parents=True)
    if ours:
        mark(store.cache)
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        (partial / name).write_bytes(b"half")
        os.utime(partial / name, (time.time() - age,) * 2)
    store.prefetch([shop.url("good")])
    assert {path.name for path in partial.iterdir()} == left


def read_in_process(pickled, urls):
    pictures = pickle.loads(pickled)
    pictures.prefetch(urls)
    return [pictures.read(url) for url in urls]


def test_threads_and_processes_share_one_cache(shop, store):
    urls = [shop.url(f"slow/{number}") for number in range(10)]
    with ThreadPoolExecutor(4) as threads, ProcessPoolExecutor(2, get_context("spawn")) as processes:
        jobs = [pool.submit(read_in_process, pickle.dumps(store), urls) for pool in (processes, threads) for _ in "ab"]
        assert [job.result() for job in jobs] == [[GOOD] * 10] * 4
    assert shop.busiest == QUICK.per_host  # of all of them together
    assert list((store.cache / "partial").iterdir()) == []


def test_the_store_works_in_a_thread_beside_a_running_event_loop(shop, store):
    async def run():
        return await asyncio.to_thread(store.read, shop.url("good"))

    assert asyncio.run(run()) == GOOD


AS_WRITTEN = [
    "good/b.jpg?Sig=qZ%2BPP2g%2Fab%3D&fm=jpg%2Cpng",
    "good/http%3A%2F%2Fshop%2Fp0.jpg",
    "good/gr%F6%DFe/0.jpg",
    "good/foo%27bar%280%29%7E.jpg",
    "good/x//y/./z/../a+b;c=1/0.jpg?u=a+b&v=100%&t=a|b&w=[1]&x={y}",
    "good/%c3%A4?a=%zz&b=c%20d",
]


@pytest.mark.parametrize("path", AS_WRITTEN)
def test_an_address_is_asked_for_byte_for_byte_as_it_is_written(path, shop, store):
    """Point 10: a signature over path and query holds, also behind a redirect."""
    assert store.read(shop.url(path)) == GOOD
    assert shop.seen == {f"/{path}": 1}
    for target in (f"/{path}", shop.url(path)):
        assert store.read(shop.url(f"to/{quote(target, safe='')}")) == GOOD
    assert shop.seen[f"/{path}"] == 3


def test_only_what_an_address_cannot_hold_is_percent_encoded(shop, store):
    """Point 10: blanks and letters beyond ASCII are encoded as UTF-8, what is encoded already stays."""
    assert store.read(shop.url("good/my photos/größe%20 0.jpg?sig=%2B%2f&x=ä")) == GOOD
    assert store.read(shop.url("nonascii")) == GOOD
    assert list(shop.seen) == [
        "/good/my%20photos/gr%C3%B6%C3%9Fe%20%200.jpg?sig=%2B%2f&x=%C3%A4",
        "/nonascii",
        "/good/gr%C3%B6%C3%9Fe.jpg",
    ]


SECRET = "s3cr3t-of-the-shop"


@pytest.fixture
def secretive(store, monkeypatch):
    """A store that sends a secret header and an open one."""
    monkeypatch.setenv("SHOP_KEY", SECRET)
    headers = {"X-Api-Key": "Key ${SHOP_KEY}", "Referer": "https://shop.test/"}
    return replace(store, download=QUICK.model_copy(update={"headers": headers, "user_agent": "Mozilla/5.0 (shop)"}))


def test_the_described_user_agent_and_headers_are_sent(shop, secretive):
    """Point 10: who asks, and the headers of the description, with what is secret from the environment."""
    secretive.read(shop.url("good"))
    sent = shop.headers[0]
    assert sent["User-Agent"] == "Mozilla/5.0 (shop)"
    assert sent["X-Api-Key"] == f"Key {SECRET}"
    assert sent["Referer"] == "https://shop.test/"
    assert SECRET.encode() not in pickle.dumps(secretive)
    assert SECRET not in repr(secretive)


def test_headers_follow_a_redirect_to_the_same_host_only(shop, secretive):
    """Point 10: the host that a redirect names gets none of the described headers, only the user agent."""
    assert secretive.read(shop.url("redirect/2")) == GOOD
    assert all("X-Api-Key" in sent for sent in shop.headers)
    shop.headers.clear()
    away = shop.url("good/elsewhere", SHOP)
    assert secretive.read(shop.url(f"to/{away}")) == GOOD
    assert ["X-Api-Key" in sent for sent in shop.headers] == [True, False]
    assert [sent["User-Agent"] for sent in shop.headers] == ["Mozilla/5.0 (shop)"] * 2


def test_headers_can_be_kept_to_named_hosts(shop, secretive):
    named = replace(secretive, download=secretive.download.model_copy(update={"header_hosts": ("Shop.test",)}))
    named.read(shop.url("good/1"))
    named.read(shop.url("good/2", SHOP))
    assert ["X-Api-Key" in sent for sent in shop.headers] == [False, True]


@pytest.mark.parametrize("value", ["", "two\r\nX-More: lines", "bell\a"])
def test_a_header_that_cannot_be_filled_in_is_reported_without_its_value(value, shop, secretive, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", value)
    bare = replace(secretive, download=QUICK.model_copy(update={"headers": {"X-Api-Key": "${SHOP_KEY}"}}))
    with pytest.raises(InputError, match="X-Api-Key") as caught:
        bare.read(shop.url("good"))
    assert "More" not in str(caught.value)
    assert shop.seen == {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=40), st.text(max_size=30).map("http://".__add__)))
@example("http://[::1")
@example("http://a\0b/")
@example("http://" + "a" * 300)
@example("http://a..b/\ud800")
@example("http://shop.test:99999/")
@example("http://localhost:1/\r\nHost: x")
def test_any_text_gives_a_refusal(tmp_path, text):
    pictures = WebPictures(STRICT.model_copy(update={"retries": 0}), tmp_path, LIMIT, Network(look_up, lambda _: False))
    assert refusal(pictures, text).reason in ("unsupported-address", "unreachable", "missing-image", "private-address")
