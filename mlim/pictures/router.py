"""Pictures of a table whose image column may hold addresses and paths side by side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlim.catalog.rejection import RejectedError
from mlim.pictures.base import MISSING_IMAGE, PictureStore
from mlim.pictures.web_reasons import UNSUPPORTED_ADDRESS

SHOWN_CHARACTERS = 200
ADDRESSES = ("http://", "https://")
OTHER_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a drive has one letter
NO_SCHEME = "//"


@dataclass(frozen=True)
class PictureRouter:
    """Addresses lead to `web`, everything else to `local` (a folder or archives; None where none is described)."""

    web: PictureStore
    local: PictureStore | None

    def read(self, reference: str) -> bytes:
        """The bytes, from wherever the reference leads."""
        try:
            return self._store(reference).read(reference)
        except RejectedError as rejected:
            if rejected.rejection.reason == MISSING_IMAGE and self._is_unsupported(reference):
                shown = repr(reference[:SHOWN_CHARACTERS])
                advice = "fetch the pictures into a folder and name it in `images`"
                if reference.startswith(NO_SCHEME):
                    advice = "write `https:` in front of it"
                raise RejectedError(UNSUPPORTED_ADDRESS, f"{shown} is not an http or https address; {advice}") from None
            raise

    def fingerprint(self, reference: str) -> str:
        """The fingerprint of the store that the reference leads to."""
        unknown = self.local is None and not is_address(reference)
        return "" if unknown else self._store(reference).fingerprint(reference)

    def prefetch(self, references: Sequence[str]) -> None:
        """Download what lies on the web; index the archives."""
        self.web.prefetch([reference for reference in references if is_address(reference)])
        if self.local is not None:
            self.local.prefetch([reference for reference in references if not is_address(reference)])

    def _is_unsupported(self, reference: str) -> bool:
        """Whether it is an address of another kind; `//` may also begin a path where there is a folder or archive."""
        return bool(OTHER_ADDRESS.match(reference)) or (self.local is None and reference.startswith(NO_SCHEME))

    def _store(self, reference: str) -> PictureStore:
        if is_address(reference):
            return self.web
        if self.local is None:
            raise RejectedError(
                MISSING_IMAGE,
                f"{reference[:SHOWN_CHARACTERS]} is no address, and `images` names no folder or archive that is there",
            )
        return self.local


def is_address(reference: str) -> bool:
    """Whether a reference is an http(s) address; whether it is a usable one shows when it is fetched."""
    return reference.lower().startswith(ADDRESSES)
