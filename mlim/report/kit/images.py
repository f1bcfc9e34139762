"""Pictures inside the page as data URIs, with a limit to what they may weigh together."""

import base64
import io

from PIL import Image

JPEG, PNG = "image/jpeg", "image/png"
BYTES_PER_MB = 1_000_000
BASE64_GROWTH = 4 / 3


def data_uri(content: bytes, media_type: str = JPEG) -> str:
    """The bytes as a `data:` address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


class Thumbnails:
    """Makes `data:` addresses until the page's budget is spent; a picture that is shown twice is made once.

    A picture is at most `side` pixels long, of JPEG quality `quality`; all together take at most `max_megabytes`.
    """

    def __init__(self, side: int, quality: int, max_megabytes: float) -> None:
        self._side, self._quality = side, quality
        self._left = round(max_megabytes * BYTES_PER_MB)
        self._made: dict[bytes, bytes] = {}
        self.left_out = 0

    def uri(self, picture: bytes | None, width: int = 0, height: int = 0) -> str | None:
        """The picture with the proportions of its source (0: its own) as a data URI.

        None where there is no picture, where it cannot be opened, and (counted in `left_out`) beyond the budget.
        """
        small = self._small(picture, width, height) if picture else None
        if small is None:
            return None
        weight = round(len(small) * BASE64_GROWTH)
        if weight > self._left:
            self.left_out += 1
            return None
        self._left -= weight
        return data_uri(small)

    def _small(self, picture: bytes, width: int, height: int) -> bytes | None:
        if picture not in self._made:
            made = _shrink(picture, (width, height), self._side, self._quality)
            if made is None:
                return None
            self._made[picture] = made
        return self._made[picture]


def _shrink(picture: bytes, source: tuple[int, int], side: int, quality: int) -> bytes | None:
    target = io.BytesIO()
    try:
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as opened:
            size = _size(opened.size, source, side)
            opened.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(
                target, "JPEG", quality=quality, optimize=True
            )
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken bytes
        return None
    return target.getvalue()


def _size(stored: tuple[int, int], source: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height within `side`, in the proportions of the source, never enlarged."""
    width, height = source if min(source) > 0 else stored
    scale = min(side, max(stored)) / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
