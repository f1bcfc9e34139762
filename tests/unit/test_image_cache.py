"""Decoded pictures that stay in memory."""

import pickle
from collections import Counter

import numpy as np

from mlim.data.image_cache import BYTES_PER_MB, ImageCache

SIDE = 200
BYTES = SIDE * SIDE * 3


class Drawer:
    """Draws the picture that an id asks for, and counts how often."""

    def __init__(self):
        self.drawn = Counter()

    def text(self, item):
        return f"text of {item}"

    def image(self, item, picture=0):
        self.drawn[item] += 1
        return np.full((SIDE, SIDE, 3), int(item) + 100 * picture, dtype=np.uint8)


def test_what_fits_is_decoded_once_and_the_rest_every_time():
    drawer, megabytes = Drawer(), 1
    fitting = megabytes * BYTES_PER_MB // BYTES
    kept, items = ImageCache(drawer, megabytes), [str(number) for number in range(fitting + 3)]
    for _epoch in range(3):
        for item in items:
            assert (kept.image(item) == int(item)).all()
            assert kept.text(item) == f"text of {item}"
    assert [drawer.drawn[item] for item in items] == [1] * fitting + [3] * 3


def test_nothing_is_kept_where_nothing_may_be():
    drawer = Drawer()
    kept = ImageCache(drawer, 0)
    for _epoch in range(2):
        kept.image("7")
    assert drawer.drawn["7"] == 2


def test_a_copy_for_another_process_starts_empty_with_the_whole_room():
    kept = ImageCache(Drawer(), 1)
    size = len(pickle.dumps(kept))
    for item in "123":
        kept.image(item)
    assert len(pickle.dumps(kept)) < size + BYTES
    copy = pickle.loads(pickle.dumps(kept))
    assert (copy.image("9") == 9).all()
