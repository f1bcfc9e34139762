"""What can be registered, by name: the matcher alone, the stack, or the stack without the matcher."""

from typing import Final

from mlim.recipe.base import Scorer

MATCHER: Final[Scorer] = "matcher"
STACK: Final[Scorer] = "stack"
WITHOUT_MATCHER: Final[Scorer] = "stack without matcher"
CANDIDATES: Final[tuple[Scorer, ...]] = (MATCHER, WITHOUT_MATCHER, STACK)  # where two are equal, the first is taken
