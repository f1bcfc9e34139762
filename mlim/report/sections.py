"""The sections of the report, one function each: from results to blocks, or one sentence on what is missing."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mlim.evaluation.pr_auc import prevalence
from mlim.report import figures, tables
from mlim.report.gather import Gathered, Training
from mlim.report.kit import formats
from mlim.report.kit.blocks import Block, Card, Folded, Gallery, PairCard, Pairs, Picture, Section, Table
from mlim.report.kit.images import PNG, data_uri
from mlim.report.kit.svg import plot
from mlim.report.kit.words import plain
from mlim.report.labels import LABELS_AXIS, LABELS_HEADER, LABELS_NOTE, LABELS_TITLE, label_cells
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import BASELINE_LABELS, Estimate, baseline_scores, judged_score, scorer_scores, variant_scores
from mlim.report.usable import chosen_on
from mlim.shards.items import ItemStore, open_items
from mlim.stacking.scorers import STACK, WITHOUT_MATCHER
from mlim.workspace import Workspace

EXAMPLES_PER_REASON: Final = 2
EXAMPLES: Final = 12
SHOWN_WAYS: Final = 8  # of the leak audit, as bars
FIGURES: Final = {
    "figure2a": ("Text loss by its picture (Figure 2a)", "MLM loss per masked token", "picture"),
    "figure2b": ("Picture loss by its text (Figure 2b)", "RECON loss per pixel", "text"),
}
ATTENTION_NOTE: Final = (
    "Left, a word is hidden, and the darker a patch, the more the word looks there (darkest from four times the "
    "average on); right, a patch is hidden, and the longer a bar, the more the patch looks at that word (dots: spread "
    "evenly). "
    "Last block, mean over heads; the word is the one of which the picture tells most, if the model was trained to "
    "guess words, and the patch the one with most detail."
)
NEIGHBOURS_NOTE: Final = (
    "Each row is one test item and the items closest to it for the pre-trained model (cosine of its mean outputs, less "
    "their average over items); framed ones are variations of the same product."
)


def filled(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The blocks without empty tables."""
    return tuple(block for block in blocks if not isinstance(block, Table) or block.rows)


def data_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """What came in, what was quarantined and why."""
    title = "Data and validation"
    ingest, validation = gathered.ingest, gathered.validation
    if ingest is None:
        return Section("data", title, "", missing="No catalog has been read yet: run `mlim ingest`.")
    lead = f"{formats.count(ingest['rows_in'])} rows came in, {formats.count(ingest['ingested'])} became items"
    if validation is not None:
        lead += f", {formats.count(validation['accepted'])} of them passed validation"
    steps = {"validate": gathered.validation, "pairs": gathered.pairs}
    left = " and ".join(f"`mlim {step}`" for step, summary in steps.items() if summary is None)
    missing = f"The rest is missing: run {left}." if left else ""
    return Section("data", title, f"{lead}.", _data_blocks(recipe, gathered), missing)


def _data_blocks(recipe: ReportedRecipe, gathered: Gathered) -> tuple[Block, ...]:
    blocks: list[Block] = [tables.reasons_table(gathered)]
    if len(gathered.quarantine):
        blocks.append(Gallery("Examples of quarantined rows", _examples(gathered.quarantine)))
    blocks.append(tables.expectations_table(gathered))
    if gathered.pairs is not None:
        blocks += [tables.pairs_table(gathered.pairs), tables.leaks_table(recipe, gathered), *_bar(recipe, gathered)]
    return filled(blocks)


def _bar(recipe: ReportedRecipe, gathered: Gathered) -> list[Block]:
    """The model and the best of the simple baselines as bars; nothing before the pairs are audited."""
    audit = tables.leak_audit(gathered.pairs)[:SHOWN_WAYS]
    if not audit:
        return []
    main = judged_score(recipe, gathered.metrics)
    ways = [(str(entry["rule"]), Estimate(*[entry["pr_auc"]] * 3)) for entry in audit]
    shown = [*([(main.label, main.pr_auc)] if main else []), *ways]
    rows = pd.DataFrame([{"label": label, "pr_auc": each.value, **asdict(each)} for label, each in shown])
    draw = partial(figures.draw_table_bars, rows, prevalence=(gathered.pairs or {}).get("prevalence"))
    return [plot("bar", "The bar the model must beat", draw)]


def _examples(quarantine: pd.DataFrame) -> tuple[Card, ...]:
    """A few rows of each reason, those with a picture first."""
    shown = quarantine.assign(blank=quarantine["thumbnail"].isna()).sort_values(["blank", "stage", "row"])
    chosen = shown.groupby("reason", sort=False).head(EXAMPLES_PER_REASON).head(EXAMPLES)
    return tuple(
        Card(
            uri=None if row["blank"] else data_uri(row["thumbnail"]),
            name=str(row["reason"]),
            words=plain(f"Row {formats.count(row['row'])}: {row['detail']}"),
        )
        for row in chosen.to_dict("records")
    )


def losses_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """How the losses fell, by pre-training, by masking mode, and in fine-tuning."""
    title = "Pre-training and fine-tuning"
    if not gathered.trainings:
        return Section("losses", title, "", missing="Nothing has been trained yet: run `mlim pretrain`.")
    compared = recipe.pretraining_pair or (recipe.main,)
    both = tuple(
        replace(each, name=recipe.variants[each.name].label) for each in gathered.finetunings if each.name in compared
    )
    found = (
        _comparison("pretrainings", "Validation losses of the pre-trainings", gathered.pretrainings),
        _by_mode(recipe, gathered),
        _comparison("finetunings", "Matching loss with and without pre-training", both),
    )
    costs = [
        *_references(recipe, gathered),
        tables.trainings_table("Pre-trainings", gathered.pretrainings),
        tables.trainings_table("Fine-tunings", gathered.finetunings),
    ]
    lead = (
        "Curves show the first seed; training losses are smoothed, validation losses come from fixed masks. "
        f"{_not_beaten(gathered)}"
    )
    blocks = [*(block for block in found if block is not None), *costs]
    return Section("losses", title, lead, filled(blocks))


def _references(recipe: ReportedRecipe, gathered: Gathered) -> list[Table]:
    """The simple baselines beside the main variant's pre-training, of the first seed."""
    name = recipe.main_variant.pretraining
    return [tables.references_table(each) for each in gathered.pretrainings if each.name == name][:1]


def _not_beaten(gathered: Gathered) -> str:
    """Which pre-trainings restore what is hidden no better than a simple baseline; one not compared says nothing."""
    compared = [each for each in gathered.pretrainings if each.summary.get("references")]
    problems = [
        f"{each.name}, seed {each.seed}: {'; '.join(each.summary['not_beaten'])}."
        for each in compared
        if each.summary["not_beaten"]
    ]
    if problems:
        return f"Not every pre-training beats the simple baselines. {' '.join(problems)}"
    if not compared:
        return ""
    which = "" if len(compared) == len(gathered.pretrainings) else " that was compared"
    return f"Every pre-training{which} has lower losses than all of the simple baselines."


def _comparison(name: str, title: str, trainings: tuple[Training, ...]) -> Block | None:
    histories = _histories(trainings)
    if len(histories) < 2:
        return None
    return plot(name, title, partial(figures.draw_losses, histories))


def _by_mode(recipe: ReportedRecipe, gathered: Gathered) -> Block | None:
    name = recipe.main_variant.pretraining
    histories = _histories(tuple(each for each in gathered.pretrainings if each.name == name))
    if not histories:
        return None
    title = f"Losses of {name} by masking mode"
    note = "A mode that masks no text has no MLM loss."
    return plot("modes", title, partial(figures.draw_losses, histories), note)


def _histories(trainings: tuple[Training, ...]) -> dict[str, pd.DataFrame]:
    """Histories of the first seed of each training by name."""
    found: dict[str, pd.DataFrame] = {}
    for training in trainings:
        if training.history is not None:
            found.setdefault(training.name, training.history)
    return found


def results_section(recipe: ReportedRecipe, gathered: Gathered) -> Section:
    """Tables 1 and 2 beside the paper's figures, further variants, baselines and the curves behind the figures."""
    title = "Results beside the paper"
    scores = variant_scores(recipe, gathered)
    if not scores:
        return Section("results", title, "", missing="No model has been judged yet: run `mlim evaluate`.")
    lead = "PR-AUC on the test pairs, with intervals over families and seeds; differences are paired over these pairs."
    blocks: list[Block] = [
        _overview(recipe, gathered),
        *_curves(recipe, gathered),
        *_label_curve(gathered),
        *(tables.paper_table(recipe, gathered, table) for table in gathered.reference.tables),
        tables.further_variants_table(recipe, gathered),
        tables.baselines_table(recipe, gathered),
        tables.scorers_table(recipe, gathered),
    ]
    left = [recipe.variants[name].label for name in recipe.variants if name not in scores]
    missing = f"Not run yet: {'; '.join(left)}." if left else ""
    return Section("results", title, lead, filled(blocks), missing)


def _overview(recipe: ReportedRecipe, gathered: Gathered) -> Block:
    stacks = [score for name, score in scorer_scores(gathered.metrics).items() if name in (STACK, WITHOUT_MATCHER)]
    scores = [*stacks, *variant_scores(recipe, gathered).values(), *baseline_scores(gathered.metrics).values()]
    rows = [{"label": each.label, "pr_auc": each.pr_auc.value, **asdict(each.pr_auc)} for each in scores]
    prevalence = (gathered.metrics or {}).get("prevalence")
    draw = partial(figures.draw_table_bars, pd.DataFrame(rows), prevalence=prevalence)
    return plot("overview", "All models, stacks and baselines", draw)


def _curves(recipe: ReportedRecipe, gathered: Gathered) -> list[Block]:
    metrics = gathered.metrics
    if metrics is None or gathered.curves is None:
        return []
    labels = {name: variant.label for name, variant in recipe.variants.items()} | BASELINE_LABELS
    curves = {labels.get(str(name), str(name)): curve for name, curve in gathered.curves.groupby("name", sort=False)}
    note = (
        f"{formats.count(metrics['pairs'])} test pairs, {formats.percent(metrics['prevalence'])} of them matches. "
        f"At the threshold {formats.score(metrics['threshold'])}, chosen on {chosen_on(metrics)}, what is "
        f"registered has precision {formats.score(metrics['precision_at_threshold'])} and recall "
        f"{formats.score(metrics['recall_at_threshold'])} on the test pairs."
    )
    draw = partial(figures.draw_pr_curves, curves, metrics["prevalence"])
    return [plot("curves", "Precision against recall on the test pairs", draw, note)]


def _label_curve(gathered: Gathered) -> list[Block]:
    """Whether pre-training pays by the number of labelled pairs, where that was measured."""
    points = [point.plain() for point in gathered.label_curve]
    if not points:
        return []
    draw = partial(figures.draw_label_curves, [("", points)], y_label=LABELS_AXIS)
    cells = tuple(map(tuple, label_cells(points)))
    return [
        plot("labels", LABELS_TITLE, draw, LABELS_NOTE),
        Table("PR-AUC by the number of training pairs", LABELS_HEADER, cells),
    ]


def variant_label(recipe: ReportedRecipe, name: str) -> str:
    """What a variant is called; one from another work folder by its name."""
    return recipe.variants[name].label if name in recipe.variants else name


def variant_curves(recipe: ReportedRecipe, gathered: Gathered) -> dict[str, pd.DataFrame]:
    """Curves of the variants by label; none where there are not several to compare."""
    curves = {variant_label(recipe, name): curve for name, curve in gathered.variant_curves.items()}
    return curves if len(curves) > 1 else {}


def draw_variant_curves(recipe: ReportedRecipe, gathered: Gathered, path: Path) -> None:
    """Precision against recall of every variant on the test pairs."""
    pairs = gathered.evidence.pairs
    chance = math.nan if pairs is None else prevalence(pairs.labels)
    figures.draw_pr_curves(variant_curves(recipe, gathered), chance, path)


def variant_curves_plot(recipe: ReportedRecipe, gathered: Gathered) -> list[Block]:
    """The curves of all variants as a plot of the page, where there are several."""
    if not variant_curves(recipe, gathered):
        return []
    note = "At each recall the precision is averaged over the seeds of a variant."
    return [
        plot("variants", "Precision against recall by variant", partial(draw_variant_curves, recipe, gathered), note)
    ]


def probes_section(gathered: Gathered) -> Section:
    """Figure 2 of the paper and the sheets: reconstructions, attention, nearest neighbours."""
    title = "Does each modality use the other?"
    if gathered.probe is None:
        return Section("probes", title, "", missing="The probes have not run: run `mlim probe`.")
    found = (
        _figure2(gathered, "figure2a"),
        _figure2(gathered, "figure2b"),
        _sheet("Reconstructions of test items", gathered.reconstructions),
        _sheet("Attention of a masked word and a masked patch", gathered.attention, ATTENTION_NOTE),
        _sheet("Nearest neighbours of test items", gathered.neighbours, f"{NEIGHBOURS_NOTE}{_family_share(gathered)}"),
    )
    blocks = tuple(block for block in found if block is not None)
    left = [f"{name} was left out: {reason}." for name in FIGURES if (reason := _about(gathered, name).get("skipped"))]
    lead = (
        "Figure 2 of the paper: a masked modality is restored from what is left of it and from its partner. Where the "
        f"item's own partner gives the lowest loss, the model has learned to look across. {_bands(gathered.probe)}"
    )
    return Section("probes", title, lead, blocks, " ".join(left))


def _bands(probe: Mapping[str, Any]) -> str:
    seeds = len(probe.get("seeds", ()))
    if seeds > 1:
        return f"Lines are means over {seeds} trainings; bands cover other families of items and other trainings."
    return "Bands cover other families of items, not other trainings."


def _figure2(gathered: Gathered, name: str) -> Block | None:
    table = gathered.figure2.get(name)
    if table is None:
        return None
    title, y_label, partner = FIGURES[name]
    about = _about(gathered, name)
    lower = [point["own_below_random"] for point in about.get("points", ())]
    where = "at every masking probability" if all(lower) else f"at {sum(lower) or 'none'} of {len(lower)} probabilities"
    note = f"The item's own {partner} gives a lower loss than a random one {where}." if lower else ""
    return plot(name, title, partial(figures.draw_figure2, table, title="", y_label=y_label), note)


def _about(gathered: Gathered, name: str) -> Mapping[str, Any]:
    """What the probe's summary says about one figure."""
    about: Mapping[str, Any] = (gathered.probe or {}).get(name) or {}
    return about


def _sheet(title: str, picture: bytes | None, note: str = "") -> Block | None:
    return None if picture is None else Picture(title, data_uri(picture, PNG), note)


def _family_share(gathered: Gathered) -> str:
    """How often the nearest neighbour is of the same family, as a sentence; empty where no item has a family."""
    share = _about(gathered, "neighbours")
    if not share.get("items"):
        return ""
    return (
        f" The nearest is of the same family for {formats.percent(share['same_family'])} of "
        f"{formats.count(share['items'])} test items, by chance for {formats.percent(share['by_chance'])}, with "
        f"the same network's random weights for {formats.percent(share['with_random_weights'])}."
    )


def hardest_section(recipe: ReportedRecipe, gathered: Gathered, workspace: Workspace) -> Section:
    """The test pairs on which the main model was most wrong, and the hardest that it got right."""
    title = "The hardest pairs"
    if gathered.hardest is None:
        return Section("hardest", title, "", missing="No pairs have been scored yet: run `mlim evaluate`.")
    if gathered.validation is None:
        return Section("hardest", title, "", missing="The accepted items are missing: run `mlim validate`.")
    store = open_items(recipe.loader, workspace)
    threshold = (gathered.metrics or {}).get("threshold", math.nan)
    rows = gathered.hardest.to_dict("records")
    titles = {"wrong": "Wrong with the greatest certainty", "right": "Right, but only just"}
    blocks = tuple(
        Pairs(heading, tuple(_card(store, row, threshold) for row in rows if row["kind"] == kind))
        for kind, heading in titles.items()
    )
    lead = f"Test pairs; the model says “match” from a score of {formats.score(threshold)} on."
    return Section("hardest", title, lead, tuple(block for block in blocks if block.cards))


def _card(store: ItemStore, row: Mapping[Any, Any], threshold: float) -> PairCard:
    truth = "match" if row["label"] else "mismatch"
    said = "match" if row["score"] >= threshold else "mismatch"
    head = f"model: {said}, {formats.score(row['score'])}"
    return PairCard(_item(store, row["item_a"]), _item(store, row["item_b"]), head, truth)


def _item(store: ItemStore, item: str) -> Card:
    if item not in store:
        return Card(None, item, plain("This item is no longer in the work folder."))
    return Card(data_uri(store.jpeg(item)), item, plain(store.text(item)))


def lineage_section(recipe: ReportedRecipe, gathered: Gathered, lineage: Mapping[str, Any]) -> Section:
    """Everything that is needed to find or repeat these results."""
    blocks: list[Block] = [tables.lineage_table(recipe, gathered, lineage)]
    runs = tables.runs_table(gathered)
    if runs.rows:
        blocks.append(runs)
    blocks.append(Folded("The whole recipe", recipe.as_yaml))
    missing = "" if runs.rows else "No MLflow runs are recorded in this work folder."
    return Section("lineage", "Where this comes from", "", tuple(blocks), missing)
