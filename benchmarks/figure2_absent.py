"""Why does an empty partner cost more than a wrong one in Figure 2? Beside it, one that is hidden as in pre-training.

    python benchmarks/figure2_absent.py WORK [--recipe small] [--seeds 3]

WORK is a work folder in which the main variant's pre-training has ended for these seeds. Pre-training never shows a
gray picture or a text of no tokens; what it hides is [MASK], up to four fifths of the patches or words with MAM. Here
all of them are. The same items and masks as in `mlim probe`, and intervals over families and seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import heading, table
from torch import Tensor

from mlim.evaluation.probes import Losses, ProbedModel, Prober, Resampling, compare_partners, join_seeds
from mlim.evaluation.resampling import Effect
from mlim.models.mlim import Mlim
from mlim.recipe import Recipe, load_recipe
from mlim.steps.probe import _probed_model, _test_items
from mlim.workspace import Workspace


class HiddenPartner:
    """A pre-trained model whose partner is hidden: all patches where text is masked, all words where patches are."""

    def __init__(self, model: Mlim) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_items(
        self, ids: Tensor, attention: Tensor, pixels: Tensor, text_mask: Tensor | None, image_mask: Tensor | None
    ) -> Any:
        """What `Mlim.forward_items` gives; of the two masks the one that is None hides everything."""
        if image_mask is None:
            image_mask = torch.ones(len(ids), self._model.config.patches, dtype=torch.bool)
        else:
            special = self._model.config.special
            text_mask = attention & (ids != special.cls) & (ids != special.sep)
        return self._model.forward_items(ids, attention, pixels, text_mask, image_mask)


def hiding(probed: ProbedModel) -> ProbedModel:
    return replace(probed, model=HiddenPartner(probed.model))


def measured(recipe: Recipe, work: Workspace) -> tuple[Mapping[str, Losses], Resampling]:
    """The losses of both figures; the partner of `hidden` figures called "own" is the item's own, hidden."""
    items = _test_items(recipe, work)
    families = items["component"].to_numpy(dtype=np.int64)
    models = [_probed_model(recipe, work, seed) for seed in recipe.seeds]
    probers = {
        name: [Prober(make(model), [*items["id"]], recipe.seed, families) for model in models]
        for name, make in (("", lambda model: model), ("hidden ", hiding))
    }
    probabilities = recipe.probe.probabilities
    losses = {}
    for name, of_seeds in probers.items():
        losses[f"{name}2a"] = join_seeds([prober.mlm(probabilities) for prober in of_seeds])
        losses[f"{name}2b"] = join_seeds([prober.recon(probabilities) for prober in of_seeds])
    return losses, Resampling(recipe.evaluate.bootstrap_samples, recipe.evaluate.confidence, recipe.seed, families)


def rows(figure: str, found: Losses, hidden: Losses, how: Resampling) -> list[list[str]]:
    """One line for each masking probability: four losses, and three differences to the hidden partner."""
    absent = {probability: one for (probability, partner), one in hidden.items() if partner == "own"}
    points = compare_partners({**found, **{(each, "own"): one for each, one in absent.items()}}, how)
    own = compare_partners({**found, **{(each, "empty"): one for each, one in absent.items()}}, how)
    return [
        [
            figure,
            f"{point.probability:g}",
            *(f"{one.mean:.4f}" for one in _partners(point.probability, found, hidden)),
            *map(_shown, (before.empty_minus_own, point.empty_minus_own, point.random_minus_own)),
        ]
        for point, before in zip(points, own, strict=True)
    ]


def _partners(probability: float, found: Losses, hidden: Losses) -> Sequence[Any]:
    rest = (found[probability, partner] for partner in ("empty", "random"))
    return found[probability, "own"], hidden[probability, "own"], *rest


def _shown(effect: Effect) -> str:
    return f"{effect.value:+.4f} [{effect.low:+.4f}, {effect.high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    seeds = f"seeds={list(range(options.seeds))}"
    recipe = load_recipe(options.recipe, ["tracking.uri=none", "device=cpu", seeds])
    losses, how = measured(recipe, Workspace(options.work))
    found = [row for name in ("2a", "2b") for row in rows(name, losses[name], losses[f"hidden {name}"], how)]
    columns = ("own", "hidden", "empty", "random", "hidden - own", "empty - hidden", "random - hidden")
    print(heading(("mlim", "torch")))
    print(table(("figure", "masked", *columns), found))


if __name__ == "__main__":
    main()
