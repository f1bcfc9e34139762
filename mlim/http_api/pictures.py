"""Pictures of a request that lie below the server's folder of images, or behind addresses at hosts that it allows."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mlim.catalog.description import Download
from mlim.catalog.rejection import RejectedError, Rejection
from mlim.errors import InputError
from mlim.http_api.options import ApiOptions
from mlim.http_api.schema import ItemIn
from mlim.pictures.addresses import Network, web_address
from mlim.pictures.base import MISSING_IMAGE
from mlim.pictures.cache import DownloadCache
from mlim.pictures.folder import FolderPictures
from mlim.pictures.web_reasons import PRIVATE_ADDRESS
from mlim.received import UnreadableError, decode_base64

NOT_BASE64: Final = "not-base64"
PATH_NOT_ALLOWED: Final = "path-not-allowed"
URL_NOT_ALLOWED: Final = "url-not-allowed"
MOST_SECONDS: Final = 10.0  # for one picture from the web, and no more than a third of what the request has
BYTES_PER_MB: Final = 1_000_000


def host_name(text: str) -> str:
    """A host as it is compared; `InputError` for what is no host name."""
    try:
        host = web_address(f"http://{text}/").raw_host or ""
    except RejectedError:
        host = ""
    if not host or any(mark in text for mark in "/@?#"):
        raise InputError(f"--allow-url-host {text}: is no host name; write it as images.shop.example")
    return host


@dataclass(frozen=True)
class AllowedHosts(Network):
    """Lets requests connect to `hosts` alone, redirects included, and to their public addresses unless `private`."""

    hosts: frozenset[str] = frozenset()
    private: bool = False

    def check_host(self, host: str) -> None:
        """`RejectedError` for a host that is not allowed."""
        if host not in self.hosts:
            raise RejectedError(
                URL_NOT_ALLOWED, f"the server reads no pictures from {host}; `mlim serve --allow-url-host` allows hosts"
            )

    def check(self, host: str, addresses: Iterable[str]) -> None:
        """The same, and `RejectedError` when one of the host's addresses is not public."""
        self.check_host(host)
        inside = None if self.private else next((one for one in addresses if not self.is_public(one)), None)
        if inside is not None:
            raise RejectedError(
                PRIVATE_ADDRESS,
                f"{host} is at {inside}, which is not on the public internet; `mlim serve --allow-private-urls` allows "
                "such places",
            )


@dataclass(frozen=True)
class Pictures:
    """The bytes of the pictures of items whose addresses were fetched already; read by threads."""

    folder: FolderPictures | None
    max_bytes: int = 0
    downloads: DownloadCache | None = None
    failures: Mapping[str, Rejection] = field(default_factory=dict)

    def read(self, item: ItemIn) -> bytes | None:
        """The bytes of an item's picture, None where it has none; `RejectedError` when they cannot be had."""
        if item.image is not None:
            return _decoded(item.image)
        if item.path is not None:
            return self._from_folder(item.path)
        return None if item.url is None else self._downloaded(item.url)

    def _from_folder(self, path: str) -> bytes:
        if self.folder is None:
            raise RejectedError(PATH_NOT_ALLOWED, "the server reads no paths; `mlim serve --images` names a folder")
        return self.folder.read(path)

    def _downloaded(self, url: str) -> bytes:
        if url in self.failures:
            raise RejectedError(self.failures[url].reason, self.failures[url].detail)
        data = self.downloads.read(url, self.max_bytes) if self.downloads else None
        if data is None:
            raise RejectedError(MISSING_IMAGE, "the picture was fetched and cannot be read")
        return data


class PictureSources:
    """Where the server's options let pictures come from."""

    def __init__(self, options: ApiOptions) -> None:
        self._max_bytes = int(options.picture_mb * BYTES_PER_MB)
        images = options.images
        self._folder = None if images is None else FolderPictures(images, self._max_bytes, remember=False)
        self._network = AllowedHosts(hosts=frozenset(options.url_hosts), private=options.private_urls)
        self._settings = Download(timeout_seconds=min(MOST_SECONDS, options.seconds / 3), retries=0)

    @asynccontextmanager
    async def fetched(self, items: Iterable[ItemIn]) -> AsyncIterator[Pictures]:
        """The pictures of these items; what was downloaded is there during the block.

        Nothing is kept: a picture at an address may change. `OSError` when the disk is full.
        """
        urls = list(dict.fromkeys(item.url for item in items if item.url is not None))
        refused = {url: why for url in urls if (why := self._refusal(url)) is not None}
        wanted = [url for url in urls if url not in refused]
        if not wanted:
            yield Pictures(self._folder, failures=refused)
            return
        from mlim.pictures.download import download_all  # only here: its client takes long to import

        with TemporaryDirectory(prefix="mlim-pictures-") as folder:
            cache = DownloadCache(Path(folder))
            failures = await download_all(wanted, self._settings, self._max_bytes, cache, self._network)
            yield Pictures(self._folder, self._max_bytes, cache, {**refused, **failures})

    def _refusal(self, url: str) -> Rejection | None:
        try:
            self._network.check_host(web_address(url).raw_host or "")
        except RejectedError as rejected:
            return rejected.rejection
        return None


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except UnreadableError as problem:
        raise RejectedError(NOT_BASE64, f"the value {problem}") from None
