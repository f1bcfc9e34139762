"""The steps after ingest read the shards where `loader.items` says, not in the work folder."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.steps.evaluate import evaluate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.steps.probe import probe
from mlim.steps.register import register
from mlim.steps.report import report
from mlim.steps.stack import stack
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

Step = Callable[[Recipe, Workspace, Terminal], dict[str, Any]]
STEPS: tuple[Step, ...] = (stack, evaluate, probe, register, report)
OF_PICTURES = tuple(step for step in STEPS if step is not evaluate)  # which reads scores alone


class Moved(NamedTuple):
    """A work folder without shards in which every step has run: `recipe` says where they lie, `at_home` does not."""

    recipe: Recipe
    at_home: Recipe
    workspace: Workspace


@pytest.fixture(scope="module")
def moved(
    tiny_recipe: Recipe,
    tiny_workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    new_store: Callable[[Path], str],
) -> Moved:
    place = tmp_path_factory.mktemp("moved")
    workspace, elsewhere, quiet = Workspace(place / "work"), place / "elsewhere", Terminal(quiet=True)
    shutil.copytree(tiny_workspace.root, workspace.root)
    elsewhere.mkdir()
    shutil.copy(workspace.items / "manifest.json", elsewhere)
    for shard in workspace.items.glob("*.arrow"):
        shard.rename(elsewhere / shard.name)
    tracking = tiny_recipe.tracking.model_copy(update={"uri": new_store(place / "own.db")})
    at_home = tiny_recipe.model_copy(update={"tracking": tracking})
    loader = at_home.loader.model_copy(update={"items": str(elsewhere)})
    recipe = at_home.model_copy(update={"loader": loader})
    main = recipe.main_variant.pretraining
    assert main is not None
    pretrain(recipe, workspace, quiet, main, 0)
    finetune(recipe, workspace, quiet, recipe.main, 0)
    for step in STEPS:
        step(recipe, workspace, quiet)
    return Moved(recipe, at_home, workspace)


@pytest.mark.parametrize("step", OF_PICTURES, ids=lambda step: step.__name__)
def test_a_step_finds_the_shards_only_where_the_recipe_says(moved: Moved, quiet: Terminal, step: Step) -> None:
    assert step(moved.recipe, moved.workspace, quiet)["run_id"]
    with pytest.raises(InputError, match=r"part-00000\.arrow.* changed since it was written"):
        step(moved.at_home, moved.workspace, quiet)


def test_the_report_shows_the_pictures_from_there(moved: Moved) -> None:
    hardest = pd.read_csv(moved.workspace.evaluation / "hardest.csv", dtype={"item_a": str, "item_b": str})
    store, page = (
        open_items(moved.recipe.loader, moved.workspace),
        Path(moved.workspace.report / "index.html").read_text(),
    )
    for item in hardest["item_a"]:
        assert base64.b64encode(store.jpeg(item)).decode("ascii") in page
