"""How matches are found in a whole catalog: limits of candidates and of groups."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from mlim.config import Config
from mlim.recipe.base import Share, share


class NeighboursConfig(Config):
    """How many nearest neighbours of every item are candidates, by what is compared; 0: none."""

    text: NonNegativeInt = Field(default=60, description="by the vectors of the texts")
    picture: NonNegativeInt = Field(default=5, description="by the perceptual hashes of the pictures")
    vectors: NonNegativeInt = Field(default=20, description="by each set of vectors that is given (--vectors)")


class CandidatesConfig(Config):
    """Which pairs of a catalog are worth scoring."""

    neighbours: NeighboursConfig = NeighboursConfig()
    max_block: PositiveInt = Field(default=200, description="items; larger blocks of a rule are left out and counted")
    text_dimensions: PositiveInt = Field(default=128, description="of the vectors of the texts")
    exact_below: PositiveInt = Field(default=50_000, description="items up to which every vector is compared")
    probes: PositiveInt = Field(default=16, description="cells of a larger index that are searched for each item")
    memory_mb: PositiveInt = Field(default=2000, description="of the joins; what is larger goes to disk")


class GroupsConfig(Config):
    """How scored pairs become groups."""

    method: Literal["average", "connected"] = Field(
        default="average", description="average: average linkage; connected: whatever a chain of matches connects"
    )
    max_items: int = Field(default=50, ge=2, description="of a group; what would be larger stays apart and is listed")
    min_inner: Share = share(
        0.5,
        "average: the floor inside a group, as a share of the threshold: of every scored pair, and of the mean score "
        "between joined parts",
    )


class MatchConfig(Config):
    """From a catalog to groups of matching items."""

    candidates: CandidatesConfig = CandidatesConfig()
    groups: GroupsConfig = GroupsConfig()
    explained: NonNegativeInt = Field(default=10, description="pairs on the page that say why, the most doubtful ones")
