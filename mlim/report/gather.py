"""What the report is made from: the results that lie in a work folder, typed, with None for what is not there yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mlim.catalog.quarantine import read_quarantine
from mlim.errors import InputError
from mlim.evaluation.curves import mean_pr_curve
from mlim.evaluation.evidence import Evidence, TrainedVariant
from mlim.evaluation.judging import Judged, Settings, judge
from mlim.evaluation.label_curve import LabelPoint
from mlim.evaluation.pr_auc import average_precision
from mlim.files import plain_cell, read_json
from mlim.recipe.tasks import OtherTask
from mlim.references import MLIM, Reference, load_reference, reference_names
from mlim.report.reported import ReportedRecipe
from mlim.workspace import Workspace

SUMMARY: Final = "summary.json"
HISTORY: Final = "history.csv"
IDS: Final = dict.fromkeys(("item_a", "item_b"), "string")  # an id such as 00123 is no number

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """One training that has ended: its name and seed, summary.json and history.csv (None when it is missing)."""

    stage: str
    name: str
    seed: int
    summary: Summary
    history: pd.DataFrame | None


@dataclass(frozen=True)
class JudgedPaper:
    """A paper about tasks besides matching by the name of its file, with a verdict for each of its claims."""

    name: str
    reference: Reference
    claims: tuple[Judged, ...]


@dataclass(frozen=True)
class Gathered:
    """All results of one work folder; a field is None (or empty) where its step has not run.

    `reference` is the paper whose figures and claims stand beside them, `papers` are those about other tasks.
    """

    reference: Reference
    ingest: Summary | None
    validation: Summary | None
    pairs: Summary | None
    quarantine: pd.DataFrame
    pretrainings: tuple[Training, ...]
    finetunings: tuple[Training, ...]
    metrics: Summary | None
    registration: Summary | None
    curves: pd.DataFrame | None
    hardest: pd.DataFrame | None
    ablation: Mapping[str, Summary] | None
    ablation_summary: Summary | None
    task_tables: Mapping[OtherTask, Summary | None]
    figure2: Mapping[str, pd.DataFrame]
    reconstructions: bytes | None
    neighbours: bytes | None
    attention: bytes | None
    probe: Summary | None
    evidence: Evidence
    claims: tuple[Judged, ...]
    papers: tuple[JudgedPaper, ...]
    variant_curves: Mapping[str, pd.DataFrame]
    by_seed: Mapping[str, tuple[float, ...]]
    label_curve: tuple[LabelPoint, ...]
    experiments: tuple[Summary, ...]

    @property
    def has_pairs(self) -> bool:
        """Whether there is anything to match; where nothing was paired yet, there may be."""
        return self.pairs is None or any(any(numbers.values()) for numbers in self.pairs["counts"].values())

    @property
    def trainings(self) -> tuple[Training, ...]:
        """Pre-trainings, then fine-tunings."""
        return (*self.pretrainings, *self.finetunings)


def gather_results(
    recipe: ReportedRecipe,
    workspace: Workspace,
    evidence: Evidence,
    trained: Mapping[str, TrainedVariant],
    points: tuple[LabelPoint, ...],
) -> Gathered:
    """Read every result that the report shows; a file that exists but cannot be read is an `InputError`.

    The claims are judged here, from the scores, so that all parts of the report agree.
    """
    compared = _without_fewer_pairs(recipe, evidence, trained)
    evaluation, ablation = workspace.evaluation, workspace.ablation
    probe = workspace.probe if evidence.probe else None  # one of another model is no evidence, and is not shown
    reference, resampling = load_reference(), recipe.evaluate
    settings = Settings(resampling.bootstrap_samples, resampling.confidence, recipe.seed, reference.margin)
    return Gathered(
        reference=reference,
        ingest=_summary(workspace.items / SUMMARY),
        validation=_summary(workspace.valid / SUMMARY),
        pairs=_summary(workspace.pairs / SUMMARY),
        quarantine=_quarantine(workspace),
        pretrainings=tuple(_pretrainings(recipe, workspace)),
        finetunings=tuple(_finetunings(recipe, workspace)),
        metrics=evaluation_metrics(workspace),
        registration=_registration(workspace),
        curves=_table(evaluation / "curve.csv"),
        hardest=_table(evaluation / "hardest.csv"),
        ablation=ablation_table(workspace),
        ablation_summary=_summary(ablation / SUMMARY),
        task_tables=_task_tables(recipe, ablation),
        figure2={} if probe is None else dict(_figure2(probe)),
        reconstructions=None if probe is None else _bytes(probe / "reconstructions.png"),
        neighbours=None if probe is None else _bytes(probe / "neighbours.png"),
        attention=None if probe is None else _bytes(probe / "attention.png"),
        probe=None if probe is None else _summary(probe / SUMMARY),
        evidence=evidence,
        claims=judge(evidence, settings, reference.claims),
        papers=tuple(_papers(evidence, settings)) if evidence.tasks else (),
        variant_curves=_variant_curves(compared),
        by_seed=_by_seed(compared),
        label_curve=points,
        experiments=tuple(_experiments(workspace)),
    )


def _papers(evidence: Evidence, settings: Settings) -> Iterator[JudgedPaper]:
    """All papers but MLIM's; p-values are corrected within each."""
    for name in reference_names():
        if name != MLIM:
            paper = load_reference(name)
            yield JudgedPaper(name, paper, judge(evidence, settings._replace(margin=paper.margin), paper.claims))


def _without_fewer_pairs(recipe: ReportedRecipe, evidence: Evidence, trained: Mapping[str, TrainedVariant]) -> Evidence:
    """The evidence without what learned from another number of pairs, which has a curve of its own."""
    fewer = {name for name, variant in trained.items() if variant.max_pairs != recipe.finetune.max_pairs}
    return replace(
        evidence, variants={name: variant for name, variant in evidence.variants.items() if name not in fewer}
    )


def _variant_curves(evidence: Evidence) -> dict[str, pd.DataFrame]:
    """Precision against recall of every variant, averaged over its seeds."""
    if evidence.pairs is None:
        return {}
    labels = evidence.pairs.labels
    return {
        name: mean_pr_curve(labels, [*np.concatenate([np.atleast_2d(one) for one in variant.by_seed.values()])])
        for name, variant in evidence.variants.items()
    }


def _by_seed(evidence: Evidence) -> dict[str, tuple[float, ...]]:
    """PR-AUC of every training of a variant on the test pairs."""
    if evidence.pairs is None:
        return {}
    labels = evidence.pairs.labels
    return {
        name: tuple(
            float(np.mean([average_precision(labels, one) for one in np.atleast_2d(of_seed)]))
            for of_seed in variant.by_seed.values()
        )
        for name, variant in evidence.variants.items()
    }


def evaluation_metrics(workspace: Workspace) -> Summary | None:
    """What `evaluate` found about the main model and the baselines."""
    return _summary(workspace.evaluation / SUMMARY)


def _registration(workspace: Workspace) -> Summary | None:
    """What `register` found, where it was about this evaluation and not about an earlier model's."""
    found, metrics = _summary(workspace.registration / SUMMARY), evaluation_metrics(workspace)
    same = found is not None and metrics is not None and found.get("evaluation") == metrics.get("run_id")
    return found if same else None


def ablation_table(workspace: Workspace) -> dict[str, Summary] | None:
    """What `ablate` found about each variant, by the variant's name in the order of its table."""
    table = _table(workspace.ablation / "table.csv")
    if table is None:
        return None
    return {row["row"]: {str(key): value for key, value in row.items()} for row in table.to_dict("records")}


def _experiments(workspace: Workspace) -> Iterator[Summary]:
    """What experiments that vary settings found, in alphabetical order; a curve over pairs is in `label_curve`."""
    for path in sorted(workspace.experiments.glob("*.json")):
        found = _summary(path)
        if found and found.get("settings") and not found.get("label_curve"):
            yield found


def _figure2(probe: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in ("figure2a", "figure2b"):
        table = _table(probe / f"{name}.csv")
        if table is not None:
            yield name, table


def _task_tables(recipe: ReportedRecipe, ablation: Path) -> dict[OtherTask, Summary | None]:
    """What `ablate` found about each task besides matching, in the order of the recipe's variants."""
    tasks = [variant.task for variant in recipe.other_variants.values()]
    return {task: _summary(ablation / f"{task}.json") for task in tasks if task != "match"}


def _pretrainings(recipe: ReportedRecipe, workspace: Workspace) -> Iterator[Training]:
    for name in recipe.pretrainings:
        for seed in recipe.seeds:
            yield from _training("pretrain", name, seed, workspace.pretrained(name, seed))


def _finetunings(recipe: ReportedRecipe, workspace: Workspace) -> Iterator[Training]:
    for variant in (*recipe.variants, *recipe.other_variants):
        for seed in recipe.seeds:
            yield from _training("finetune", variant, seed, workspace.finetuned(variant, seed))


def _training(stage: str, name: str, seed: int, folder: Path) -> Iterator[Training]:
    summary = _summary(folder / SUMMARY)
    if summary is not None:
        yield Training(stage, name, seed, summary, _table(folder / HISTORY))


def _quarantine(workspace: Workspace) -> pd.DataFrame:
    paths = [folder / "quarantine.parquet" for folder in (workspace.items, workspace.valid)]
    tables = [read_quarantine(path) for path in paths if path.exists()]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=["row", "stage", "reason"])


def _summary(path: Path) -> Summary | None:
    if not path.exists():
        return None
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(_unreadable(path, error)) from None
    if not isinstance(value, dict):
        raise InputError(_unreadable(path, "not a JSON object"))
    return value


def _table(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype=IDS, keep_default_na=False, na_values=[""])  # an id such as NA is an id
    except (OSError, ValueError) as error:
        raise InputError(_unreadable(path, error)) from None
    for name, cells in table.select_dtypes(["object", "string"]).items():
        table[name] = cells.map(plain_cell, "ignore").astype(cells.dtype)
    return table


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _unreadable(path: Path, reason: object) -> str:
    return f"{path}: cannot be read ({reason}); run the step that writes it again"
