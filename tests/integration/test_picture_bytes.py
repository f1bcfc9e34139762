"""The same image gives the same bytes on every processor."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


MANY_SIZES = """
import hashlib, io, numpy as np
from PIL import Image
from mlim.pictures.decoding import ImageRules, prepare_picture
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
