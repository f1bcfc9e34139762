import asyncio
import datetime
import errno
import gzip
import hashlib
import io
import ipaddress
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
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlim.catalog.description import Download
from mlim.catalog.pictures.addresses import Network, is_public_address, web_address
from mlim.catalog.pictures.sniff import is_picture
from mlim.catalog.pictures.web import WebPictures, new_run
from mlim.catalog.refusal import RefusedError

LIMIT = 100_000
TIMEOUT = 0.5
PATIENCE = 10.0  # longest that a handler keeps a thread
QUICK = Download(allow_private=True, timeout_seconds=TIMEOUT, retries=2, backoff_seconds=0.01, per_host=3)
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
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}/{path}"

    @contextmanager
    def counted(self, handler):
        with self.lock:
            self.seen[handler.path] += 1
            self.hosts.append(handler.headers["Host"])
            self.headers.append(dict(handler.headers))
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
        with self.server.shop.counted(self):
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

    def give_slow(self, _):
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
def strict(tmp_path):
    return WebPictures(STRICT, tmp_path / "cache", LIMIT, LOCAL)


def refusal(pictures, reference):
    with pytest.raises(RefusedError) as caught:
        pictures.read(reference)
    assert caught.value.refusal.detail
    return caught.value.refusal


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
    patient = Download(allow_private=True, timeout_seconds=0.3, retries=0, per_host=1)
    pictures = WebPictures(patient, tmp_path, LIMIT, LOCAL)
    urls = [shop.url(f"slow/{number}") for number in range(15)]  # 0.75 s one after the other
    pictures.prefetch(urls)
    assert [pictures.read(url) for url in urls] == [GOOD] * 15
    assert sum(shop.seen.values()) == 15


def test_a_silent_host_does_not_hold_up_the_others(shop, store):
    silent = [shop.url(f"silence/{number}") for number in range(3)]
    started = time.monotonic()
    store.prefetch([*silent, *(shop.url(f"good/{number}", SHOP) for number in range(10))])
    assert time.monotonic() - started < TIMEOUT + 1
    assert store.read(shop.url("good/9", SHOP)) == GOOD


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


def test_retries_come_to_an_end_and_wait_longer_each_time(shop, tmp_path):
    slower = QUICK.model_copy(update={"backoff_seconds": 0.1})
    started = time.monotonic()
    found = refusal(WebPictures(slower, tmp_path, LIMIT, LOCAL), shop.url("status/503"))
    assert time.monotonic() - started >= 0.1 + 0.2
    assert (found.reason, shop.seen["/status/503"]) == ("http-status", 3)


def test_a_short_retry_after_is_honoured_and_a_long_one_ends_it(shop, store):
    started = time.monotonic()
    assert store.read(shop.url("wait/1")) == GOOD
    assert time.monotonic() - started >= 1
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
def test_one_deadline_holds_for_the_whole_picture(path, shop, store):
    started = time.monotonic()
    assert refusal(store, shop.url(path)).reason == "timeout"
    assert TIMEOUT <= time.monotonic() - started < TIMEOUT + 1
    assert bytes_of(store) == []


@pytest.mark.parametrize("path", ["endless", "huge"])
def test_more_bytes_than_the_limit_are_not_read(path, shop, store):
    started = time.monotonic()
    found = refusal(store, shop.url(path))
    assert found.reason == "too-many-bytes"
    assert str(LIMIT) in found.detail
    assert time.monotonic() - started < TIMEOUT
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


def test_leftovers_of_killed_processes_are_swept(shop, store):
    partial = store.cache / "partial"
    partial.mkdir(parents=True)
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        (partial / name).write_bytes(b"half")
        os.utime(partial / name, (time.time() - age,) * 2)
    store.prefetch([shop.url("good")])
    assert [path.name for path in partial.iterdir()] == ["new"]


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


SPECIAL_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
]


@given(st.sampled_from(SPECIAL_NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)))
def test_special_ipv4_addresses_are_not_public_in_any_dress(address):
    number = int(address)
    dressed = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),  # mapped
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1),  # 6to4
        ipaddress.IPv6Address((0x64FF9B << 96) | number),  # NAT64
        ipaddress.IPv6Address(number),  # compatible
    ]
    assert not any(is_public_address(str(dress)) for dress in (address, *dressed))


@pytest.mark.parametrize(
    "address", ["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"]
)
def test_special_ipv6_addresses_are_not_public(address):
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address):
    assert is_public_address(address)


def test_the_fragment_of_an_address_is_not_sent():
    assert str(web_address(" https://shop.test/a.jpg#top ")) == "https://shop.test/a.jpg"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_pictures_are_known_by_their_first_bytes(form):
    assert is_picture(picture(form)[:16])


@given(st.binary(max_size=16))
@example(b"<!DOCTYPE html><h")
@example(b"RIFF\0\0\0\0WAVEfmt ")
@example(b"\0\0\0\x18ftypmp42")
@example(b"%PDF-1.7")
def test_other_bytes_are_no_picture(start):
    known = (b"\xff\xd8\xff", b"\xff\x4f", b"\x89PNG", b"GIF8", b"BM", b"II*", b"MM\0*", b"RIFF")
    assert is_picture(start) <= (start.startswith(known) or start[4:8] in (b"ftyp", b"jP  "))
