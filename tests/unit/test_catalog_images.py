import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from mlim.catalog.images import (
    EMPTY_IMAGE,
    IMAGE_BOMB,
    MISSING_IMAGE,
    NOT_AN_IMAGE,
    OUTSIDE_FOLDER,
    ImageRules,
    Picture,
    Refusal,
    prepare_picture,
    thumbnail,
    to_rgb,
)

SIZE = 32
TOLERANCE = 6  # JPEG is not exact


@pytest.fixture
def rules(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return ImageRules(folder, ("JPEG", "PNG", "WEBP"), max_megapixels=1.0, size=SIZE, quality=92)


def pixels(picture):
    assert isinstance(picture, Picture), picture
    with Image.open(io.BytesIO(picture.jpeg)) as opened:
        assert opened.format == "JPEG"
        assert opened.mode == "RGB"
        assert opened.size == (SIZE, SIZE)
        return np.asarray(opened).astype(int)


def reason(name, rules):
    refusal = prepare_picture(name, rules)
    assert isinstance(refusal, Refusal)
    assert refusal.detail
    return refusal.reason


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_a_square_rgb_jpeg(rules, mode):
    grey = 128
    source = Image.new("L", (40, 20), grey)
    made = Image.fromarray(np.full((20, 40), grey << 8, dtype=np.uint16)) if mode == "I;16" else source.convert(mode)
    made.save(rules.folder / "x.png")
    picture = prepare_picture("x.png", rules)
    shown = pixels(picture)
    assert (picture.width, picture.height) == (40, 20)
    if mode != "1":
        assert abs(shown - grey).max() <= TOLERANCE


def test_cmyk_jpeg(rules):
    Image.new("RGB", (40, 20), "white").convert("CMYK").save(rules.folder / "x.jpg")
    assert pixels(prepare_picture("x.jpg", rules)).min() >= 255 - TOLERANCE


def test_transparency_is_laid_on_white(rules):
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(rules.folder / "clear.png")
    assert pixels(prepare_picture("clear.png", rules)).min() >= 255 - TOLERANCE
    Image.new("RGBA", (40, 40), (0, 0, 0, 128)).save(rules.folder / "half.png")
    assert abs(pixels(prepare_picture("half.png", rules)) - 127).max() <= TOLERANCE


def test_a_transparent_palette_colour_is_white():
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([255, 0, 0])
    picture.info["transparency"] = 0
    assert to_rgb(picture).getpixel((0, 0)) == (255, 255, 255)


def test_the_picture_is_turned_upright(rules):
    source = Image.new("RGB", (60, 40), "black")
    source.paste("white", (0, 0, 30, 40))  # the left half is white
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: left becomes top
    source.save(rules.folder / "x.jpg", exif=exif)
    picture = prepare_picture("x.jpg", rules)
    assert (picture.width, picture.height) == (40, 60)
    shown = pixels(picture)
    assert shown[: SIZE // 2 - 2].mean() > 240
    assert shown[SIZE // 2 + 2 :].mean() < 15


def test_broken_exif_does_not_cost_the_picture(rules):
    Image.new("RGB", (40, 20), "red").save(rules.folder / "x.jpg", exif=b"Exif\x00\x00garbage")
    assert isinstance(prepare_picture("x.jpg", rules), Picture)


def test_the_hash_is_of_the_source_file(rules):
    Image.new("RGB", (40, 20), "red").save(rules.folder / "a.png")
    (rules.folder / "b.png").write_bytes((rules.folder / "a.png").read_bytes())
    assert prepare_picture("a.png", rules) == prepare_picture("b.png", rules)


@pytest.mark.parametrize("name", ["none.jpg", "", ".", "x\x00y.jpg", "a" * 5000])
def test_missing(rules, name):
    assert reason(name, rules) == MISSING_IMAGE


def test_a_loop_of_links_is_missing(rules):
    (rules.folder / "a.jpg").symlink_to("b.jpg")
    (rules.folder / "b.jpg").symlink_to("a.jpg")
    assert reason("a.jpg", rules) == MISSING_IMAGE


def test_a_pipe_is_not_waited_for(rules):
    os.mkfifo(rules.folder / "pipe.jpg")
    assert reason("pipe.jpg", rules) == MISSING_IMAGE


def test_nothing_outside_the_folder_is_opened(rules):
    secret = rules.folder.parent / "secret.png"
    Image.new("RGB", (40, 20)).save(secret)
    (rules.folder / "link.png").symlink_to(secret)
    (rules.folder / "door").symlink_to(rules.folder.parent)
    for name in ("../secret.png", str(secret), "link.png", "door/secret.png", "../images-2/x.png"):
        assert reason(name, rules) == OUTSIDE_FOLDER
        assert thumbnail(name, rules) is None


def test_a_link_inside_the_folder_is_fine(rules):
    Image.new("RGB", (40, 20)).save(rules.folder / "a.png")
    (rules.folder / "link.png").symlink_to("a.png")
    assert isinstance(prepare_picture("link.png", rules), Picture)


def test_not_an_image(rules):
    (rules.folder / "words.jpg").write_text("not a picture")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        whole = io.BytesIO()
        Image.fromarray(noise).save(whole, {"jpg": "JPEG", "png": "PNG"}[suffix])
        (rules.folder / f"half.{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    Image.new("RGB", (8, 8)).save(rules.folder / "refused.gif")  # a format the recipe does not allow
    (rules.folder / "disguised.png").write_bytes((rules.folder / "refused.gif").read_bytes())
    for name in ("words.jpg", "half.jpg", "half.png", "refused.gif", "disguised.png"):
        assert reason(name, rules) == NOT_AN_IMAGE


def test_refusals_say_the_same_in_every_run(rules):
    (rules.folder / "words.jpg").write_text("not a picture")
    assert prepare_picture("words.jpg", rules) == prepare_picture("words.jpg", rules)
    assert "0x" not in prepare_picture("words.jpg", rules).detail


def test_too_many_pixels_are_refused_from_the_header(rules):
    Image.new("L", (1001, 1000)).save(rules.folder / "large.png")
    assert reason("large.png", rules) == IMAGE_BOMB
    (rules.folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    assert reason("bomb.png", rules) == IMAGE_BOMB


def png_header(width, height):
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_pillows_own_bomb_guard_is_an_error(rules, monkeypatch):
    Image.new("L", (30, 30)).save(rules.folder / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert reason("x.png", rules) == IMAGE_BOMB


def test_a_file_of_no_bytes(rules):
    (rules.folder / "zero.jpg").write_bytes(b"")
    assert reason("zero.jpg", rules) == EMPTY_IMAGE


def test_a_picture_of_no_pixels_is_none(rules):
    (rules.folder / "flat.png").write_bytes(png_header(0, 5))
    assert reason("flat.png", rules) == NOT_AN_IMAGE


def test_thumbnails_are_small_and_keep_the_proportions(rules):
    Image.new("RGB", (400, 100), "red").save(rules.folder / "x.png")
    with Image.open(io.BytesIO(thumbnail("x.png", rules))) as shown:
        assert max(shown.size) <= 96
        assert shown.width == 4 * shown.height
