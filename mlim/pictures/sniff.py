"""Which picture format bytes begin with: servers send HTML with status 200 and a picture's Content-Type."""

SNIFFED_BYTES = 16
# The first bytes of the formats that shops use, by Pillow's name where it reads them; the recipe says what it allows
MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x00\x00\x00\x0cJXL ": "JXL",
    b"\xff\x0a": "JXL",
}
RIFF, WEBP, WEBP_PLACE = b"RIFF", b"WEBP", 8
BOX, BOX_PLACE, BRAND_END = b"ftyp", 4, 12  # ISO base media: a brand follows
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"heif", b"mif1", b"msf1"), "HEIC")}


def picture_format(start: bytes) -> str | None:
    """The format that the first 16 bytes of a file (fewer of a shorter one) announce; None for no known picture."""
    if start[:BOX_PLACE] == RIFF:
        return WEBP.decode() if start[WEBP_PLACE:].startswith(WEBP) else None
    if start[BOX_PLACE:].startswith(BOX):
        return BRANDS.get(start[BOX_PLACE + len(BOX) : BRAND_END])
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
