"""How the served model reads one picture of a request."""

import base64
import io
import struct

import numpy as np
from PIL import Image

from mlim.pictures.decoding import ImageRules
from mlim.serving import decode

SIDE = 16
RULES = ImageRules(("JPEG", "PNG"), max_megapixels=1.0, size=SIDE, quality=92)
# Little-endian TIFF with two entries: turn me clockwise, and a width that is a fraction
ODD_EXIF = (
    b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHLHHHHLf", 0x112, 3, 1, 6, 0, 0x100, 11, 1, 80.5) + bytes(4)
)


def test_a_sent_picture_is_turned_by_its_orientation_whatever_else_its_exif_says():
    """Point 12: the served model turns a picture as ingest does."""
    source = Image.new("RGB", (SIDE, SIDE), "black")
    source.paste("white", (0, 0, SIDE // 2, SIDE))  # the left half is white
    target = io.BytesIO()
    source.save(target, "PNG", exif=ODD_EXIF)
    shown = decode(base64.b64encode(target.getvalue()).decode(), "row 1", RULES)
    assert np.all(shown[: SIDE // 2] == 255)
    assert np.all(shown[SIDE // 2 :] == 0)
