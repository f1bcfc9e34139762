"""Pictures behind http(s) addresses, downloaded once and then read from a cache on the disk."""

import asyncio
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlim.catalog.description import Download
from mlim.catalog.rejection import RejectedError
from mlim.pictures.addresses import SHOWN_CHARACTERS, Network
from mlim.pictures.base import MISSING_IMAGE
from mlim.pictures.cache import DownloadCache

# One call keeps all slots of a host busy; threads that download beside it would only wait for its locks
_ONE_AT_A_TIME = threading.Lock()


def new_run() -> str:
    """A name that no other run has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class WebPictures:
    """Pictures that addresses lead to, none larger than `max_bytes`, kept in the folder `cache`.

    Over all processes that share the cache, `download.per_host` downloads from one host run at a time. What is in the
    cache is never asked for again. A failure holds for the `run`: for this object and its pickled copies.
    """

    download: Download
    cache: Path
    max_bytes: int
    network: Network = field(default_factory=Network)
    run: str = field(default_factory=new_run, compare=False)

    def read(self, reference: str) -> bytes:
        """The picture from the cache, downloaded first where it is not there and has not failed in this run.

        `OSError` when the cache cannot be written (a full disk).
        """
        if not reference:
            raise RejectedError(MISSING_IMAGE, "the image column holds no address")
        data = self._store.read(reference, self.max_bytes) or self._fetch(reference)
        if data is None:
            shown = reference[:SHOWN_CHARACTERS]
            raise RejectedError(MISSING_IMAGE, f"{shown} was taken out of the cache while it was read")
        return data

    def fingerprint(self, reference: str) -> str:
        """Always "": the cache never changes what an address gave, and a download must not change the fingerprint."""
        return ""

    def prefetch(self, references: Sequence[str]) -> None:
        """Download what is neither in the cache nor failed in this run, many at a time; `read` tells the failures.

        `OSError` when the cache cannot be written (a full disk).
        """
        store = self._store
        wanted = [address for address in dict.fromkeys(references) if address and not store.is_known(address, self.run)]
        if wanted:
            self._download(wanted)

    def _fetch(self, reference: str) -> bytes | None:
        """The bytes of an address that `read` found missing; `RejectedError` tells why it failed, now or before."""
        if self._store.failure(reference, self.run) is None:
            self._download([reference])
        rejection = self._store.failure(reference, self.run)
        if rejection is not None:
            raise RejectedError(rejection.reason, rejection.detail)
        return self._store.read(reference, self.max_bytes)

    def _download(self, references: Sequence[str]) -> None:
        from mlim.pictures.download import download_all  # only here: its client takes long to import

        with _ONE_AT_A_TIME:
            self._store.sweep()
            failures = asyncio.run(download_all(references, self.download, self.max_bytes, self._store, self.network))
        for reference, rejection in failures.items():
            if not self._store.find(reference):  # another process may have fetched it meanwhile
                self._store.fail(reference, rejection, self.run)

    @property
    def _store(self) -> DownloadCache:
        return DownloadCache(self.cache)
