"""Whether bytes begin like a picture: servers send HTML with status 200 and a picture's Content-Type."""

SNIFFED_BYTES = 16
# The first bytes of the formats that shops use; the decoder decides later which of them the recipe allows
MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",  # BMP
    b"II*\x00",  # TIFF
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
RIFF, WEBP, WEBP_PLACE = b"RIFF", b"WEBP", 8
BOX, BOX_PLACE, BRAND_END = b"ftyp", 4, 12  # ISO base media: a brand follows
PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")


def is_picture(start: bytes) -> bool:
    """Whether the first 16 bytes of a file (fewer of a shorter one) are those of a known picture format."""
    if start[:BOX_PLACE] == RIFF:
        return start[WEBP_PLACE:].startswith(WEBP)
    if start[BOX_PLACE:].startswith(BOX):
        return start[BOX_PLACE + len(BOX) : BRAND_END] in PICTURE_BRANDS
    return start.startswith(MAGIC)
