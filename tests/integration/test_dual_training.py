"""A dual encoder from end to end: trained, killed, continued, fine-tuned, judged; and among several ranks."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import distributed, multiprocessing

from mlim.config import override, parse
from mlim.console import Terminal
from mlim.loading import load
from mlim.models.vectors import Vectors
from mlim.recipe import Recipe
from mlim.steps.ablate import ablate
from mlim.steps.evaluate import evaluate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.steps.register import register
from mlim.steps.stack import stack
from mlim.tasks.pretrain.itc import itc_loss
from mlim.training import loop
from mlim.workspace import Workspace
from mlim.writer import record_recipe
from tests.dual_recipe import SETTINGS

pytestmark = pytest.mark.integration

KILLED_AT = 6
RANKS, ITEMS = 2, 3  # of each rank


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    dual = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")
    return dual.model_copy(update={"tracking": tiny_recipe.tracking})


def test_it_is_trained_killed_continued_judged_registered_and_loaded(recipe, own_workspace, tmp_path, monkeypatch):
    quiet = Terminal(quiet=True)
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    pretrain(recipe, own_workspace, quiet, "dual", 0)
    history = pd.read_csv(own_workspace.pretrained("dual", 0) / "history.csv")
    assert history["itc"].notna().all()
    assert set(history["mode"]) == {"unmasked"}
    save = loop.Trainer._save

    def dies(self, done: bool) -> None:
        save(self, done)
        self._saver.wait()
        if self._state.step == KILLED_AT:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, killed, quiet, "dual", 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
    pretrain(recipe, killed, quiet, "dual", 0)
    assert _bytes(killed) == _bytes(own_workspace)
    for variant in ("dual", "dual-scratch"):
        summary = finetune(recipe, own_workspace, quiet, variant, 0)
        assert summary["validation_pr_auc"] > 0
    kept = {variant: recipe.variants[variant] for variant in ("dual", "dual-scratch", "no-pretraining")}
    finetune(recipe, own_workspace, quiet, "no-pretraining", 0)
    main = recipe.model_copy(update={"variants": kept, "main": "dual"})
    table = ablate(main, own_workspace, quiet)
    assert table["rows"].keys() == kept.keys()
    stack(main, own_workspace, quiet)
    evaluate(main, own_workspace, quiet)
    registered = register(main, own_workspace, quiet)
    pair = [{"title": "shirt", "image": Image.new("RGB", (16, 16), colour)} for colour in ("red", "navy")]
    scores = [model.score([pair]) for model in _loaded(main, own_workspace, registered)]
    assert scores[0] == scores[1]


def _loaded(main, workspace, registered):
    """The model of the work folder, and the registered version."""
    record_recipe(workspace, main.record)
    yield load(workspace.root)
    reference = f"models:/{registered['model']}/{registered['version']}"
    yield load(reference, tracking_uri=main.tracking.uri)


def _bytes(workspace: Workspace) -> bytes:
    return (workspace.pretrained("dual", 0) / "model" / "model.safetensors").read_bytes()


def test_ranks_contrast_their_items_with_those_of_all(tmp_path):
    """Loss and gradients of two processes together are those of one with all items."""
    vectors = torch.nn.functional.normalize(torch.randn(2, RANKS * ITEMS, 8), dim=2)
    whole, gradient = _loss(vectors, slice(None))
    torch.save(vectors, tmp_path / "vectors.pt")
    multiprocessing.spawn(_rank, (tmp_path,), RANKS)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    assert sum(float(loss) for loss, _ in found) == pytest.approx(float(whole), rel=1e-5)
    assert torch.allclose(torch.cat([part for _, part in found], dim=1), gradient, atol=1e-5)


def _rank(rank: int, folder: Path) -> None:
    store = distributed.FileStore(str(folder / "store"), RANKS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    rows = slice(rank * ITEMS, (rank + 1) * ITEMS)
    torch.save(_loss(torch.load(folder / "vectors.pt"), rows), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def _loss(vectors: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of these rows, and its gradient with respect to their vectors (2, B, D)."""
    own = vectors[:, rows].clone().requires_grad_()
    items = (torch.arange(RANKS * ITEMS) % (RANKS * ITEMS - 1))[rows]  # the last one is the first again
    term = itc_loss(Vectors(own[0], own[1], torch.tensor([0.1])), items)
    term.total.backward()
    return term.total.detach(), own.grad
