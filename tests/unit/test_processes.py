"""How the threads of processes share the cores, and how processes reach loopback past proxies."""

import gc
import os
import urllib.request

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.processes import (
    COLLECT_AFTER,
    PROCESSES_PER_CORE,
    PROXIES,
    collection_paused,
    cores,
    prepare_for_libraries,
    processes_for,
    reach_loopback_directly,
    threads_of_each,
    wait_briefly,
    with_proxies,
    without_proxies,
)


@pytest.mark.parametrize(("given", "each"), [("8", 4), ("1", 1), (None, max(1, cores() // 2))])
def test_threads_are_shared_out(given: str | None, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_of_each(2) == {"OMP_NUM_THREADS": str(each)}


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_briefly_unless_told_otherwise(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # whatever is set here comes back after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "shop.example, localhost"}, "shop.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, "a.example,b.example,127.0.0.1,localhost,::1"),
    ],
)
def test_loopback_is_added_to_the_hosts_without_a_proxy(given: dict[str, str], wanted: str) -> None:
    """Point 18: loopback bypasses proxies, in both spellings of the variable, and what a person named stays."""
    reach_loopback_directly(given)
    assert (given["NO_PROXY"], given["no_proxy"]) == (wanted, wanted)


def test_no_proxy_for_anything_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 18: Python knows the star alone and not in a list."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    reach_loopback_directly(os.environ)
    assert urllib.request.proxy_bypass_environment("shop.example")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_clients_of_loopback_see_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 18: httpx, which Prefect uses, and Python's own client."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    reach_loopback_directly(os.environ)
    assert urllib.request.proxy_bypass_environment(host.strip("[]"))
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL(f"http://{host}:4277/api")) is client._transport
        assert client._transport_for_url(httpx.URL("http://shop.example")) is not client._transport


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "socks://127.0.0.1:9", "nonsense://x"]
)
@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_any_kind_of_proxy_lets_programs_of_loopback_start(
    name: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point 18: httpx raises for kinds of proxies that it does not know; a program of loopback does not see them."""
    for known in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(known, raising=False)
    environment = without_proxies({name: proxy})
    assert name not in environment
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    httpx.Client().close()
    assert with_proxies(environment) == {name: proxy}


NAMES = st.sampled_from([*PROXIES, *map(str.upper, PROXIES), "PATH", "NO_PROXY"])


@given(st.dictionaries(NAMES, st.text()))
def test_proxies_that_were_set_aside_come_back(environment: dict[str, str]) -> None:
    """Point 18: a stage, which may go out, has the proxies of the person; twice set aside is once."""
    hidden = without_proxies(environment)
    assert not [name for name in hidden if name.lower() in PROXIES]
    assert with_proxies(without_proxies(hidden)) == environment


def test_more_processes_than_the_cores_can_use_are_refused() -> None:
    """Point 24: 99,999 decoding processes are refused with the reason, and a default fits the machine."""
    most = PROCESSES_PER_CORE * cores()
    assert processes_for(None, "ingest.workers") == cores()
    assert processes_for(most, "ingest.workers") == most
    with pytest.raises(
        InputError, match=f"ingest.workers is 99999, but this machine has {cores()} cores.* to {most} or"
    ):
        processes_for(99_999, "ingest.workers")


def test_collection_is_paused_in_the_block_alone_also_after_an_error() -> None:
    seen = []

    def load() -> None:
        seen.append(gc.isenabled())
        raise ImportError

    with pytest.raises(ImportError), collection_paused():
        load()
    assert seen == [False]
    assert gc.isenabled()


def test_libraries_are_loaded_with_fewer_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, *before[1:])
        prepare_for_libraries()
        assert gc.get_threshold() == (COLLECT_AFTER, *before[1:])
    finally:
        gc.set_threshold(*before)
