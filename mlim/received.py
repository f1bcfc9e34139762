"""Texts and pictures as clients of the served model send them: read leniently, or refused with what is wrong."""

import base64
import re
from typing import Final

DATA_URI: Final = re.compile(r"data:[^,]*,", re.IGNORECASE)
URL_SAFE: Final = str.maketrans("-_", "+/")
NO_LETTER: Final = re.compile(r"[^A-Za-z0-9+/\-_\s]")
GROUP: Final = 4  # letters of base64 that stand for three bytes


class UnreadableError(ValueError):
    """What a client sent cannot be read; the message completes the sentence `row 1, image_a ...`."""


def decode_base64(text: str) -> bytes:
    """The bytes in base64 as it is commonly written.

    White space and line ends, a leading `data:image/...;base64,`, missing padding and the URL-safe alphabet are taken;
    `UnreadableError` says what is wrong with anything else.
    """
    payload = _without_prefix(text.strip())
    letters = payload.rstrip("=" + " \t\r\n")
    if stray := NO_LETTER.search(letters):
        place = len(text) - len(text.lstrip()) + len(text.strip()) - len(payload) + stray.start() + 1
        raise UnreadableError(f"is not base64: {stray.group()!r} at character {place} is none of its letters")
    if " " in letters and not set("+-") & set(letters):
        raise UnreadableError("is not base64: it holds blanks and no `+`, which form encoding makes of each `+`")
    packed = "".join(letters.split()).translate(URL_SAFE)
    if len(packed) % GROUP == 1:
        raise UnreadableError(f"is not base64: {len(packed)} letters cannot be whole bytes; something was cut off")
    return base64.b64decode(packed + "=" * (-len(packed) % GROUP), validate=True)


def _without_prefix(text: str) -> str:
    prefix = DATA_URI.match(text)
    if prefix is None:
        return text
    if not prefix.group().lower().endswith(";base64,"):
        raise UnreadableError("is a data: address that is not base64; send data:image/...;base64,...")
    return text[prefix.end() :]


def check_text(text: str, most: int) -> None:
    """`UnreadableError` for a text that is longer than `most` characters or that UTF-8 cannot hold."""
    if len(text) > most:
        raise UnreadableError(f"has {len(text):,} characters, more than the {most:,} that are read")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise UnreadableError(
            f"holds {half} at character {error.start + 1}, one half of a surrogate pair: the text was cut inside a "
            "character; send whole characters"
        ) from None
