"""Step `probe`: Figure 2 of the paper (section 4.2.2), and sheets that show what the model does with test items.

The sheets: reconstructions, nearest neighbours, attention between text and picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mlim.console import Terminal
from mlim.data.seeds import numpy_generator
from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError
from mlim.evaluation.interaction import embed, family_share, item_attention, neighbourhoods, similarities
from mlim.evaluation.judging import ERRORS, HARM_KEY
from mlim.evaluation.probes import (
    PARTNERS,
    SHEET,
    Families,
    Losses,
    Point,
    ProbedModel,
    Prober,
    Resampling,
    compare_harm,
    compare_partners,
    figure_table,
    join_seeds,
    relative_harm,
)
from mlim.evaluation.resampling import Effect
from mlim.files import atomic_folder, write_csv, write_json
from mlim.models.mlim import Mlim
from mlim.recipe import LossName, Recipe
from mlim.recipe.systems import MLIM
from mlim.report.figures import draw_attention, draw_figure2, draw_neighbours, draw_reconstructions
from mlim.shards.items import open_items
from mlim.steps.as_trained import as_trained
from mlim.steps.same_settings import require_same_settings, wanted_probe
from mlim.tracking import StageRun, stage_run
from mlim.training.device import choose_device
from mlim.versions import lineage
from mlim.workspace import Workspace

STAGE: Final = "probe"
FEWEST: Final = 2  # items: a random other one has to exist; families: a spread has to be told between them
NEIGHBOURS: Final = 5  # shown of each item
NEIGHBOURS_KEY: Final = "neighbours"  # of the summary


@dataclass(frozen=True)
class Figure:
    """One half of Figure 2: the loss it needs, and what its plot says."""

    name: str
    loss: LossName
    title: str
    y_label: str


FIGURE_2A: Final = Figure("figure2a", "mlm", "Text masked, beside a picture", "MLM loss per masked token")
FIGURE_2B: Final = Figure("figure2b", "recon", "Picture masked, beside a text", "RECON loss per pixel")


def probe(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Measure how much the main variant's pre-trained models (one for each seed) use each modality for the other.

    A figure whose loss they were not trained on is left out, and the summary says why; neighbours and attention need no
    loss. The sheets are of the first seed. `InputError` when a pre-training is missing or had other settings;
    `DataError` with fewer than two test items or families of them.
    """
    losses, reason = _trained_losses(recipe)
    figures = [figure for figure in (FIGURE_2A, FIGURE_2B) if figure.loss in losses]
    items = _test_items(recipe, workspace) if losses else pd.DataFrame()
    models = [_probed_model(recipe, workspace, seed) for seed in recipe.seeds] if losses else []
    with (
        stage_run(recipe.record, workspace, STAGE, STAGE, lineage(workspace)) as run,
        atomic_folder(workspace.probe) as folder,
    ):
        found: dict[str, Any] = {figure.name: {"skipped": reason} for figure in (FIGURE_2A, FIGURE_2B)}
        if models:
            families = items["component"].to_numpy(dtype=np.int64)
            probers = [Prober(model, [*items["id"]], recipe.seed, families) for model in models]
            found |= _draw_all(recipe, probers, figures, families, folder, terminal)
            found[NEIGHBOURS_KEY] = _draw_neighbours(recipe, workspace, models[0], items, folder)
            _draw_attention(recipe, models[0], [*items["id"]], "mlm" in losses, folder)
        _track(run, found, folder)
        summary = {**found, **wanted_probe(recipe).summary, **_verdict(found), "run_id": run.id}
        write_json(folder / "summary.json", summary)
    _say(summary, terminal)
    return summary


def _trained_losses(recipe: Recipe) -> tuple[Sequence[str], str]:
    """The losses the main variant's model was pre-trained with, and why the other figures are left out."""
    name = recipe.main_variant.pretraining
    if name is None:
        return (), f"variant `{recipe.main}` has no pre-training"
    losses = recipe.pretrainings[name].loss_names
    if (system := recipe.system_of(recipe.main_variant)) != MLIM:
        return (), f"pre-training `{name}` is of system {system.kind}, which hides no text beside a picture"
    return losses, f"pre-training `{name}` was trained on {', '.join(losses)} only"


def _probed_model(recipe: Recipe, workspace: Workspace, seed: int) -> ProbedModel:
    name = str(recipe.main_variant.pretraining)
    folder = workspace.pretrained(name, seed)
    if not (folder / "model").is_dir():
        raise InputError(f"{folder / 'model'} is missing; run `mlim pretrain {name} --seed {seed}` first")
    require_same_settings(recipe, workspace, "pretrain", name, seed)
    return ProbedModel(
        Mlim.from_pretrained(folder / "model").to(choose_device(recipe.device)),
        TextTokenizer.from_folder(folder / "model"),
        open_items(recipe.loader, workspace),
        max_tokens=as_trained(recipe, folder).text.limit,
        batch_size=recipe.evaluate.batch_size,
    )


def _test_items(recipe: Recipe, workspace: Workspace) -> pd.DataFrame:
    """Random items of the test split with their families (id, component), `probe.items` where there are as many."""
    components = _test_families(workspace)
    known = sorted(components.index)
    number = min(recipe.probe.items, len(known))
    drawn = [str(item) for item in numpy_generator("probe items", recipe.seed).choice(known, number, replace=False)]
    items = pd.DataFrame({"id": drawn, "component": components.loc[drawn].to_numpy()})
    for units, found in (("test items", number), ("families of them", items["component"].nunique())):
        if found < FEWEST:
            raise DataError(
                f"Figure 2 needs at least {FEWEST} {units}, not {found}; raise pairs.test_share or probe.items"
            )
    return items


def _test_families(workspace: Workspace) -> "pd.Series[int]":
    """The family of every item of the test split, by its id."""
    path = workspace.pairs / "items.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim pairs` first")
    items = pd.read_parquet(path)
    return items.loc[items["split"] == "test"].set_index("id")["component"]


def _with_relatives(items: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """The items (id, component), then the rest of their families in the test split: what a neighbour can be.

    A random part of a catalog would hold few relatives; all of a large one would take too long.
    """
    components = _test_families(workspace).sort_index()
    relatives = components[components.isin(items["component"]) & ~components.index.isin(items["id"])]
    return pd.concat([items, relatives.reset_index()], ignore_index=True)


def _draw_all(
    recipe: Recipe,
    probers: Sequence[Prober],
    figures: Sequence[Figure],
    families: Families,
    folder: Path,
    terminal: Terminal,
) -> dict[str, Any]:
    """Measure and draw the figures, compare their harms, and the reconstructions where RECON was trained."""
    found: dict[str, Any] = {}
    losses: dict[LossName, Losses] = {}
    settings = Resampling(recipe.evaluate.bootstrap_samples, recipe.evaluate.confidence, recipe.seed, families)
    with terminal.progress("probes", len(figures) * len(probers)) as bar:
        for figure in figures:
            of_seeds = []
            for prober in probers:
                measure = prober.mlm if figure.loss == "mlm" else prober.recon
                of_seeds.append(measure(recipe.probe.probabilities))
                bar.advance(note=figure.title)
            losses[figure.loss] = join_seeds(of_seeds)
            found[figure.name] = _draw(figure, losses[figure.loss], settings, folder)
    if len(losses) == len((FIGURE_2A, FIGURE_2B)):
        found[HARM_KEY] = _difference(compare_harm(losses["recon"], losses["mlm"], settings))
    if FIGURE_2B in figures:
        sheet = probers[0].reconstructions(recipe.probe.reconstruction_masking, recipe.probe.reconstructions)
        draw_reconstructions(sheet, SHEET, folder / "reconstructions.png")
    return found


def _draw_neighbours(
    recipe: Recipe, workspace: Workspace, probed: ProbedModel, items: pd.DataFrame, folder: Path
) -> dict[str, Any]:
    """Draw the nearest neighbours of the first items; say how often the nearest of a probed item is of its family.

    Items of a family share words and looks, so that chance is easily beaten: random weights tell what training adds.
    """
    candidates = _with_relatives(items, workspace)
    ids, families = [*candidates["id"]], candidates["component"].to_numpy(dtype=np.int64)
    untrained = replace(probed, model=Mlim.random(probed.model.config, recipe.seed).to(probed.device))
    cosines, by_accident = (similarities(embed(model, ids), len(items)) for model in (probed, untrained))
    rows = neighbourhoods(probed, ids, families, cosines[: recipe.probe.reconstructions], NEIGHBOURS)
    draw_neighbours(rows, folder / "neighbours.png")
    return {
        **family_share(cosines, families)._asdict(),
        "with_random_weights": family_share(by_accident, families).same_family,
    }


def _draw_attention(recipe: Recipe, probed: ProbedModel, items: Sequence[str], guess: bool, folder: Path) -> None:
    """Draw attention of the first items that have a text; none has: no picture."""
    shown = items[: recipe.probe.reconstructions]
    found = [item_attention(probed, item, guess, recipe.seed) for item in shown]
    rows = [row for row in found if row is not None]
    if rows:
        draw_attention(rows, folder / "attention.png")


def _draw(figure: Figure, losses: Losses, settings: Resampling, folder: Path) -> dict[str, Any]:
    table = figure_table(losses, settings)
    write_csv(folder / f"{figure.name}.csv", table.to_dict("records"), list(table.columns))
    for suffix in ("svg", "png"):
        draw_figure2(table, folder / f"{figure.name}.{suffix}", figure.title, figure.y_label)
    return conclude(losses, compare_partners(losses, settings))


def conclude(losses: Losses, points: Sequence[Point]) -> dict[str, Any]:
    """What one figure says: is the own partner's loss the lowest, everywhere, and beyond chance?"""
    described = [
        {
            "probability": point.probability,
            **{partner: losses[point.probability, partner].mean for partner in PARTNERS},
            "random_minus_own": _difference(point.random_minus_own),
            "empty_minus_own": _difference(point.empty_minus_own),
            "random_minus_empty": _difference(point.random_minus_empty),
            "own_below_random": point.random_minus_own.value > 0,
            "separated": point.random_minus_own.separated,
        }
        for point in points
    ]
    return {
        "skipped": None,
        "items": int(next(iter(losses.values())).total.shape[1]),
        "points": described,
        "own_below_random_everywhere": all(point.random_minus_own.value > 0 for point in points),
        "own_below_random_clearly_everywhere": all(point.random_minus_own.low > 0 for point in points),
        "own_below_empty_everywhere": all(point.empty_minus_own.value > 0 for point in points),
        "harm_of_random_partner": relative_harm(losses),
    }


def _difference(effect: Effect) -> dict[str, Any]:
    """A difference as the claims are judged by it; how far seeds differ is None with one."""
    spread = {"by_seed": list(effect.by_seed), "seeds_spread": effect.seeds_spread}
    difference = {**effect.difference._asdict(), **spread, "no_interval": effect.why or None}
    return difference if effect.why else {**difference, **{name: getattr(effect, name) for name in ERRORS}}


def _verdict(found: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's last observation: a random text hurts RECON more than a random picture hurts MLM (relatively)."""
    harm = {figure.loss: found[figure.name].get("harm_of_random_partner") for figure in (FIGURE_2A, FIGURE_2B)}
    known = None not in harm.values()
    return {
        "random_image_hurts_mlm": harm["mlm"],
        "random_text_hurts_recon": harm["recon"],
        "text_to_image_is_stronger": harm["recon"] > harm["mlm"] if known else None,
    }


def _track(run: StageRun, found: Mapping[str, Any], folder: Path) -> None:
    for figure in (FIGURE_2A, FIGURE_2B):
        measured = found[figure.name]
        if measured["skipped"] is None:
            run.metric(f"{figure.name}.harm_of_random_partner", measured["harm_of_random_partner"])
    share = found.get(NEIGHBOURS_KEY, {}).get("same_family")
    if share is not None:
        run.metric(f"{NEIGHBOURS_KEY}.same_family", share)
    if any(folder.iterdir()):
        run.artifact(folder)


def _say(summary: Mapping[str, Any], terminal: Terminal) -> None:
    for figure in (FIGURE_2A, FIGURE_2B):
        found = summary[figure.name]
        if found["skipped"] is not None:
            terminal.say(f"{figure.name}: left out, {found['skipped']}")
            continue
        answer = "lowest beside its own partner" if found["own_below_random_everywhere"] else "not always lowest"
        terminal.say(
            f"{figure.name}: {figure.y_label} is {answer}; a random one changes it by "
            f"{found['harm_of_random_partner']:+.1%} on average"
        )
    share = summary.get(NEIGHBOURS_KEY)
    if share is not None and share["items"]:
        terminal.say(
            f"neighbours: the nearest is of the same family for {share['same_family']:.1%} of {share['items']} items, "
            f"by chance for {share['by_chance']:.1%}, with random weights for {share['with_random_weights']:.1%}"
        )
