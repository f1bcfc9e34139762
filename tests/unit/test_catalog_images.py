import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from mlim.catalog.images import IMAGE_BOMB, NOT_AN_IMAGE, ImageRules, Picture, prepare_picture, thumbnail_of, to_rgb
from mlim.catalog.refusal import Refusal

SIZE = 32
TOLERANCE = 6  # JPEG is not exact


RULES = ImageRules(("JPEG", "PNG", "WEBP"), max_megapixels=1.0, size=SIZE, quality=92)


def saved(picture, kind="PNG", **options):
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def prepared(picture, kind="PNG", **options):
    return prepare_picture(saved(picture, kind, **options), "x", RULES)


def pixels(picture):
    assert isinstance(picture, Picture), picture
    with Image.open(io.BytesIO(picture.jpeg)) as opened:
        assert opened.format == "JPEG"
        assert opened.mode == "RGB"
        assert opened.size == (SIZE, SIZE)
        return np.asarray(opened).astype(int)


def reason(data):
    refusal = prepare_picture(data, "x.jpg", RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith("x.jpg ")
    return refusal.reason


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_a_square_rgb_jpeg(mode):
    grey = 128
    source = Image.new("L", (40, 20), grey)
    made = Image.fromarray(np.full((20, 40), grey << 8, dtype=np.uint16)) if mode == "I;16" else source.convert(mode)
    picture = prepared(made)
    shown = pixels(picture)
    assert (picture.width, picture.height) == (40, 20)
    if mode != "1":
        assert abs(shown - grey).max() <= TOLERANCE


def test_cmyk_jpeg():
    assert pixels(prepared(Image.new("CMYK", (40, 20), 0), "JPEG")).min() >= 255 - TOLERANCE


def test_progressive_jpeg():
    assert pixels(prepared(Image.new("RGB", (90, 70), "white"), "JPEG", progressive=True)).min() >= 255 - TOLERANCE


def test_the_first_picture_of_an_animation_is_taken():
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("white", "black")]
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert pixels(prepare_picture(animated, "x", RULES)).min() >= 255 - TOLERANCE


def test_one_pixel_is_a_picture():
    picture = prepared(Image.new("RGB", (1, 1), "red"))
    assert (picture.width, picture.height) == (1, 1)
    assert pixels(picture)[0, 0, 0] > 240


def test_transparency_is_laid_on_white():
    assert pixels(prepared(Image.new("RGBA", (40, 40), (255, 0, 0, 0)))).min() >= 255 - TOLERANCE
    assert abs(pixels(prepared(Image.new("RGBA", (40, 40), (0, 0, 0, 128)))) - 127).max() <= TOLERANCE


def test_a_transparent_palette_colour_is_white():
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([255, 0, 0])
    picture.info["transparency"] = 0
    assert to_rgb(picture).getpixel((0, 0)) == (255, 255, 255)


def test_the_picture_is_turned_upright():
    source = Image.new("RGB", (60, 40), "black")
    source.paste("white", (0, 0, 30, 40))  # the left half is white
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: left becomes top
    picture = prepared(source, "JPEG", exif=exif)
    assert (picture.width, picture.height) == (40, 60)
    shown = pixels(picture)
    assert shown[: SIZE // 2 - 2].mean() > 240
    assert shown[SIZE // 2 + 2 :].mean() < 15


def test_broken_exif_does_not_cost_the_picture():
    assert isinstance(prepared(Image.new("RGB", (40, 20), "red"), "JPEG", exif=b"Exif\x00\x00garbage"), Picture)


@pytest.mark.parametrize("size", [(400, 400), (400, 20), (400, SIZE)])
def test_a_side_that_shrinks_is_averaged_whatever_the_other_one_does(size):
    stripes = np.zeros((*reversed(size), 3), dtype=np.uint8)
    stripes[:, ::2, 0] = 255
    red, *others = np.moveaxis(pixels(prepared(Image.fromarray(stripes))), -1, 0)
    assert abs(red - 127).max() <= TOLERANCE
    assert max(other.max() for other in others) <= TOLERANCE


MANY_SIZES = """
import hashlib, io, numpy as np
from PIL import Image
from mlim.catalog.images import ImageRules, prepare_picture
digest, draw = hashlib.sha256(), np.random.default_rng(0)
for size in [(31, 20), (20, 90), (400, 300), (70, 70), (97, 1), (64, 64)]:
    target = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(target, "PNG")
    digest.update(prepare_picture(target.getvalue(), "x", ImageRules(("PNG",), 1.0, 64, 95)).jpeg)
print(digest.hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_instructions_of_the_processor():
    plain = {"OPENCV_CPU_DISABLE": "AVX512_SKX,AVX2,AVX,FP16,SSE4_2", "OPENCV_IPP": "disabled"}
    found = [
        subprocess.run(
            [sys.executable, "-c", MANY_SIZES], env=os.environ | given, capture_output=True, check=True
        ).stdout
        for given in ({}, plain)
    ]
    assert found[0] == found[1]


def test_not_an_image():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    halves = [data[: len(data) // 2] for data in (saved(noise, "JPEG"), saved(noise, "PNG"))]
    refused_format = saved(Image.new("RGB", (8, 8)), "GIF")  # the recipe does not allow it
    for data in (b"not a picture", b"", *halves, refused_format):
        assert reason(data) == NOT_AN_IMAGE


def test_refusals_say_the_same_in_every_run():
    first, second = (prepare_picture(b"not a picture", "words.jpg", RULES) for _ in range(2))
    assert first == second
    assert "0x" not in first.detail


def test_too_many_pixels_are_refused_from_the_header():
    assert reason(saved(Image.new("L", (1001, 1000)))) == IMAGE_BOMB
    assert reason(png_header(30_000, 30_000)) == IMAGE_BOMB


def png_header(width, height):
    data = bytearray(saved(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_pillows_own_bomb_guard_is_an_error(monkeypatch):
    data = saved(Image.new("L", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert reason(data) == IMAGE_BOMB


def test_a_picture_of_no_pixels_is_none():
    assert reason(png_header(0, 5)) == NOT_AN_IMAGE


def test_thumbnails_are_small_and_keep_the_proportions():
    with Image.open(io.BytesIO(thumbnail_of(prepared(Image.new("RGB", (400, 100), "red"))))) as shown:
        assert max(shown.size) <= 96
        assert shown.width == 4 * shown.height


def test_brightness_and_contrast_tell_a_blank_picture_from_fine_stripes():
    blank, stripes = Image.new("L", (64, 64), 255), Image.fromarray(np.tile([[0, 255]], (64, 32)).astype(np.uint8))
    assert (prepared(blank).brightness, prepared(blank).contrast) == (1.0, 0.0)
    assert (prepared(stripes).brightness, prepared(stripes).contrast) == (0.5, 0.5)


def bits_apart(first, second):
    return (int(first.hash, 16) ^ int(second.hash, 16)).bit_count()


def photo(seed):
    """Something with large shapes, as photos have."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 300), Image.Resampling.BICUBIC)


def test_a_copy_at_another_size_and_quality_has_nearly_the_same_hash():
    small = photo(1).resize((120, 150))
    assert bits_apart(prepared(photo(1)), prepared(small, "JPEG", quality=60)) <= 2
    assert bits_apart(prepared(photo(1)), prepared(photo(2))) > 12
    assert len(prepared(photo(1)).hash) == 16
