"""The operations that a training says it takes are those that torch counts, however tasks share passes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mlim.data.batches import ItemBatch, Objects
from mlim.data.objects import ObjectNames
from mlim.models.config import MlimConfig
from mlim.models.costs import TRAINING
from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.initialise import initialise
from mlim.models.joint import Joint, JointConfig
from mlim.models.mlim import Mlim
from mlim.recipe import DecoderConfig, EmbedderConfig
from mlim.recipe.caption import CaptionTask
from mlim.recipe.detect import DetectTask
from mlim.recipe.e2e_vlp import E2eVlpSystem
from mlim.recipe.joint import JointSystem
from mlim.recipe.pretrain import MaskingConfig
from mlim.tasks.pretrain.caption import Captioning
from mlim.tasks.pretrain.detect import Detect
from mlim.tasks.pretrain.itm import Itm
from mlim.tasks.pretrain.mlm import Mlm
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.tasks.pretrain.passes import Passes
from mlim.tasks.retrieval import ByAgreement, RetrievalObjective

ITEMS, TOKENS, SIZE, WIDTH = 4, 12, 32, 16
CNN = {"kind": "cnn", "stem": 8, "depths": [1, 1], "widths": [8, 16]}
INPUTS = {"vocabulary_size": 60, "text_positions": TOKENS + 2, "image_size": SIZE}
SHAPE = {"width": WIDTH, "heads": 2, "dropout": 0.0}
NAMES = ObjectNames(labels=("a", "b"), attributes={"c": ("x", "y")})
LOSSES = ("mlm", "itm", "caption", "detect-class", "detect-l1", "detect-giou", "detect-attribute")
TASKS = {
    "mlm": Mlm,
    "itm": Itm,
    "caption": lambda system: Captioning(system, CaptionTask()),
    "detect": lambda system: Detect(system, DetectTask()),
    "detect alone": lambda system: Detect(system, DetectTask(text=False)),
}


def mlim():
    sides = {
        "embedder": EmbedderConfig(strides=(2, 2, 2), channels=(6, 8, 10)),
        "decoder": DecoderConfig(strides=(2, 2, 2), channels=(12, 8, 6, 5)),
    }
    shape = {"grid": 4, "hidden_size": WIDTH, "layers": 2, "heads": 2, "intermediate_size": 64, "dropout": 0.0}
    return Mlim.random(MlimConfig(**INPUTS, **shape, **sides), seed=0)


SYSTEMS = {
    "mlim": mlim,
    "patches": lambda: Joint(JointConfig(**INPUTS, shape=JointSystem(**SHAPE, image={"kind": "patch", "size": 8}))),
    "cells": lambda: Joint(JointConfig(**INPUTS, shape=JointSystem(**SHAPE, image=CNN))),
    "e2e-vlp": lambda: E2eVlp(E2eVlpConfig(**INPUTS, shape=E2eVlpSystem(**SHAPE, image=CNN), objects=NAMES)),
}


def system_of(name):
    system = SYSTEMS[name]()
    if name != "mlim":
        initialise(system, WIDTH, torch.Generator().manual_seed(0))
    return system.eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (ITEMS, TOKENS), generator=generator)
    attention = torch.ones_like(ids, dtype=torch.bool)
    one = torch.zeros(ITEMS, 2, dtype=torch.long)
    objects = Objects(torch.full((ITEMS, 2, 4), 0.4), one, one[..., None], torch.full((ITEMS,), 2))
    pixels = torch.randint(0, 255, (ITEMS, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return ItemBatch(ids, attention, attention, pixels, [str(item) for item in range(ITEMS)], objects)


def share_of_counted(objective):
    """What an objective says of a batch, over what torch counts."""
    prepared = objective.prepare(batch(), 0)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective.losses(prepared)
    return objective.operations(prepared) / TRAINING / counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("mlim", ["caption"]),
        ("patches", ["mlm", "itm"]),
        ("patches", ["mlm", "caption"]),
        ("cells", ["caption"]),
        ("cells", ["mlm", "itm", "caption"]),
        ("e2e-vlp", ["detect alone"]),
        ("e2e-vlp", ["caption"]),
        ("e2e-vlp", ["mlm", "itm", "detect", "caption"]),
    ],
)
def test_pre_training_says_what_torch_counts(name, tasks):
    system = system_of(name)
    masking = "text" if "mlm" in tasks else None
    passes = Passes(MaskingConfig(), masking, 0.0, TOKENS + 2, system.patches, 0)
    objective = PretrainObjective(system, [TASKS[task](system) for task in tasks], dict.fromkeys(LOSSES, 1.0), passes)
    assert 0.85 < share_of_counted(objective) < 1.05  # norms and masked places count as nothing


@pytest.mark.parametrize("name", ["patches", "cells", "e2e-vlp"])
def test_retrieval_says_what_torch_counts(name):
    system = system_of(name)
    assert 0.85 < share_of_counted(RetrievalObjective(system, ByAgreement(system, 3))) < 1.05


@pytest.mark.parametrize("name", ["cells", "e2e-vlp"])
def test_the_image_side_runs_once_for_all_tasks_of_a_step(name):
    system, calls = system_of(name), []
    system.image.register_forward_hook(lambda *_: calls.append(1))
    passes = Passes(MaskingConfig(), "text", 0.0, TOKENS + 2, system.patches, 0)
    tasks = [TASKS[task](system) for task in ("mlm", "caption")]
    objective = PretrainObjective(system, tasks, dict.fromkeys(LOSSES, 1.0), passes)
    objective.losses(objective.prepare(batch(), 0))
    assert len(calls) == 1
