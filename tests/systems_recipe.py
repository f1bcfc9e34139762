"""systems-demo with every size turned down: two systems, two tasks, and a variant that matches."""

from typing import Any

from mlim.recipe import load_recipe
from tests.integration.conftest import TINY

SCENES = 100
VARIANTS = ("recon-mlm-mam", "mlim-answer", "vilt-statement")
PRETRAININGS = ("recon-mlm-mam", "vilt")
SHAPE = {"depth": 1, "width": 16, "heads": 2}
BUDGET = {"steps": 2, "batch_size": 4, "validate_every": 2}


def systems_values() -> dict[str, Any]:
    """Every key of the recipe."""
    values: dict[str, Any] = load_recipe("systems-demo").model_dump(mode="json")
    for section in ("image", "text", "model", "pretrain", "evaluate"):
        values[section].update(TINY[section])
    for part in ("embedder", "decoder"):
        values["model"][part] |= {"strides": [2, 2, 2], "channels": [8, 8]}
    for task in ("answer", "statement"):
        values["tasks"][task] |= BUDGET
    values["pretrain"] |= BUDGET
    values["systems"] = {"vilt": {**values["systems"]["vilt"], "image": {"kind": "patch", "size": 8}, **SHAPE}}
    values["pretrainings"] = {name: values["pretrainings"][name] for name in PRETRAININGS}
    values["variants"] = {name: values["variants"][name] for name in VARIANTS}
    return {**values, "name": "systems-tiny"}
