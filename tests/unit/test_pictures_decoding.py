import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from mlim.catalog.rejection import Rejection
from mlim.pictures.decoding import (
    FORMAT_NOT_ALLOWED,
    IMAGE_BOMB,
    NOT_AN_IMAGE,
    ImageRules,
    Picture,
    prepare_picture,
    thumbnail_of,
    to_rgb,
    turned_upright,
)

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
    assert isinstance(refusal, Rejection)
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(io.BytesIO(saved(photo(1), "PNG", exif=exif))) as source:
        expected = ImageOps.exif_transpose(source)
        assert turned_upright(source).tobytes() == expected.tobytes()
        assert prepared(photo(1), "PNG", exif=exif).width == expected.width


def exif_block(*entries, data=b""):
    """An EXIF block that says `turn me clockwise`, and more (tag, type, count, value or place in `data`) entries."""
    listed = [(0x112, 3, 1, struct.pack("<HH", 6, 0)), *entries]
    base = 8 + 2 + 12 * len(listed) + 4
    written = [
        struct.pack("<HHL", tag, kind, count) + (value if isinstance(value, bytes) else struct.pack("<L", base + value))
        for tag, kind, count, value in listed
    ]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(listed)) + b"".join(written) + bytes(4) + data


ODD_EXIF = {
    "resolution -1/0": exif_block((0x11A, 5, 1, 0), data=struct.pack("<ll", -1, 0)),
    "signed resolution": exif_block((0x11A, 10, 1, 0), data=struct.pack("<ll", -(2**31), -(2**31))),
    "strip offset as a rational": exif_block((0x111, 5, 1, 0), data=struct.pack("<LL", 1, 3)),
    "width as a float": exif_block((0x100, 11, 1, struct.pack("<f", 80.5))),
    "width as a double": exif_block((0x100, 12, 1, 0), data=struct.pack("<d", float("nan"))),
    "the smallest whole number": exif_block((0x100, 9, 1, struct.pack("<l", -(2**31)))),
    "beyond its own end": exif_block((0x9286, 7, 4000, 9000)),
    "types nobody knows": exif_block((0x8298, 13, 1, bytes(4)), (0x8299, 0, 1, bytes(4)), (0x829A, 999, 1, bytes(4))),
    "an EXIF folder that is itself": exif_block((0x8769, 4, 1, struct.pack("<L", 8))),
    "a GPS folder that is a text": exif_block((0x8825, 2, 4, b"gps\0")),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_exif_that_cannot_be_written_again_does_not_cost_the_picture(exif, kind):
    """Point 12: a picture is turned by its orientation alone; EXIF is never written."""
    data = saved(Image.new("RGB", (60, 40), "red"), kind, exif=exif)
    picture = prepare_picture(data, "x", RULES)
    assert (picture.width, picture.height) == (40, 60)


def png_with(kind, data):
    """A PNG with one more chunk before its pixels."""
    plain = saved(Image.new("RGB", (40, 20), "red"))
    start = plain.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return plain[:start] + chunk + plain[start:]


MEBIBYTE = 1 << 20
LARGE_CHUNKS = {
    "iCCP": b"profile\0\0" + zlib.compress(bytes(2 * MEBIBYTE)),
    "zTXt": b"note\0\0" + zlib.compress(b"a" * (8 * MEBIBYTE)),
    "iTXt": b"note\0\1\0\0\0" + zlib.compress(b"a" * (8 * MEBIBYTE)),
    "tEXt": b"note\0" + b"a" * (8 * MEBIBYTE),
}


@pytest.mark.parametrize("kind", LARGE_CHUNKS)
def test_large_texts_and_colour_profiles_do_not_cost_the_picture(kind):
    """Point 12: metadata above a megabyte is read past."""
    assert isinstance(prepare_picture(png_with(kind.encode(), LARGE_CHUNKS[kind]), "x", RULES), Picture)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tIME"])
def test_a_wrong_checksum_of_metadata_does_not_cost_the_picture(kind):
    """Point 12: what is said about a picture may be damaged, its pixels may not."""
    whole = png_with(kind, b"note\0\0" + zlib.compress(b"words"))
    place = whole.index(kind)
    length = int.from_bytes(whole[place - 4 : place], "big")
    damaged = bytearray(whole)
    damaged[place + 4 + length] ^= 0xFF
    assert isinstance(prepare_picture(bytes(damaged), "x", RULES), Picture)
    cut = bytes(damaged)[: len(damaged) - 40]
    assert reason(cut) == NOT_AN_IMAGE
    pixels_damaged = bytearray(whole)
    pixels_damaged[whole.index(b"IDAT") + 6] ^= 0xFF
    assert reason(bytes(pixels_damaged)) == NOT_AN_IMAGE


def test_texts_that_unpack_to_more_than_all_may_have_are_still_refused():
    bomb = png_with(b"zTXt", b"note\0\0" + zlib.compress(b"a" * (PngImagePlugin.MAX_TEXT_MEMORY + 1)))
    assert reason(bomb) == NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("kind", "name"),
    [("GIF", "a GIF"), ("BMP", "a BMP"), ("TIFF", "a TIFF"), ("AVIF", "an AVIF"), ("JPEG2000", "a JPEG2000")],
)
def test_a_format_that_is_not_allowed_has_a_reason_of_its_own(kind, name):
    """Point 12: the sentence names the format and the setting that allows formats."""
    refusal = prepare_picture(saved(Image.new("RGB", (8, 8)), kind), "x.jpg", RULES)
    message = f"x.jpg is {name}; ingest.formats allows JPEG, PNG, WEBP"
    assert refusal == Rejection(FORMAT_NOT_ALLOWED, message)


def test_broken_exif_does_not_cost_the_picture():
    assert isinstance(prepared(Image.new("RGB", (40, 20), "red"), "JPEG", exif=b"Exif\x00\x00garbage"), Picture)


@pytest.mark.parametrize("size", [(400, 400), (400, 20), (400, SIZE)])
def test_a_side_that_shrinks_is_averaged_whatever_the_other_one_does(size):
    stripes = np.zeros((*reversed(size), 3), dtype=np.uint8)
    stripes[:, ::2, 0] = 255
    red, *others = np.moveaxis(pixels(prepared(Image.fromarray(stripes))), -1, 0)
    assert abs(red - 127).max() <= TOLERANCE
    assert max(other.max() for other in others) <= TOLERANCE


def test_not_an_image():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    halves = [data[: len(data) // 2] for data in (saved(noise, "JPEG"), saved(noise, "PNG"))]
    for data in (b"not a picture", b"", *halves, b"<svg/>"):
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
