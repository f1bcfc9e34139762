"""Which choice explains the numbers of weights that E2E-VLP reports (its Table 5)?

    python benchmarks/e2e_vlp_parameters.py

Nothing is trained: our networks of the six published sizes are built without memory and counted, the other rows are
differences to them by arithmetic. What section 4.2 says: width 256, inner width 1,024, 12 heads, decoder of 6 layers.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from measure import table

from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.weights import on_meta
from mlim.recipe import load_recipe

PUBLISHED: Final[Mapping[tuple[int, int], int]] = {  # millions, by the ResNet's and the encoder's layers
    (50, 6): 49,
    (101, 6): 68,
    (152, 6): 84,
    (50, 12): 59,
    (101, 12): 78,
    (152, 12): 94,
}
STAGES: Final = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
WORDS: Final = 30_522  # of BERT
LABELS: Final = 1_600 + 400  # of objects, and attributes
WIDTH, INNER, DECODER, HEAD_SIZE, DETR_INNER = 256, 1_024, 6, 64, 2_048
MILLION: Final = 1_000_000


class Choice(NamedTuple):
    """Something that the paper may have done otherwise, and how many weights that adds with so many encoder layers."""

    name: str
    more: Callable[[int], float]


def inner(width: int, encoder: bool = True, decoder: bool = True) -> Callable[[int], float]:
    """Another width inside the feed-forward layers."""
    return lambda layers: 2 * WIDTH * (width - INNER) * (encoder * layers + decoder * DECODER)


def heads(size: int) -> Callable[[int], float]:
    """12 heads of so many numbers, in one attention of the encoder's layers and two of the decoder's."""
    return lambda layers: 4 * WIDTH * (12 * size - WIDTH) * (layers + 2 * DECODER)


CHOICES: Final = (
    Choice("as the text says (ours)", lambda layers: 0.0),
    Choice("word matrix of their own for captions", lambda layers: WORDS * WIDTH),
    Choice("heads over Visual Genome's labels", lambda layers: LABELS * WIDTH),
    Choice("12 decoder layers", lambda layers: (12 - DECODER) * (8 * WIDTH**2 + 2 * WIDTH * INNER)),
    Choice(f"12 heads of {HEAD_SIZE}, as BERT's", heads(HEAD_SIZE)),
    Choice("inner width 2,048 in the encoder", inner(DETR_INNER, decoder=False)),
    Choice("inner width 2,048 in both, DETR's", inner(DETR_INNER)),
    Choice("the same with these heads", lambda layers: inner(DETR_INNER)(layers) + LABELS * WIDTH),
    Choice("inner width 3,072 in both, BERT's", inner(3_072)),
)


def counted(resnet: int, layers: int) -> int:
    """Weights of recipe `e2e-vlp` with that ResNet and so many encoder layers; frozen norms do not count."""
    system = load_recipe("e2e-vlp").systems["e2e-vlp"]
    image = system.image.model_copy(update={"depths": tuple(STAGES[resnet])})
    shape = system.model_copy(update={"image": image, "depth": layers})
    config = E2eVlpConfig(vocabulary_size=WORDS, text_positions=42, image_size=512, shape=shape)
    return sum(each.numel() for each in on_meta(lambda: E2eVlp(config)).parameters())


def main() -> None:
    """Print the table."""
    ours = {size: counted(*size) for size in PUBLISHED}
    rows = [["published", *(str(number) for number in PUBLISHED.values()), ""]]
    for choice in CHOICES:
        millions = [(ours[size] + choice.more(size[1])) / MILLION for size in PUBLISHED]
        apart = max(abs(one - other) for one, other in zip(millions, PUBLISHED.values(), strict=True))
        rows.append([choice.name, *(f"{each:.1f}" for each in millions), f"{apart:.1f}"])
    names = [f"R{resnet}, {layers}" for resnet, layers in PUBLISHED]
    print("    python benchmarks/e2e_vlp_parameters.py\n")
    print(table(["M weights", *names, "largest difference"], rows))


if __name__ == "__main__":
    main()
