"""What is shown of single items: their nearest others, and where a hidden word or patch looks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


class Neighbour(NamedTuple):
    """One item that lies close to another one."""

    picture: Pixels
    text: str
    similarity: float
    same_family: bool


class Neighbourhood(NamedTuple):
    """An item and its nearest others, the nearest first."""

    picture: Pixels
    text: str
    nearest: list[Neighbour]


class Guess(NamedTuple):
    """The model's best guess at a hidden word, and how likely the true word is to it beside two pictures."""

    word: str
    probability: float
    truth: float
    truth_beside_gray: float


class WordShare(NamedTuple):
    """The share of an attention that goes to one word, all its pieces together."""

    text: str
    share: float
    pieces: int


class ItemAttention(NamedTuple):
    """Attention across modalities in one item; shares are of all attention that the hidden place has to give.

    `patches` (grid, grid): of the hidden `word`; `words`: of the hidden `patch` (row, column), in the text's order.
    `places`: how many tokens and patches attention goes to; even attention gives each 1 / places.
    """

    picture: Pixels
    text: str
    word: str
    guess: Guess | None
    patches: Floats
    patch: tuple[int, int]
    words: list[WordShare]
    places: int
