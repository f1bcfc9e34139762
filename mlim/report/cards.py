"""Cards in the format of Hugging Face: what a model and its data are for, where they come from, what they cannot do.

Pure functions of what the steps left: a README.md each, YAML front matter and all. Equal results give equal text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pandas as pd
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from mlim.references import load_reference
from mlim.report.kit import formats
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import BASELINE_LABELS
from mlim.report.usable import answer, chosen_on, next_steps, reached, tests
from mlim.versions import UNKNOWN

LIBRARY: Final = "mlim"
TASK: Final = "closely matching items"
TAGS: Final = ("multimodal", "product-matching", "masked-language-modeling", "masked-image-modeling")
SMALLEST_GROUP: Final = 20  # pairs; of fewer, a figure is an accident
LARGEST_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
GROUP_NOTE: Final = (
    "PR-AUC at the share of matches of the whole test set; of a kind that has one label only, that of its pairs among "
    "all pairs of the other label. Groups of fewer than {smallest} pairs are left out."
)

Summary = Mapping[str, Any]


def model_card(
    recipe: ReportedRecipe,
    metrics: Summary,
    lineage: Summary,
    catalog: str,
    judged: Summary,
    by_category: pd.DataFrame,
    by_kind: pd.DataFrame,
) -> str:
    """README.md of the main model, the verdict first.

    `metrics` is evaluation/summary.json, `lineage` has commit, dirty, data_version and validation, `judged` the
    objections, the behaviour and why, as registration found them; the two frames come from
    `mlim.evaluation.groups.group_figures`.
    """
    name = recipe.tracking.model_name
    return _document(
        _model_front(name, metrics, lineage, catalog),
        f"# {name}",
        _model_lead(recipe, catalog),
        *_section(answer(metrics, _against(judged)), _use(metrics, judged)),
        *_section("Intended use", _intended_use(recipe, metrics)),
        *_section("Training", _training(recipe, lineage, catalog)),
        *_section("Figures on the test pairs", _figures(metrics)),
        *_groups("By category", by_category),
        *_groups("By kind of variation", by_kind),
        *_section("Limits", _limits(recipe, metrics, by_category, by_kind)),
    )


def _document(front: str, *parts: str) -> str:
    return "\n".join(["---", front.strip(), "---", "", "\n\n".join(part for part in parts if part), ""])


def _model_front(name: str, metrics: Summary, lineage: Summary, catalog: str) -> str:
    reached = metrics["registered"]["pr_auc"]
    result = EvalResult(
        task_type="other",
        task_name=TASK,
        dataset_type="catalog",
        dataset_name=catalog,
        dataset_revision=str(lineage.get("data_version") or UNKNOWN),
        dataset_split="test",
        metric_type="pr_auc",
        metric_name="PR-AUC (average precision)",
        metric_value=round(float(reached["value"]), 6),
    )
    data = ModelCardData(
        model_name=name,
        library_name=LIBRARY,
        tags=[*TAGS, load_reference().identifier],
        metrics=["pr_auc"],
        eval_results=[result],
    )
    return str(data.to_yaml())


def _model_lead(recipe: ReportedRecipe, catalog: str) -> str:
    return (
        f"Decides whether two items of a catalog, each a picture and a text, are closely matching. Pre-trained and "
        f"fine-tuned on `{catalog}` after MLIM (masked language and image modelling, "
        f"{load_reference().identifier}); variant "
        f"“{recipe.main_variant.label}” of recipe `{recipe.name}`."
    )


def _against(judged: Summary) -> list[str]:
    return [found["sentence"] for found in judged["objections"]]


def _use(metrics: Summary, judged: Summary) -> list[str]:
    """Why it can be used, or not yet, and what to do next."""
    against = _against(judged)
    worst = [
        f"Most errors by kind of variation: “{kind['group']}”, {formats.count(kind['wrong'])} of "
        f"{formats.count(kind['pairs'])} pairs."
        for kind in metrics.get("kinds", ())[:1]
        if kind["wrong"]
    ]
    return [
        *against,
        reached(metrics),
        *worst,
        *tests(judged),
        *next_steps(metrics, against, judged),
        f"Registered: {judged['why']}.",
    ]


def _intended_use(recipe: ReportedRecipe, metrics: Summary) -> list[str]:
    needs = {"both": "a picture and a text of each item", "text": "the texts", "image": "the pictures"}
    return [
        "For: pairs of items of catalogs like the one it was trained on, given as "
        f"{needs[recipe.main_variant.modality]}.",
        f"A score of {formats.score(metrics['threshold'])} or more means a match; the threshold was chosen on "
        f"{chosen_on(metrics)} ({metrics.get('threshold_rule', 'rule unknown')}).",
        "Not for: decisions about people, and catalogs of another kind without a new evaluation on pairs of theirs.",
    ]


def _training(recipe: ReportedRecipe, lineage: Summary, catalog: str) -> list[str]:
    model, start = recipe.model, recipe.main_variant.pretraining
    changes = " with uncommitted changes" if lineage.get("dirty") else ""
    how = "none" if start is None else recipe.pretrainings[start].described()
    return [
        f"Data: `{catalog}`, data version `{lineage.get('data_version') or UNKNOWN}`, validation "
        f"{lineage.get('validation') or UNKNOWN}.",
        f"Code: commit `{lineage.get('commit') or UNKNOWN}`{changes}.",
        f"Transformer: {model.layers} layers of width {model.hidden_size}, start `{model.start}`; pictures of "
        f"{recipe.image.size} pixels in {recipe.image.grid} x {recipe.image.grid} patches, texts of up to "
        f"{recipe.text.limit} tokens.",
        f"Pre-training: {how}; {formats.count(recipe.pretrain.steps)} steps of "
        f"{recipe.pretrain.batch_size * recipe.pretrain.accumulate} items.",
        f"Fine-tuning: {formats.count(recipe.finetune.steps)} steps of "
        f"{recipe.finetune.batch_size * recipe.finetune.accumulate} pairs, modality dropout "
        f"{'on' if recipe.main_variant.mdo else 'off'}.",
        "Scores come from the registered scorer: the matcher alone, or a logistic regression over the matcher and "
        "simple systems (trees, words, classifiers of attributes) that was fitted on the validation pairs.",
    ]


def _figures(metrics: Summary) -> list[str]:
    words = {"both": "text and picture", "text": "text only", "image": "picture only"}
    registered = metrics["registered"]
    own = f"Registered, {registered['scorer']}: PR-AUC {_interval(registered['pr_auc'])}"
    shown = [
        f"Matcher, {words.get(name, name)}: PR-AUC {_interval(found)}" for name, found in metrics["pr_auc"].items()
    ]
    baselines = [
        f"{BASELINE_LABELS.get(name, name)}: PR-AUC {_interval(found)}"
        for name, found in metrics.get("baselines", {}).items()
    ]
    decided = (
        f"At the threshold: precision {formats.score(metrics['precision_at_threshold'])}, recall "
        f"{formats.score(metrics['recall_at_threshold'])}."
    )
    prevalence = formats.score(metrics["prevalence"])
    chance = f"{formats.count(metrics['pairs'])} pairs; chance is {prevalence}, the share of matches."
    return [chance, own, *shown, decided, *baselines]


def _interval(found: Mapping[str, float | None]) -> str:
    return formats.interval(found["value"], found["low"], found["high"])


def _certainty(metrics: Summary) -> str:
    why = metrics.get("no_interval")
    if why:
        return f"{why[:1].upper()}{why[1:]}."
    return "The intervals cover the choice of test pairs, not other trainings: this is one training, with one seed."


def _limits(recipe: ReportedRecipe, metrics: Summary, *groups: pd.DataFrame) -> list[str]:
    weakest = [_weakest(frame) for frame in groups]
    trees = "Gradient-boosted trees on simple features score higher on the same pairs: consider them first."
    return [
        _certainty(metrics),
        "Scores are probabilities only after the calibration that serving applies, and for a like share of matches.",
        *([trees] if metrics.get("boosted_trees_win") else []),
        *(sentence for sentence in weakest if sentence),
        f"Texts beyond {recipe.text.limit} tokens are cut; pictures are seen at {recipe.image.size} pixels.",
        "What the pairs call a match follows from the catalog's own attributes; their errors are learned with them.",
    ]


def _large(groups: pd.DataFrame) -> pd.DataFrame:
    return groups[groups["pairs"] >= SMALLEST_GROUP]


def _weakest(groups: pd.DataFrame) -> str:
    large = _large(groups)
    if len(large) < 2:
        return ""
    worst = min(large.to_dict("records"), key=lambda group: float(group["right"]))
    return (
        f"Weakest on “{worst['group']}”: {formats.percent(worst['right'])} of its {worst['pairs']} pairs decided right."
    )


def _section(title: str, sentences: Iterable[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {sentence}" for sentence in sentences)]


def _groups(title: str, groups: pd.DataFrame) -> list[str]:
    large = _large(groups)
    if large.empty:
        return []
    cells = [
        (
            str(row["group"]),
            formats.count(row["pairs"]),
            formats.count(row["matches"]),
            formats.score(row["pr_auc"]),
            formats.percent(row["right"]),
        )
        for row in large.to_dict("records")
    ]
    table = markdown_table(("group", "pairs", "matches", "PR-AUC", "decided right"), cells)
    return [f"### {title}", table, GROUP_NOTE.format(smallest=SMALLEST_GROUP)]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars and line breaks inside cells are kept from breaking it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def data_card(recipe: ReportedRecipe, ingest: Summary, validation: Summary, pairs: Summary, lineage: Summary) -> str:
    """README.md of the data: the summaries of `ingest`, `validate` and `pairs`, and where they come from."""
    catalog = str(ingest.get("catalog", UNKNOWN))
    accepted = int(validation.get("accepted", 0))
    front = DatasetCardData(
        pretty_name=catalog,
        tags=[*TAGS, load_reference().identifier],
        size_categories=[next((name for largest, name in LARGEST_SIZES if accepted < largest), "n>1M")],
    ).to_yaml()
    return _document(
        front,
        f"# {catalog}",
        f"Items (a picture and a text each) and labelled pairs of them, as recipe `{recipe.name}` made them.",
        *_section("Version", _version(ingest, pairs, lineage)),
        *_section("Items", _items(recipe, ingest, validation)),
        *_section("Pairs", _pairs(pairs)),
        *_counts(pairs),
        *_section("Limits", _data_limits(pairs)),
    )


def _version(ingest: Summary, pairs: Summary, lineage: Summary) -> list[str]:
    return [
        f"Data version `{lineage.get('data_version') or UNKNOWN}`, items `{ingest.get('data_version') or UNKNOWN}`.",
        f"Test pairs `{pairs.get('test_pairs_sha256', UNKNOWN)}`.",
        f"Made by commit `{lineage.get('commit') or UNKNOWN}`; validation {lineage.get('validation') or UNKNOWN}.",
    ]


def _items(recipe: ReportedRecipe, ingest: Summary, validation: Summary) -> list[str]:
    quarantined = {**ingest.get("quarantined", {}), **validation.get("quarantined", {})}
    reasons = ", ".join(f"{reason} {formats.count(number)}" for reason, number in quarantined.items())
    return [
        f"{formats.count(ingest.get('rows_in'))} rows came in, {formats.count(ingest.get('ingested'))} became items, "
        f"{formats.count(validation.get('accepted'))} passed validation.",
        f"Quarantined: {reasons or 'none'}.",
        f"Pictures are squares of {recipe.image.size} pixels, stored as JPEG of quality {recipe.image.jpeg_quality}.",
    ]


def _pairs(pairs: Summary) -> list[str]:
    kinds = ", ".join(f"{kind} {formats.count(number)}" for kind, number in pairs.get("kinds", {}).items())
    return [
        "The label of a pair follows from the type of variation between its items, or from a file of labels.",
        "Items of one family, of one picture or of nearly the same picture lie in one split; no pair crosses splits.",
        f"Share of matches among the test pairs: {formats.score(pairs.get('prevalence'))}.",
        *([f"Kinds: {kinds}."] if kinds else []),
    ]


def _counts(pairs: Summary) -> list[str]:
    rows = [
        (split, formats.count(counts.get("1", 0)), formats.count(counts.get("0", 0)))
        for split, counts in pairs.get("counts", {}).items()
    ]
    return [markdown_table(("split", "matches", "mismatches"), rows)] if rows else []


def _data_limits(pairs: Summary) -> list[str]:
    audit = sorted(pairs.get("leak_audit", ()), key=lambda entry: -entry["pr_auc"])
    leaks = [entry["rule"] for entry in audit if entry["leaks"]]
    best = [
        f"The best way that opens no picture reaches PR-AUC {formats.score(entry['pr_auc'])} ({entry['rule']})."
        for entry in audit[:1]
    ]
    return [
        *(best or ["The leak audit has not run."]),
        *([f"The pairs leak: {'; '.join(leaks)}."] if leaks else []),
        "Attributes and families are those of the source; their errors are errors of the labels.",
    ]
