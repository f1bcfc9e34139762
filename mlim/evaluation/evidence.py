"""What the claims are judged by: the test scores of every variant and seed in a work folder, and the probes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import Scores
from mlim.evaluation.resampling import Families, JudgedPairs
from mlim.evaluation.scores import PAIR, SCORES_FILE, in_order, labels_of, part, scores_of
from mlim.evaluation.task_evidence import TaskEvidence
from mlim.files import read_json
from mlim.recipe.base import Modality
from mlim.recipe.tasks import OtherTask
from mlim.workspace import Workspace

SUMMARY: Final = "summary.json"
TEST: Final = "test"
Split = Literal["test", "validation"]


@dataclass(frozen=True)
class VariantScores:
    """Scores of one variant by seed, and what was spent on it: samples in pre-training, pairs in fine-tuning.

    They are (n,), or (fine-tunings, n) where each pre-training was fine-tuned several times.
    """

    by_seed: Mapping[int, Scores]
    budgets: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())

    def at(self, seeds: tuple[int, ...]) -> NDArray[np.float64]:
        """Scores (seeds, n), or (seeds, fine-tunings, n), of the given seeds."""
        return np.stack([self.by_seed[seed] for seed in seeds])

    def same_budget(self, other: "VariantScores") -> bool:
        """Whether all trainings of both variants cost the same, as far as they need one and say what it was."""
        return all(len(mine | theirs) <= 1 for mine, theirs in zip(self.budgets, other.budgets, strict=True) if theirs)


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured.

    `left_out` says in a sentence each which scores could not be used and why, `too_few` why there are no pairs;
    `training_pairs` is how many pairs there are to learn from. `tasks` is what was measured of tasks besides matching.
    """

    pairs: JudgedPairs | None
    variants: Mapping[str, VariantScores]
    probe: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    too_few: str = ""
    training_pairs: int = 0
    tasks: Mapping[OtherTask, TaskEvidence] = field(default_factory=dict)


@dataclass(frozen=True)
class WantedProbe:
    """What a probe has to be of, and to be made with, to be evidence for a recipe.

    `row` is the main variant, `key` names the settings of its `pretraining` (None without one); `measured_with` are the
    settings of the probe itself.
    """

    row: str
    pretraining: str | None
    seeds: tuple[int, ...]
    key: str | None
    measured_with: Mapping[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The same as `mlim probe` says it in its summary; early versions left the last two out."""
        return {
            "row": self.row,
            "pretraining": self.pretraining,
            "seeds": list(self.seeds),
            "settings": self.key,
            "measured_with": dict(self.measured_with),
        }

    def objection(self, found: Mapping[str, Any]) -> str | None:
        """Why the probe with this summary is no evidence, in a sentence; None: it is."""
        wanted, optional = self.summary, ("settings", "measured_with")
        for key, what in (
            ("row", "of variant `{}`, not of the main one `{}`"),
            ("pretraining", "of pre-training `{}`, not of `{}`"),
            ("seeds", "of the seeds {}, not of {}"),
            ("settings", "of a model that was pre-trained with other settings than the recipe's"),
            ("measured_with", "made with other settings than the recipe's"),
        ):
            if found.get(key) != wanted[key] and not (key in optional and key not in found):
                return f"probe: {what.format(found.get(key), wanted[key])}; run `mlim probe` again"
        return None


@dataclass(frozen=True)
class TrainedVariant:
    """Where the trainings of one variant lie, and what they are.

    `key` names the settings that they must have been trained with, `key_of_any_pairs` the same but for the number of
    training pairs, which is at most `max_pairs` (None: all). `name` is the variant's in its own work folder; `own` says
    that this is the work folder that is judged.
    """

    name: str
    workspace: Workspace
    own: bool
    pretraining: str | None
    modality: Modality
    seeds: tuple[int, ...]
    finetunings: int
    max_pairs: int | None
    key: str
    key_of_any_pairs: str


def read_evidence(
    workspace: Workspace,
    trained: Mapping[str, TrainedVariant],
    split: Split = TEST,
    probed: WantedProbe | None = None,
) -> Evidence:
    """The evidence in a work folder on the pairs of one split; what is not there is not in it.

    `trained` says for each variant that is compared where its trainings lie: in this work folder, or in another one
    where no variant of one recipe can express it (a run of an experiment). The pairs have to be the same. `probed` says
    what the probe has to be of; None: that is not asked.
    """
    left_out: list[str] = []
    probe = _read_probe(workspace, probed, left_out)
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        return Evidence(None, {}, probe, tuple(left_out))
    all_pairs = in_order(pd.read_parquet(path))
    pairs, training_pairs = part(all_pairs, split=split), int((all_pairs["split"] == "train").sum())
    found = {name: _read_variant(variant, split, pairs, left_out) for name, variant in trained.items()}
    variants = {name: scores for name, scores in found.items() if scores.by_seed}
    return Evidence(judged_pairs(pairs, workspace), variants, probe, tuple(left_out), training_pairs=training_pairs)


def _read_probe(workspace: Workspace, wanted: WantedProbe | None, left_out: list[str]) -> dict[str, Any]:
    """The summary of the probe; empty where there is none, or one of another model, with the reason in `left_out`."""
    found = _json(workspace.probe / SUMMARY)
    why = wanted.objection(found) if wanted is not None and found else None
    left_out += [] if why is None else [why]
    return found if why is None else {}


def judged_pairs(pairs: pd.DataFrame, workspace: Workspace) -> JudgedPairs:
    """Pairs of a work folder with their labels and families; the order of `pairs` is that of the scores."""
    return JudgedPairs(labels_of(pairs), families_of(pairs, workspace))


def families_of(pairs: pd.DataFrame, workspace: Workspace) -> Families | None:
    """The components (n, 2) of the items of each pair: what the splits keep together. None where they are not known."""
    path = workspace.pairs / "items.parquet"
    if not path.is_file():
        return None
    component = pd.read_parquet(path, columns=["id", "component"]).set_index("id")["component"]
    found = np.column_stack([pairs[side].map(component).to_numpy(dtype=np.float64) for side in ("item_a", "item_b")])
    return None if np.isnan(found).any() else found.astype(np.int64)


def _read_variant(variant: TrainedVariant, split: Split, pairs: pd.DataFrame, left_out: list[str]) -> VariantScores:
    found: dict[int, list[Scores]] = {}
    spent: tuple[set[int], set[int]] = (set(), set())
    for seed in variant.seeds:
        scores = list(takewhile(lambda one: one is not None, _read_seed(variant, seed, split, pairs, left_out)))
        if scores:
            found[seed] = [one for one in scores if one is not None]
            for budget, of_seed in zip(spent, _budgets(variant, seed), strict=True):
                budget |= of_seed
    common = min(map(len, found.values()), default=1)  # as many of each seed: their means then have equal variances
    by_seed = {seed: scores[0] if common == 1 else np.stack(scores[:common]) for seed, scores in found.items()}
    return VariantScores(by_seed, (frozenset(spent[0]), frozenset(spent[1])))


def _read_seed(
    variant: TrainedVariant, seed: int, split: Split, pairs: pd.DataFrame, left_out: list[str]
) -> Iterator[Scores | None]:
    """The scores of each fine-tuning of a seed; None for one that cannot be used, with the reason in `left_out`."""
    for again in range(variant.finetunings):
        path = variant.workspace.finetuned(variant.name, seed, again) / SCORES_FILE
        name = f"variant `{variant.name}`, seed {seed}{f', again {again}' if again else ''}"
        if not path.is_file():
            yield None
        elif _json(path.with_name(SUMMARY)).get("settings") != variant.key:
            left_out.append(f"{name}: trained with other settings than the recipe's")
            yield None
        else:
            found = part(in_order(pd.read_parquet(path)), split=split, modality=variant.modality)
            same = _same_pairs(pairs, found)
            if not same:
                left_out.append(f"{name}: scored on other pairs than the present ones")
            yield scores_of(found) if same else None


def _same_pairs(expected: pd.DataFrame, found: pd.DataFrame) -> bool:
    kinds = {"label": "int64"}
    return bool(expected[PAIR].astype(kinds).equals(found[PAIR].astype(kinds)))


def _budgets(variant: TrainedVariant, seed: int) -> tuple[set[int], set[int]]:
    """Samples seen in pre-training and pairs seen in fine-tuning; empty where there is none or it is not said."""
    start = variant.pretraining
    before = {} if start is None else _json(variant.workspace.pretrained(start, seed) / SUMMARY)
    after = _json(variant.workspace.finetuned(variant.name, seed) / SUMMARY)
    return _budget(before, "samples_seen"), _budget(after, "pairs_seen")


def _budget(summary: Mapping[str, Any], key: str) -> set[int]:
    return {int(summary[key])} if key in summary else set()


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
