"""Ten steps of every training give the losses, and results the names, that they had when these were recorded.

tests/pinned/losses.json holds them. Processors round differently, so a loss may differ by `TOLERANCE`; a name may not.
Record them again only with a deliberate change of what is trained: `MLIM_RECORD_LOSSES=1 pytest THIS_FILE`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.console import Terminal
from mlim.recipe import Recipe, load_recipe
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.training import loop
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

RECORDED = Path(__file__).parents[1] / "pinned" / "losses.json"
TOLERANCE = 1e-4
STEPS = 10
START = "recon-mlm-mam"
SHARED = (
    *(f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in (f"steps={STEPS}", "validate_every=5")),
    "finetune.attribute_weight=0",
    "tracking.uri=none",
)
RATES = "rates={transformer: 1.0, embedder: 2.0, decoder: 3.0, heads: 0.5}"
CUT = ("accumulate=2", "batch_size=4", "optim.layer_decay=0.7", f"optim.{RATES}")
BALANCE = "pretrain.balance={every: 3, smoothing: 0.5, most: 100}"

PRETRAININGS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (name, ()) for name in (START, "recon-itm-mlm-mam", "recon-mlm-naive", "itm-mlm-mam", "itm-mlm-naive")},
    "balanced": ("recon-itm-mlm-mam", (BALANCE,)),
    "cut, rates by part": ("recon-itm-mlm-mam", tuple(f"pretrain.{each}" for each in CUT)),
    "other masks": ("recon-mlm-mam", ("model.separate_masks=true", "model.modality_segments=true")),
}
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{read_out: (START, (f"finetune.read_out={read_out}",)) for read_out in ("cls", "joint", "separate")},
    "attributes": (START, ("finetune.attribute_weight=1",)),
    "attributes, separate": (START, ("finetune.attribute_weight=0.5", "finetune.read_out=separate")),
    "no modality dropout": ("no-mdo", ()),
    "text only": ("text-only", ()),
    "no pre-training": ("no-pretraining", tuple(f"finetune.{each}" for each in CUT)),
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return dict(json.loads(RECORDED.read_text(encoding="utf-8"))) if RECORDED.is_file() else {}


@pytest.fixture(scope="module")
def pretrained(tiny_recipe, tiny_workspace, tmp_path_factory) -> Path:
    """The result of one pre-training, which variants start from."""
    root = shutil.copytree(tiny_workspace.root, tmp_path_factory.mktemp("pinned") / "work")
    pretrain(_changed(tiny_recipe, ()), Workspace(root), Terminal(quiet=True), START, 0)
    return Workspace(root).pretrained(START, 0)


@pytest.fixture(autouse=True)
def _every_step_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.mark.parametrize("case", PRETRAININGS)
def test_a_pre_training_gives_the_recorded_losses(case, recorded, tiny_recipe, own_workspace, quiet):
    name, settings = PRETRAININGS[case]
    recipe = _changed(tiny_recipe, settings)
    pretrain(recipe, own_workspace, quiet, name, 0)
    _compare(f"pretrain: {case}", recorded, own_workspace.pretrained(name, 0), recipe.training_key("pretrain", name))


@pytest.mark.parametrize("case", VARIANTS)
def test_a_fine_tuning_gives_the_recorded_losses(case, recorded, tiny_recipe, own_workspace, pretrained, quiet):
    variant, settings = VARIANTS[case]
    recipe = _changed(tiny_recipe, settings)
    shutil.copytree(pretrained, own_workspace.pretrained(START, 0))
    finetune(recipe, own_workspace, quiet, variant, 0)
    _compare(
        f"finetune: {case}", recorded, own_workspace.finetuned(variant, 0), recipe.training_key("finetune", variant)
    )


@pytest.mark.parametrize("name", ["demo", "small", "paper"])
def test_results_of_the_recipes_that_come_with_the_package_keep_their_names(name, recorded):
    recipe = load_recipe(name)
    keys = {pretraining: recipe.training_key("pretrain", pretraining) for pretraining in recipe.pretrainings}
    keys |= {f"variant {variant}": recipe.training_key("finetune", variant) for variant in recipe.variants}
    _same_or_record(f"keys: {name}", recorded, keys)


def _changed(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), [*SHARED, *settings]), "recipe tiny")


def _compare(case: str, recorded: dict[str, Any], folder: Path, key: str) -> None:
    history = pd.read_csv(folder / "history.csv")
    losses = [
        [int(row["step"]), f"{row['kind']}/{row['mode']}", float(row["total"])] for row in history.to_dict("records")
    ]
    wanted = _same_or_record(case, recorded, {"key": key, "losses": losses}, exact=("key",))
    assert [loss[:2] for loss in losses] == [loss[:2] for loss in wanted["losses"]]
    assert [loss[2] for loss in losses] == pytest.approx([loss[2] for loss in wanted["losses"]], rel=TOLERANCE)


def _same_or_record(
    case: str, recorded: dict[str, Any], found: dict[str, Any], exact: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """What is recorded, which `found` equals in its keys `exact` (None: in all); or `found`, which is recorded now."""
    if os.environ.get("MLIM_RECORD_LOSSES"):
        recorded[case] = found
        RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    wanted: dict[str, Any] = recorded[case]
    for name in found if exact is None else exact:
        assert found[name] == wanted[name]
    return wanted
