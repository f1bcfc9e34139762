"""An objective that says it uses everything gives every parameter a gradient: several processes wait for them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mlim.config import override, parse
from mlim.data.batches import ItemBatch, Objects
from mlim.data.objects import Known, ObjectNames
from mlim.data.tokenize import TextTokenizer
from mlim.models.system import System
from mlim.models.systems import plan_system
from mlim.recipe import Recipe
from mlim.tasks.build import pretrain_objective
from mlim.tasks.protocols import Objective
from mlim.tasks.retrieval import RetrievalObjective, way_of
from tests.decoder_recipe import SETTINGS as DECODERS
from tests.dual_recipe import SETTINGS as DUAL
from tests.joint_recipe import SETTINGS as JOINT

OWN_MASKS = ("model.separate_masks=true", "model.modality_segments=true")
VISIBLE = ("model.separate_masks=true", "model.visible_blocks=1")
TEXT = "losses: [mlm, itm], masking: text"
PRETRAININGS = [
    *(
        (settings, f"{{{tasks}}}")
        for settings in ((), OWN_MASKS, VISIBLE)
        for tasks in (
            "losses: [mlm, recon], masking: mam",
            "losses: [mlm, recon, itm], masking: naive",
            "losses: [mlm], masking: text",
            "losses: [itm]",
            "tasks: [{task: caption}]",
            "losses: [mlm], masking: text, tasks: [{task: caption}]",
            "losses: [mlm], masking: mam, tasks: [{task: recon, share: 0.5}]",
        )
    ),
    *(
        (JOINT, f"{{system: {system}, {tasks}}}")
        for system in ("vilt", "pixel-bert")
        for tasks in (TEXT, f"{TEXT}, tasks: [{{task: caption}}]")
    ),
    (JOINT, "{system: vilt, tasks: [{task: caption}]}"),
    *(
        (DECODERS, f"{{system: e2e-vlp, {tasks}}}")
        for tasks in (
            TEXT,
            f"{TEXT}, tasks: [{{task: detect}}, {{task: caption}}]",
            "tasks: [{task: caption}]",
            "tasks: [{task: detect}]",
            "tasks: [{task: detect, text: false}]",
        )
    ),
    (DECODERS, "{system: git, tasks: [{task: caption}]}"),
    (DECODERS, f"{{system: lxmert, {TEXT}, tasks: [{{task: region-feature}}]}}"),
    (DECODERS, f"{{system: lxmert, {TEXT}}}"),
    (DUAL, "{system: dual, tasks: [{task: itc}]}"),
]
KNOWN = Known(objects=ObjectNames(labels=("bag", "shoe"), attributes={"colour": ("red", "blue")}))


def built(recipe: Recipe, settings: tuple[str, ...], pretraining: str) -> tuple[Recipe, System]:
    """A recipe whose only pre-training `tried` is this one, and its system."""
    wanted = (*settings, f"pretrainings.tried={pretraining}")
    changed = parse(Recipe, override(recipe.model_dump(mode="json"), wanted), "recipe tiny")
    tokenizer = TextTokenizer.learn(["red shirt", "blue bag"], 128)
    system = changed.system_of(changed.pretrainings["tried"])
    return changed, plan_system(system, changed.network, tokenizer, 0, KNOWN).build().train()


def batch() -> ItemBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 12, (4, 7), generator=generator)
    ids[:, 0] = 2
    lengths = torch.tensor([7, 4, 6, 5])[:, None]
    attention = torch.arange(7) < lengths
    maskable = (torch.arange(7) > 0) & (torch.arange(7) < lengths - 1)
    pixels = torch.randint(0, 255, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(4, 1, 4)
    ones = torch.ones(4, 1, dtype=torch.long)
    objects = Objects(boxes, ones, ones[..., None], ones[:, 0])
    return ItemBatch(ids * attention, attention, maskable, pixels, [*"abcd"], objects)


def untrained(objective: Objective[Any, Any]) -> list[str]:
    """The parameters that a step would train and that get no gradient."""
    output = objective.losses(objective.prepare(batch(), 0))
    losses: list[Tensor] = [term.weight * term.term.mean for term in output.terms]
    torch.stack(losses).sum().backward()
    named = objective.model.named_parameters()
    return [name for name, each in named if each.requires_grad and each.grad is None]


@pytest.mark.parametrize(("settings", "pretraining"), PRETRAININGS)
def test_a_pre_training_that_uses_everything_trains_everything(tiny_recipe, settings, pretraining):
    recipe, system = built(tiny_recipe, settings, pretraining)
    tried = recipe.pretrainings["tried"]
    objective = pretrain_objective(system, recipe.pretrain, tried, recipe.text.limit, 0)
    assert untrained(objective) == [] or not objective.uses_everything


@pytest.mark.parametrize(
    ("settings", "pretraining", "way"),
    [
        *((settings, "{losses: [mlm, itm], masking: naive}", "itm") for settings in ((), OWN_MASKS, VISIBLE)),
        (JOINT, f"{{system: vilt, {TEXT}}}", "itm"),
        (DECODERS, f"{{system: e2e-vlp, {TEXT}}}", "itm"),
        (DECODERS, f"{{system: lxmert, {TEXT}}}", "itm"),
        (DUAL, "{system: dual, tasks: [{task: itc}]}", "itc"),
    ],
)
def test_a_retrieval_that_uses_everything_trains_everything(tiny_recipe, settings, pretraining, way):
    _, system = built(tiny_recipe, settings, pretraining)
    objective = RetrievalObjective(system, way_of(way, system, 2))
    assert untrained(objective) == [] or not objective.uses_everything
