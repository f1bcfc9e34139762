"""`mlim export`: a model whose network is ONNX graphs, which are compared with torch before they are written.

Both compute the same pairs in turn, in one thread: the test pairs of the work folder where it has some, else pairs of
random texts and pictures, which have no PR-AUC. As in `mlim score`, items are read first, then pairs of them, and a
batch holds texts of about equal lengths.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch

from mlim.console import Terminal
from mlim.data.batches import PairSide
from mlim.data.collate import Pair, PairCollator
from mlim.errors import InputError, MlimError
from mlim.evaluation.evidence import families_of
from mlim.evaluation.pr_auc import Labels
from mlim.evaluation.resampling import Compared, JudgedPairs, compare_all
from mlim.evaluation.scores import in_order, labels_of, part
from mlim.files import atomic_folder, write_json
from mlim.matching.batch import one_thread
from mlim.matching.model import MatchingModel, Scores
from mlim.matching.prepared import by_length
from mlim.models.pair_network import PAIR, PairNetwork
from mlim.onnx.export import RGB, export_matcher, quantized
from mlim.recipe import Recipe
from mlim.report.kit import formats
from mlim.shards.items import open_items
from mlim.steps.score import check_items
from mlim.workspace import Workspace

MODEL: Final = "model"  # in the folder that is written, beside the summary
TORCH, ONNX, INT8 = "torch", "onnx", "onnx-int8"  # what computes
LARGEST_DIFFERENCE: Final = 1e-4  # of a score, between torch and the graphs in full precision
MOST_LOST: Final = 0.005  # PR-AUC; more is warned of
RANDOM_BATCHES: Final = 3
PIXEL_VALUES: Final = 256

Sides = tuple[PairSide, PairSide]


class JudgedBatches(NamedTuple):
    """Pairs on which runtimes are compared, a batch at a time; `judged` are those with labels, None: random ones."""

    sides: Iterator[Sides]
    judged: JudgedPairs | None


@dataclass
class Outcome:
    """What a runtime did: the scores of its batches, and the processor seconds for items and for pairs of them."""

    parts: list[Scores] = field(default_factory=list)
    item_seconds: float = 0.0
    pair_seconds: float = 0.0

    @property
    def scores(self) -> Scores:
        """Those of all pairs (n,)."""
        return np.concatenate(self.parts)

    def run(self, model: MatchingModel, sides: Sides) -> None:
        """Compute one batch."""
        started, modality = time.process_time(), model.settings.modality
        if model.reads_items_alone:
            vectors = [model.item_vectors(side, modality) for side in sides]
            read = time.process_time()
            scores = model.compare(*vectors)
        else:
            states = [(model.item_states(side, modality), side.attention) for side in sides]
            read = time.process_time()
            scores = model.join(states[0], states[1], modality)
        self.item_seconds += read - started
        self.pair_seconds += time.process_time() - read
        self.parts.append(scores)


def export(
    model: MatchingModel, out: Path, recipe: Recipe, workspace: Workspace, terminal: Terminal, *, int8: bool = False
) -> dict[str, Any]:
    """Write the model with ONNX graphs into `out`, with weights of 8 bits if `int8`; returns the comparison.

    `mlim.load`, `mlim score` and `mlim match` read the folder like any model. `InputError` when the model is exported
    already, or packages are missing; `MlimError` when the graphs do not give torch's scores, and nothing is written.
    """
    runtimes = _runtimes(model, int8, terminal)
    batches = judged_batches(model, recipe, workspace)
    with atomic_folder(out) as folder:
        outcomes = side_by_side(runtimes, batches.sides)
        check_parity(outcomes)
        summary = _summary(model, outcomes, batches.judged, recipe)
        list(runtimes.values())[-1].save(folder / MODEL)
        write_json(folder / "summary.json", summary)
    _say(summary, terminal)
    return summary


def _runtimes(model: MatchingModel, int8: bool, terminal: Terminal) -> dict[str, MatchingModel]:
    """The model computed by torch and by what is exported, the last of which is written."""
    network, settings = model.network, model.settings
    if not isinstance(network, PairNetwork):
        raise InputError("--model: holds ONNX graphs already; give the model that they were exported from")
    found = {TORCH: model.with_network(network)}
    with terminal.waiting("exporting"):
        graphs = export_matcher(network, settings.modality, settings.max_tokens, settings.image_size)
        found[ONNX] = model.with_network(graphs)
        if int8:
            found[INT8] = model.with_network(quantized(graphs))
    return found


def judged_batches(model: MatchingModel, recipe: Recipe, workspace: Workspace) -> JudgedBatches:
    """The test pairs of the work folder, as the model reads them; random pairs where it has none."""
    path = workspace.pairs / "pairs.parquet"
    test = part(in_order(pd.read_parquet(path)), split="test") if path.is_file() else pd.DataFrame()
    if test.empty:
        return JudgedBatches(random_sides(model, recipe.seed), None)
    store, settings = open_items(recipe.loader, workspace), model.settings
    check_items(store, settings, workspace)
    collate = PairCollator(store, model.tokenizer, settings.max_tokens)
    pairs = [Pair(*row) for row in test[list(Pair._fields)].itertuples(index=False)]
    lengths = np.array([[_tokens(model, store.text(item)) for item in (pair.item_a, pair.item_b)] for pair in pairs])
    parts = by_length(settings.batch_size, *lengths.T)
    batches = (collate([pairs[place] for place in part]) for part in parts)
    judged = test.iloc[np.concatenate(parts)]
    sides = ((batch.first, batch.second) for batch in batches)
    return JudgedBatches(sides, JudgedPairs(labels_of(judged), families_of(judged, workspace)))


def _tokens(model: MatchingModel, text: str) -> int:
    return len(model.tokenizer.encode(text, model.settings.max_tokens))


def random_sides(model: MatchingModel, seed: int) -> Iterator[Sides]:
    """Batches of pairs of random tokens and noise, of several sizes and lengths."""
    settings, source = model.settings, torch.Generator().manual_seed(seed)
    for number in range(RANDOM_BATCHES):
        size, longest = max(1, settings.batch_size - number), max(1, settings.max_tokens - number)
        yield random_side(model, size, longest, source), random_side(model, size, settings.max_tokens, source)


def random_side(model: MatchingModel, size: int, longest: int, source: torch.Generator) -> PairSide:
    """A side of `size` pairs: random tokens, up to `longest` of an item, and pictures (size, 3, S, S) of noise."""
    lengths = torch.randint(0, longest + 1, (size, 1), generator=source)
    attention = torch.arange(longest) < lengths
    tokens = torch.randint(model.tokenizer.vocabulary_size, (size, longest), generator=source) * attention
    shape = (size, RGB, model.settings.image_size, model.settings.image_size)
    return PairSide(tokens, attention, torch.randint(PIXEL_VALUES, shape, generator=source, dtype=torch.uint8))


def side_by_side(runtimes: Mapping[str, MatchingModel], batches: Iterable[Sides]) -> dict[str, Outcome]:
    """What each runtime makes of the batches, in turn and in one thread; the first batch also warms them up."""
    outcomes = {name: Outcome() for name in runtimes}
    with one_thread():
        for number, sides in enumerate(batches):
            for name, model in runtimes.items():
                if not number:
                    Outcome().run(model, sides)
                outcomes[name].run(model, sides)
    return outcomes


def check_parity(outcomes: Mapping[str, Outcome]) -> None:
    """`MlimError` unless the graphs in full precision give the scores of torch."""
    differs = _difference(outcomes[ONNX], outcomes[TORCH])
    if not differs <= LARGEST_DIFFERENCE:
        raise MlimError(
            f"the ONNX graphs do not give the scores of torch: a score differs by {differs:.2g}, more than "
            f"{LARGEST_DIFFERENCE:g}; use the model without export, and report this with the versions of torch and onnx"
        )


def _difference(one: Outcome, other: Outcome) -> float:
    return float(np.abs(one.scores - other.scores).max())


def _summary(
    model: MatchingModel, outcomes: Mapping[str, Outcome], judged: JudgedPairs | None, recipe: Recipe
) -> dict[str, Any]:
    torch_ = outcomes[TORCH]
    figures: dict[str, dict[str, Any]] = {
        name: {
            "items_per_processor_second": PAIR * len(outcome.scores) / outcome.item_seconds,
            "items_times_faster": torch_.item_seconds / outcome.item_seconds,
            "pairs_per_processor_second": len(outcome.scores) / outcome.pair_seconds,
            "times_faster": torch_.pair_seconds / outcome.pair_seconds,
            "largest_difference": _difference(outcome, torch_),
        }
        for name, outcome in outcomes.items()
    }
    for name, compared in _compared(outcomes, judged, recipe).items():
        minus = compared.minus_first
        figures[name]["pr_auc"] = compared.figure.interval._asdict()
        figures[name]["pr_auc_difference"] = None if minus is None else minus.difference._asdict()
    return {
        "model": model.sha256,
        "read_out": model.network.read_out,
        "modality": model.settings.modality,
        "written": list(outcomes)[-1],
        "pairs": len(torch_.scores),
        "test_pairs": judged is not None,
        "runtimes": figures,
    }


def _compared(outcomes: Mapping[str, Outcome], judged: JudgedPairs | None, recipe: Recipe) -> Mapping[str, Compared]:
    """The PR-AUC of the network alone by runtime, and its difference to torch's on the same resamples of families."""
    if judged is None or not _both_labels(judged.labels):
        return {}
    scores = {name: outcome.scores[None] for name, outcome in outcomes.items()}
    settings = recipe.evaluate
    return compare_all(judged, scores, settings.bootstrap_samples, settings.confidence, recipe.seed)


def _both_labels(labels: Labels) -> bool:
    return 0 < int(labels.sum()) < labels.size


def _say(summary: Mapping[str, Any], terminal: Terminal) -> None:
    kind = "test pairs" if summary["test_pairs"] else "random pairs, which have no PR-AUC"
    terminal.say(f"compared on {summary['pairs']:,} {kind}, in turn, in one thread:")
    for name, figures in summary["runtimes"].items():
        terminal.say(f"{name}: {_sentence(figures)}")
        lost = -((figures.get("pr_auc_difference") or {}).get("value") or 0.0)
        if lost > MOST_LOST:
            terminal.warn(f"{name} loses {lost:.3f} of PR-AUC, more than {MOST_LOST:g}; export without --int8")


def _sentence(figures: Mapping[str, Any]) -> str:
    said = [
        f"{figures[f'{kind}_per_processor_second']:,.0f} {kind}/s, {figures[faster]:.2f} times torch"
        for kind, faster in (("pairs", "times_faster"), ("items", "items_times_faster"))
    ]
    said.append(f"scores differ by at most {figures['largest_difference']:.1g}")
    if "pr_auc" in figures:
        said.append(f"PR-AUC {formats.interval(**figures['pr_auc'])}")
    if difference := figures.get("pr_auc_difference"):
        said.append(f"{formats.signed(difference['value'])} to torch")
    return ", ".join(said)
