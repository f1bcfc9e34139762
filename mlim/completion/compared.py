"""What completes attributes and is compared on held-back values, by name."""

from typing import Final

MODEL: Final = "model"
HEAD: Final = "MLM head alone"
WITHOUT_PICTURE: Final = "model without picture"
MOST_FREQUENT: Final = "most frequent"
TREES: Final = "trees"
