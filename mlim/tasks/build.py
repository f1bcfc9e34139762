"""From a recipe's words to what is trained: one `match` for each closed set of tasks."""

from typing import Any, assert_never

from mlim.models.config import TEXT_SPECIALS
from mlim.models.system import System
from mlim.recipe.answer import AnswerTask
from mlim.recipe.caption import CaptionTask
from mlim.recipe.detect import DetectTask
from mlim.recipe.itc import ItcTask
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.recipe.regions import RegionAttributeTask, RegionFeatureTask, RegionLabelTask
from mlim.recipe.tasks import ItmTask, MlmTask, PretrainTask, ReconTask
from mlim.tasks.pretrain.answer import Answering
from mlim.tasks.pretrain.caption import Captioning
from mlim.tasks.pretrain.detect import Detect
from mlim.tasks.pretrain.itc import Itc
from mlim.tasks.pretrain.itm import Itm
from mlim.tasks.pretrain.mlm import Mlm
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.tasks.pretrain.passes import Passes
from mlim.tasks.pretrain.recon import Recon
from mlim.tasks.pretrain.regions import region_task
from mlim.tasks.pretrain.task import Task


def pretrain_objective(
    system: System, config: PretrainConfig, pretraining: Pretraining, text_limit: int, seed: int
) -> PretrainObjective:
    """What `pretraining` trains `system` on; `text_limit` is the longest text, in tokens.

    `InputError` for a task that needs what the system does not offer.
    """
    tasks = [build_task(task, system) for task in pretraining.all_tasks]
    places = text_limit + TEXT_SPECIALS
    passes = Passes.of(pretraining, config.masking, config.itm_swap, places, system.patches, seed, system.sampled)
    return PretrainObjective(system, tasks, pretraining.weights(config.weights), passes)


def build_task(config: PretrainTask, system: System) -> Task[Any]:
    """The task that `config` names, on what `system` offers."""
    match config:
        case MlmTask():
            return Mlm(system)
        case ReconTask():
            return Recon(system, config.normalise_patches, config.share)
        case ItmTask():
            return Itm(system)
        case ItcTask():
            return Itc(system)
        case DetectTask():
            return Detect(system, config)
        case CaptionTask():
            return Captioning(system, config)
        case RegionFeatureTask() | RegionLabelTask() | RegionAttributeTask() | AnswerTask():
            return _lxmert_task(config, system)
        case _:
            assert_never(config)


def _lxmert_task(
    config: RegionFeatureTask | RegionLabelTask | RegionAttributeTask | AnswerTask, system: System
) -> Task[Any]:
    return Answering(system, config) if isinstance(config, AnswerTask) else region_task(config, system)
