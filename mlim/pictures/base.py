"""What every place of pictures can do. References are untrusted text out of the catalog."""

from collections.abc import Sequence
from typing import Protocol

MISSING_IMAGE = "missing-image"
EMPTY_IMAGE = "empty-image"
OUTSIDE_FOLDER = "outside-folder"
TOO_MANY_BYTES = "too-many-bytes"


class PictureStore(Protocol):
    """Gives the bytes behind the references of the image column; picklable, used by many processes at once."""

    def read(self, reference: str) -> bytes:
        """The picture's bytes; `RejectedError` when it cannot be read, with a reason and a sentence."""

    def fingerprint(self, reference: str) -> str:
        """Cheap text that changes when the bytes may have changed (size and time); "" where they are unknown."""

    def prefetch(self, references: Sequence[str]) -> None:
        """Do what is slow, so that `read` is quick: download, or index an archive (also for no references at all)."""
