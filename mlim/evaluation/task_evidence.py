"""What claims about a fine-tuning task are judged by: the figures of all its trainings, on the same resamples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from mlim.evaluation.metrics.measure import Figure
from mlim.evaluation.multiple import holm
from mlim.evaluation.resampling import Effect, Resampled, effect_of, fewest
from mlim.evaluation.scores import SCORES_FILE
from mlim.evaluation.spreads import Pools
from mlim.files import read_json
from mlim.recipe.finetune import Variant
from mlim.workspace import Workspace

SUMMARY: Final = "summary.json"

Training = tuple[str, int]  # a variant and its seed


@dataclass(frozen=True)
class TaskVariant:
    """Where the fine-tunings of one variant to a task lie; `name` is the variant's in its own work folder.

    `key` names the settings that they must have been trained with.
    """

    variant: Variant
    name: str
    workspace: Workspace
    seeds: tuple[int, ...]
    finetunings: int
    key: str

    def folders(self, seed: int) -> list[Path]:
        """Those of a seed."""
        return [self.workspace.finetuned(self.name, seed, again) for again in range(self.finetunings)]

    def is_trained(self, seed: int) -> bool:
        """Whether all fine-tunings of a seed have left their scores."""
        return all((folder / SCORES_FILE).is_file() for folder in self.folders(seed))

    def spent(self, seed: int, key: str) -> tuple[int | None, int | None]:
        """Samples in pre-training and examples in fine-tuning (`key` of summary.json); None where none is known."""
        summary = read_json(self.folders(seed)[0] / SUMMARY)
        start = summary["pretraining"]
        path = None if start is None else self.workspace.pretrained(start, seed) / SUMMARY
        before = read_json(path)["samples_seen"] if path is not None and path.is_file() else None
        return before, None if self.variant.zero_shot else summary[key]


@dataclass(frozen=True)
class TaskEvidence:
    """Figures of every training of a task, by the figure's name, on the same resamples.

    `labels` are what tables call the variants. `blind` are those that see one modality alone; None for a task that has
    no use for such. `spent` is what each variant cost: samples in pre-training and examples in fine-tuning, each with
    all values that its seeds have. `left_out` says in a sentence each which trainings could not be used and why.
    """

    examples: int
    examples_name: str
    clusters: int
    figures: Mapping[str, Figure]
    drawn: Mapping[str, Mapping[Training, Resampled]]
    spent: Mapping[str, tuple[frozenset[int], frozenset[int]]]
    labels: Mapping[str, str]
    blind: frozenset[str] | None
    left_out: tuple[str, ...] = ()

    @property
    def variants(self) -> dict[str, tuple[int, ...]]:
        """The variants that were trained, with their seeds."""
        trained = next(iter(self.drawn.values()), {})
        names = dict.fromkeys(name for name, _ in trained)
        return {name: tuple(sorted(seed for other, seed in trained if other == name)) for name in names}

    def same_budget(self, first: str, second: str) -> bool:
        """Whether both variants cost the same, as far as they were pre-trained and fine-tuned."""
        return all(len(one | other) <= 1 for one, other in zip(self.spent[first], self.spent[second], strict=True))

    def difference(self, figure: str, first: str, second: str, confidence: float) -> Effect | None:
        """Variant `first` minus `second` over the seeds that both have; None where they have none in common."""
        known, drawn = self.variants, self.drawn[figure]
        seeds = tuple(sorted({*known[first]} & {*known[second]}))
        if not seeds:
            return None
        one, other = (_stacked([drawn[name, seed] for seed in seeds]) for name in (first, second))
        complete = [name for name, trained in known.items() if {*seeds} <= {*trained}]
        pools = Pools({name: np.concatenate([drawn[name, seed].by_seed for seed in seeds]) for name in complete})
        return effect_of(one.minus(other), self.clusters, confidence, pools.between(first, second))

    def why_not_learnt(self, figure: str, confidence: float) -> str:
        """Why the figure says nothing of designs: no variant is above those that see one modality; empty otherwise.

        A variant is when its paired difference to every blind one separates from 0. P-values are corrected for the
        number of variants that might be (Holm).
        """
        if self.blind is None:
            return ""
        blind = [name for name in self.variants if name in self.blind]
        if not blind:
            return "no variant that sees one modality alone was run, so whether it was learnt from images is not known"
        seeing = [name for name in self.variants if name not in self.blind]
        corrected = holm([max(self._p_above(figure, name, other, confidence) for other in blind) for name in seeing])
        if any(p_value < 1 - confidence for p_value in corrected):
            return ""
        return f"not learnt in this budget: no variant is above those of one modality alone in {figure}"

    def _p_above(self, figure: str, first: str, second: str, confidence: float) -> float:
        """The p-value of "the first variant is above the second"; 1 where it is not, or where too little is known."""
        found = self.difference(figure, first, second, confidence)
        return 1.0 if found is None or found.why or found.value <= 0 else found.p_value


def _stacked(found: Sequence[Resampled]) -> Resampled:
    why = next((one.why for one in found if one.why), "")
    replicates = np.concatenate([one.replicates for one in found])
    units = fewest(*(one.units for one in found))
    return Resampled(np.concatenate([one.by_seed for one in found]), replicates, why, units)
