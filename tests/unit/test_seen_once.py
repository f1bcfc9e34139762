"""What an image side makes of a picture is shared by all that read it, and nothing else changes."""

import pytest
import torch

from mlim.data.batches import ItemBatch
from mlim.evaluation import retrieval
from mlim.models.joint import Joint, JointConfig
from mlim.models.system import Shown, System, seen_once
from mlim.recipe.joint import JointSystem
from mlim.tasks import retrieval as retrieval_task
from mlim.tasks.pretrain import objective as pretraining
from mlim.tasks.pretrain.itc import item_numbers
from mlim.tasks.retrieval import ByAgreement
from tests.unit.test_e2e_vlp import ALL, CONFIG, SIDE, E2eVlp, batch, objective_of

MODULES = (pretraining, retrieval, retrieval_task)
JOINT = {"image": SIDE, "depth": 1, "width": 16, "heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def joint() -> Joint:
    shape = JointSystem.model_validate(JOINT)
    config = JointConfig(vocabulary_size=30, text_positions=12, image_size=16, shape=shape)
    return Joint.planned(config, 0).build().eval()


@pytest.fixture
def apart(monkeypatch):
    """Switches the sharing off."""

    def switch() -> None:
        for module in MODULES:
            monkeypatch.setattr(module, "seen_once", lambda system, shown: shown)

    return switch


def calls_of(system: System, run):
    """How often the image side ran, and what came out."""
    calls = []
    handle = system.get_submodule("image").register_forward_hook(lambda *given: calls.append(len(given[1][0])))
    found = run()
    handle.remove()
    return len(calls), found


def gradients(system: System, run) -> dict[str, torch.Tensor]:
    system.zero_grad(set_to_none=True)
    run().backward()
    return {name: each.grad.clone() for name, each in system.named_parameters() if each.grad is not None}


def test_pre_training_with_captions_looks_at_a_picture_once(apart):
    model = E2eVlp.planned(CONFIG, 0).build().eval()
    objective = objective_of(model, **ALL)
    prepared = objective.prepare(batch(), 0)

    def total() -> torch.Tensor:
        return torch.stack([term.weight * term.term.mean for term in objective.losses(prepared).terms]).sum()

    once, shared = calls_of(model, total)
    slopes = gradients(model, total)
    apart()
    twice, plain = calls_of(model, total)
    assert (once, twice) == (1, 2)
    assert torch.equal(shared, plain)
    for name, slope in gradients(model, total).items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-4, atol=1e-6)


def test_retrieval_looks_at_a_picture_once(joint, apart):
    items: ItemBatch = batch()
    way, packing = ByAgreement(joint, negatives=2), joint.pack_items(items.text_attention.repeat(3, 1))
    numbers = item_numbers(items.ids)

    def loss() -> torch.Tensor:
        return way.loss(items.with_floats(), numbers, packing).total

    _, shared = calls_of(joint, loss)
    slopes = gradients(joint, loss)
    apart()
    torch.testing.assert_close(shared, loss(), rtol=1e-5, atol=1e-6)
    for name, slope in gradients(joint, loss).items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-4, atol=1e-6)


def test_a_gallery_is_looked_at_once(joint, apart):
    items = batch()

    def search() -> torch.Tensor:
        return torch.from_numpy(retrieval.agreements(joint, items.ids, lambda ids: items, 4))

    with torch.no_grad():
        once, shared = calls_of(joint, search)
        apart()
        often, plain = calls_of(joint, search)
    assert (once, often) == (1, 4)
    torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-6)


def test_without_pictures_there_is_nothing_to_share(joint):
    ids = torch.full((2, 3), 5)
    shown = Shown(ids, torch.ones_like(ids, dtype=torch.bool), None)
    assert seen_once(joint, shown) is shown
