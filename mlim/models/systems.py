"""From a recipe's words, or from a saved model, to a network: one `match` for each closed set.

A new system is a class in mlim/recipe, a file beside this one, and a case in `plan_system` and in `saved_class`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from mlim.data.objects import NOTHING, Known
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models import crossed, dual, e2e_vlp, joint, matcher, mlim, separate_matcher, writer
from mlim.models.crossed import Crossed, CrossedConfig
from mlim.models.dual import Dual, DualConfig
from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.hub import plan_mlim
from mlim.models.item_classifier import ItemClassifier
from mlim.models.joint import Joint, JointConfig
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.pair_network import PairNetwork
from mlim.models.separate_matcher import SeparateMatcher
from mlim.models.storage import read_config
from mlim.models.system import System
from mlim.models.weights import Planned
from mlim.models.writer import Writer, WriterConfig
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.dual import DualSystem
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.finetune import FinetuneConfig
from mlim.recipe.joint import JointSystem
from mlim.recipe.systems import MlimSystem, NetworkSections, SystemConfig
from mlim.recipe.writer import WriterSystem


def plan_system(
    config: SystemConfig,
    sections: NetworkSections,
    tokenizer: TextTokenizer,
    seed: int,
    known: Known = NOTHING,
) -> Planned[System]:
    """The network that pre-training starts from, to be built: random from `seed`, or with weights of others.

    `known` is what of the data shapes it.
    `InputError` when a start cannot be found or read, or when its shape is not the recipe's.
    """
    match config:
        case MlimSystem():
            return plan_mlim(sections, tokenizer, seed)
        case JointSystem():
            return Joint.planned(JointConfig.reading(sections, tokenizer, shape=config), seed)
        case DualSystem():
            return Dual.planned(DualConfig.reading(sections, tokenizer, shape=config), seed)
        case E2eVlpSystem():
            return E2eVlp.planned(E2eVlpConfig.reading(sections, tokenizer, shape=config, objects=known.objects), seed)
        case WriterSystem():
            return Writer.planned(WriterConfig.reading(sections, tokenizer, shape=config), seed)
        case CrossedSystem():
            own = {
                "shape": config,
                "objects": known.objects,
                "feature_size": known.feature_size,
                "answers": known.answers,
            }
            return Crossed.planned(CrossedConfig.reading(sections, tokenizer, **own), seed)
        case _:
            assert_never(config)


def saved_class(kind: object) -> type[System] | None:
    """The class of a saved system by its kind; None for what is no system."""
    match kind:
        case mlim.KIND:
            return Mlim
        case joint.KIND:
            return Joint
        case dual.KIND:
            return Dual
        case e2e_vlp.KIND:
            return E2eVlp
        case writer.KIND:
            return Writer
        case crossed.KIND:
            return Crossed
        case _:
            return None


def load_system(folder: Path) -> Planned[System]:
    """A saved system, to be built; `InputError` when `folder` holds none."""
    kind = read_config(folder).get("kind")
    if (system := saved_class(kind)) is None:
        raise _unknown(folder, kind, "pre-trained model")
    return system.planned_from(folder)


def plan_matcher(
    start: Planned[System], config: FinetuneConfig, seed: int, classes: Sequence[int] = ()
) -> Planned[PairNetwork]:
    """What compares two items, to be built on `start`; what it adds is random from `seed`.

    `classes` are those of attributes that are also predicted from the items' vectors.
    """
    match start.model:
        case Mlim():
            planned = Planned(start.model, start.weights)
            return Matcher.planned(planned, config.head_dropout, seed, config.read_out, classes, config.joint_blocks)
        case _:
            return SeparateMatcher.planned(start, config.head_dropout, seed, classes)


def load_matcher(folder: Path) -> PairNetwork:
    """A saved network that compares items, in evaluation mode; `InputError` when `folder` holds none."""
    match kind := read_config(folder).get("kind"):
        case matcher.KIND:
            return Matcher.from_pretrained(folder)
        case separate_matcher.KIND:
            return SeparateMatcher.from_pretrained(folder, lambda saved: _empty_system(folder, saved))
        case _:
            raise _unknown(folder, kind, "matcher")


def load_classifier(folder: Path) -> ItemClassifier:
    """A saved network that answers texts about pictures, in evaluation mode; `InputError` when `folder` holds none."""
    return ItemClassifier.from_pretrained(folder, lambda saved: _empty_system(folder, saved))


def _empty_system(folder: Path, saved: Mapping[str, Any]) -> System:
    """The system inside a saved network, whose weights are read with those of the network."""
    if (system := saved_class(saved.get("kind"))) is None:
        raise _unknown(folder, saved.get("kind"), "matcher")
    return system.from_config({name: value for name, value in saved.items() if name != "kind"}, str(folder))


def _unknown(folder: Path, kind: object, wanted: str) -> InputError:
    return InputError(f"{folder}: holds a model of kind {kind!r}, which is no {wanted}; give the folder of a {wanted}")
