"""Perceptual hashes: the bits that imagehash 4.3.2 gave, and what they are good for."""

import numpy as np
import pytest
from PIL import Image

from mlim.pictures.hashes import colour_bits, frequency_bits, gradient_bits, stored_hash

ACROSS, DOWN = np.meshgrid(np.arange(48), np.arange(48))
STRIPES = np.stack([ACROSS * 5, DOWN * 5, (ACROSS + DOWN) % 7 * 36], axis=2)
DISC = np.where(((ACROSS - 20) ** 2 + (DOWN - 26) ** 2 < 150)[..., None], (200, 40, 60), (245, 240, 235))
DARK = np.where((ACROSS // 6 % 2 == 0)[..., None], (10, 12, 15), (40, 90, 200))


def picture(pixels):
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("pixels", "bits", "expected"),
    [
        (STRIPES, frequency_bits, "a02aed02ef28ff2a"),
        (DISC, frequency_bits, "b4cbcb3c2c3230cf"),
        (DISC, gradient_bits, "0c729d0e260c9d62"),
        (DARK, gradient_bits, "a5a5a5a5a5a5a5a5"),
        (STRIPES, colour_bits, "000000240000"),
        (DISC, colour_bits, "1800000001c0"),
        (DARK, colour_bits, "c00000007000"),
    ],
)
def test_the_bits_are_those_of_imagehash(pixels, bits, expected):
    assert np.packbits(bits(picture(pixels))).tobytes().hex() == expected


@pytest.mark.parametrize(("pixels", "expected"), [(STRIPES, "a22ad72a572e5d2a"), (DISC, "b4c9cb3c2c3330cf")])
def test_stored_hashes_stay_what_they_are(pixels, expected):
    """They decide which items share a split: another hash would be another data version."""
    assert stored_hash(picture(pixels).convert("L")) == expected


def test_a_smaller_copy_keeps_almost_all_bits_and_another_picture_does_not():
    disc = picture(DISC)
    small = disc.resize((40, 40), Image.Resampling.LANCZOS)
    assert np.mean(frequency_bits(disc) != frequency_bits(small)) < 0.1
    assert np.mean(frequency_bits(disc) != frequency_bits(picture(STRIPES))) > 0.25
