"""Downloading many pictures at once from servers that may be slow, broken or hostile.

aiohttp because its connector takes the resolver as a documented parameter: it connects to exactly the addresses that
were checked, at every redirect, with the name in Host and TLS as usual, so a name that changes its address between
check and connection (DNS rebinding) gains nothing. Redirects are followed here, one checked hop at a time.
"""

import asyncio
import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mlim.catalog.description import Download
from mlim.catalog.headers import filled_headers
from mlim.catalog.rejection import RejectedError, Rejection
from mlim.pictures.addresses import SHOWN_CHARACTERS, Network, looks_numeric, web_address
from mlim.pictures.base import EMPTY_IMAGE, TOO_MANY_BYTES
from mlim.pictures.cache import DownloadCache
from mlim.pictures.host_limiter import HostLimiter
from mlim.pictures.sniff import SNIFFED_BYTES, picture_format
from mlim.pictures.web_reasons import (
    HTTP_STATUS,
    TIMEOUT,
    TOO_MANY_REDIRECTS,
    UNREACHABLE,
    UNSUPPORTED_ADDRESS,
)

NOT_AN_IMAGE = "not-an-image"

NAME_LOOKUPS_AT_A_TIME = 8
LONGEST_RETRY_AFTER_SECONDS = 30  # a server that asks for more patience than this is not asked again
REDIRECTS = (
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
)
# No compression: what unpacks to gigabytes never gets the chance, and pictures hardly shrink
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}


class _TryAgainError(Exception):
    """A failure that may pass: the rejection if it does not, and how long the server asks to wait."""

    def __init__(self, reason: str, detail: str, wait_seconds: float = 0.0) -> None:
        self.rejected = RejectedError(reason, detail)
        self.wait_seconds = wait_seconds
        super().__init__(reason, detail)


async def download_all(
    references: Sequence[str], settings: Download, max_bytes: int, cache: DownloadCache, network: Network
) -> Mapping[str, Rejection]:
    """Put what the addresses give into the cache; why not, for each address that failed.

    `OSError` when the cache cannot be written (a full disk): the other downloads are dropped. `InputError` when a
    header needs an environment variable that is not set.
    """
    headers = filled_headers(settings.headers)
    limiter = HostLimiter(cache.hosts, settings.per_host)
    resolver = _CheckedResolver(network, settings.allow_private)
    connector = aiohttp.TCPConnector(resolver=resolver, limit=0)  # the limiter below is the limit
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            headers=HEADERS | {"User-Agent": settings.user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the deadline below is for all of it
        ) as session:
            downloader = _Downloader(session, settings, max_bytes, cache, network, limiter, headers)
            rejections = await asyncio.gather(*(downloader.try_download(reference) for reference in references))
    finally:
        await resolver.close()
    return {reference: why for reference, why in zip(references, rejections, strict=True) if why is not None}


class _CheckedResolver(AbstractResolver):
    """Looks names up in threads, and gives only addresses that passed the check."""

    def __init__(self, network: Network, allow_private: bool) -> None:
        self._network = network
        self._allow_private = allow_private
        self._threads = ThreadPoolExecutor(NAME_LOOKUPS_AT_A_TIME, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses to connect to; `OSError` for an unknown name, `RejectedError` for a private place."""
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, self._network.resolve, host, port)
        try:
            addresses = await lookup
        except ValueError:  # what Python says to a NUL, and its IDNA codec to labels that are empty or too long
            raise OSError(f"{host} is no host name") from None
        if not self._allow_private:
            self._network.check(host, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Leave lookups that still hang to end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Downloader:
    session: aiohttp.ClientSession
    settings: Download
    max_bytes: int
    cache: DownloadCache
    network: Network
    limiter: HostLimiter
    headers: Mapping[str, str] = field(repr=False)  # they may be secret

    async def try_download(self, reference: str) -> Rejection | None:
        """Put one picture into the cache; why not when it fails."""
        try:
            await self._with_retries(reference)
        except RejectedError as rejected:
            return rejected.rejection
        return None

    async def _with_retries(self, reference: str) -> None:
        for attempt in itertools.count():
            try:
                await self._follow(reference)
                return
            except _TryAgainError as failure:
                if attempt >= self.settings.retries or failure.wait_seconds > LONGEST_RETRY_AFTER_SECONDS:
                    raise failure.rejected from None
                await asyncio.sleep(max(failure.wait_seconds, self.settings.backoff_seconds * 2**attempt))

    async def _follow(self, reference: str) -> None:
        """One attempt through all redirects; waiting for the host does not count against its time."""
        clock = asyncio.get_running_loop().time
        first, left = web_address(reference), self.settings.timeout_seconds
        url = first
        for _ in range(self.settings.redirects + 1):
            self._check_literal(url)
            async with self.limiter.slot(url.raw_host or ""):
                started = clock()
                target = await self._hop_in_time(url, reference, left, self._headers_for(url, first))
                left -= clock() - started
            if target is None:
                return
            url = target
        raise RejectedError(
            TOO_MANY_REDIRECTS, f"{_short(reference)} redirects more than {self.settings.redirects} times"
        )

    def _headers_for(self, url: URL, first: URL) -> Mapping[str, str]:
        """The headers of the description: they are for whom the catalog names, not for whom a redirect names."""
        hosts = [host.lower() for host in self.settings.header_hosts]
        trusted = url.origin() == first.origin() and (not hosts or url.raw_host in hosts)
        return self.headers if trusted else {}

    async def _hop_in_time(self, url: URL, reference: str, seconds: float, headers: Mapping[str, str]) -> URL | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._hop(url, reference, headers)
        except TimeoutError:
            limit = self.settings.timeout_seconds
            raise RejectedError(TIMEOUT, f"{_short(reference)} did not give a picture within {limit:g} s") from None

    async def _hop(self, url: URL, reference: str, headers: Mapping[str, str]) -> URL | None:
        """Ask one address: where it redirects to, or None when its picture is in the cache."""
        try:
            async with self.session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    return web_address(response.headers["Location"], base=url)
                self._check_status(response, reference)
                await self._save(response, reference)
                return None
        except aiohttp.ClientConnectorCertificateError:
            raise RejectedError(UNREACHABLE, f"{_short(reference)}: the server's certificate is not trusted") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise _TryAgainError(UNREACHABLE, f"{_short(reference)} cannot be fetched: {_why(error)}") from None
        except aiohttp.InvalidURL:
            raise RejectedError(UNSUPPORTED_ADDRESS, f"{_short(reference)} is no usable address") from None
        except aiohttp.ClientError:
            raise RejectedError(UNREACHABLE, f"{_short(reference)}: the server does not speak proper HTTP") from None

    def _check_literal(self, url: URL) -> None:
        """An address that is written as numbers never reaches the resolver; check it here."""
        host = url.raw_host or ""
        if looks_numeric(host) and not self.settings.allow_private:
            self.network.check(host, [host])

    def _check_status(self, response: aiohttp.ClientResponse, reference: str) -> None:
        status = response.status
        if status == HTTPStatus.OK:
            return
        detail = f"{_short(reference)} answered with HTTP status {status}"
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TryAgainError(HTTP_STATUS, detail, _retry_after(response))
        raise RejectedError(HTTP_STATUS, detail)

    async def _save(self, response: aiohttp.ClientResponse, reference: str) -> None:
        declared = response.content_length or 0
        if declared > self.max_bytes:
            self._reject_size(reference, f"says it has {declared} bytes")
        with self.cache.receive(reference, response.status) as incoming:
            start = b""
            async for chunk in response.content.iter_any():
                if len(start) < SNIFFED_BYTES:
                    start += chunk[:SNIFFED_BYTES]
                    _check_start(start, reference, ended=False)
                incoming.add(chunk)
                if incoming.size > self.max_bytes:
                    self._reject_size(reference, "sends more bytes")
            _check_start(start, reference, ended=True)

    def _reject_size(self, reference: str, what: str) -> None:
        raise RejectedError(TOO_MANY_BYTES, f"{_short(reference)} {what}; the limit is {self.max_bytes}")


def _check_start(start: bytes, reference: str, ended: bool) -> None:
    """Reject what does not begin like a picture, as soon as enough bytes are there."""
    if ended and not start:
        raise RejectedError(EMPTY_IMAGE, f"{_short(reference)} gave 0 bytes")
    if (ended or len(start) >= SNIFFED_BYTES) and picture_format(start) is None:
        raise RejectedError(NOT_AN_IMAGE, f"{_short(reference)} gave something that is no picture (a web page?)")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """The seconds that the server asks to wait; 0 where it asks for none, or names a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _why(error: Exception) -> str:
    """The cause in words that are the same in every run."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no address is known for its host"
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else "the connection was lost"


def _short(reference: str) -> str:
    return reference[:SHOWN_CHARACTERS]
