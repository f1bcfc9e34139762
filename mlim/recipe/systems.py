"""Systems: the network families that a recipe can name, a closed set discriminated by the field `kind`.

A class is the shape of a system and what it offers; the network itself lies in mlim/models. A new system is a class in
a file of its own here, its name in the union, and a file there.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.data import ImageConfig, TextConfig
from mlim.recipe.dual import DualSystem
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.image_sides import RegionSide
from mlim.recipe.joint import JointSystem
from mlim.recipe.model import ModelConfig
from mlim.recipe.system import SystemBase
from mlim.recipe.writer import WriterSystem


class MlimSystem(SystemBase):
    """One encoder over text tokens and image patches; its shape is the section `model`."""

    kind: Literal["mlim"] = "mlim"
    offers = frozenset({"tokens", "pictures", "agreement", "writing"})
    maskings = ("mam", "naive", "text")
    read_outs = ("cls", "joint", "separate")


SystemConfig = Annotated[
    MlimSystem | JointSystem | DualSystem | E2eVlpSystem | WriterSystem | CrossedSystem, Field(discriminator="kind")
]

MLIM = MlimSystem()  # the system of every pre-training and variant that names none


def region_side(system: SystemConfig) -> RegionSide | None:
    """Where the regions that a system reads come from; None: it reads pictures alone."""
    return system.image if isinstance(system, CrossedSystem) else None


class NetworkSections(NamedTuple):
    """The sections of a recipe that shape networks and what they read."""

    image: ImageConfig
    text: TextConfig
    model: ModelConfig
