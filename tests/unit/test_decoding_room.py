"""How many pixels are decoded at once, and how many a picture's header says it has."""

import base64
import io
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mlim.matching.decoding_room import ALONE, DecodingRoom, decoded_pixels
from mlim.matching.items import ItemError, read_picture
from mlim.pictures.decoding import ImageRules
from mlim.serving import decode

RULES = ImageRules(("JPEG", "PNG", "WEBP"), max_megapixels=1.0, size=16, quality=92)
WIDTH, HEIGHT = 512, 256


def encoded(kind: str, **options) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(target, kind, **options)
    return target.getvalue()


def with_broken_text() -> bytes:
    """A PNG that Pillow opens only when it is told to forgive: the checksum of a text is wrong."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "shirt")
    return encoded("PNG", pnginfo=texts).replace(b"shirt", b"skirt")


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (encoded("PNG"), WIDTH * HEIGHT),
        (encoded("WEBP"), WIDTH * HEIGHT),
        (encoded("JPEG"), WIDTH * HEIGHT // 64),  # decoded at an eighth of each side
        (encoded("JPEG", progressive=True), WIDTH * HEIGHT),
        (encoded("GIF"), ALONE),  # not allowed
        (with_broken_text(), ALONE),
        (b"no picture", ALONE),
        (b"", ALONE),
    ],
)
def test_pixels_are_counted_from_the_header_and_what_hides_them_leaves_no_room_for_others(data, pixels):
    assert decoded_pixels(data, RULES) == pixels


@settings(deadline=None, max_examples=25)
@given(most=st.integers(1, 50), sizes=st.lists(st.integers(0, 80), min_size=1, max_size=8))
def test_no_more_pixels_than_there_is_room_for_are_decoded_at_once(most, sizes):
    """A larger picture takes all the room, and everybody has a turn."""
    room, lock, now, seen = DecodingRoom(most), threading.Lock(), [0], []

    def decode_one(size):
        with room.taken(size):
            with lock:
                now[0] += min(size, most)
                seen.append(now[0])
            threading.Event().wait(0.001)
            with lock:
                now[0] -= min(size, most)

    threads = [threading.Thread(target=decode_one, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == len(sizes)
    assert max(seen) <= most


def test_a_picture_that_cannot_be_read_gives_its_room_back():
    room = DecodingRoom(1)
    for _ in range(3):
        with pytest.raises(ItemError):
            read_picture(b"no picture", "item a", RULES, room)
    picture = base64.b64encode(encoded("PNG")).decode()
    assert decode(picture, "row 1", RULES, room).shape == (16, 16, 3)
