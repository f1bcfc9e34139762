"""What a task's section shows beside its table: one `match` over the tasks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_never

import pandas as pd

from mlim.evaluation.evidence import TEST
from mlim.evaluation.scores import SCORES_FILE, part
from mlim.recipe.finetune import Variant
from mlim.recipe.tasks import OtherTask
from mlim.report.examples.answers import answer_cards, attention_cards, statement_cards
from mlim.report.examples.captions import caption_cards
from mlim.report.examples.detections import detection_cards
from mlim.report.examples.pictures import Pictures
from mlim.report.examples.retrieved import retrieved_blocks
from mlim.report.kit.blocks import Block
from mlim.report.kit.images import Thumbnails
from mlim.report.reported import ReportedRecipe
from mlim.shards.items import open_items
from mlim.workspace import Workspace

SIDE, QUALITY, MAX_MEGABYTES = 160, 80, 1.5  # of the pictures of all examples together


def example_blocks(recipe: ReportedRecipe, workspace: Workspace) -> dict[str, tuple[Block, ...]]:
    """By task: examples of its first variant that has been scored, of the first seed; nothing without items."""
    if not workspace.valid.is_dir():
        return {}
    pictures = Pictures(open_items(recipe.loader, workspace), Thumbnails(SIDE, QUALITY, MAX_MEGABYTES))
    return {task: tuple(_blocks(task, recipe, workspace, pictures)) for task in _tasks(recipe)}


def _tasks(recipe: ReportedRecipe) -> list[OtherTask]:
    return list(dict.fromkeys(each.task for each in recipe.other_variants.values() if each.task != "match"))


def _blocks(task: OtherTask, recipe: ReportedRecipe, workspace: Workspace, pictures: Pictures) -> Iterator[Block]:
    variants = {name: variant for name, variant in recipe.other_variants.items() if variant.task == task}
    files = {name: workspace.finetuned(name, recipe.seeds[0]) / SCORES_FILE for name in variants}
    name = next(
        (name for name, variant in variants.items() if variant.modality == "both" and files[name].is_file()), None
    )
    if name is None:
        return
    scores, label, annotations = _read(files[name]), variants[name].label, workspace.annotations
    match task:
        case "retrieval":
            yield from retrieved_blocks(label, scores, pictures)
        case "caption":
            yield from caption_cards(label, scores, pictures)
        case "answer":
            yield from answer_cards(label, scores, _blind(name, variants, files), annotations, pictures)
            yield from _attention(variants, files, annotations, pictures)
        case "statement":
            yield from statement_cards(label, scores, _blind(name, variants, files), annotations, pictures)
        case "detect":
            yield from detection_cards(label, scores, pictures)
        case _:
            assert_never(task)


def _attention(
    variants: Mapping[str, Variant], files: Mapping[str, Path], annotations: Path, pictures: Pictures
) -> Iterator[Block]:
    """Where the words look, of every variant whose system tells it."""
    for name, variant in variants.items():
        if variant.modality == "both" and files[name].is_file():
            yield from attention_cards(variant.label, _read(files[name]), annotations, pictures)


def _read(path: Path) -> pd.DataFrame:
    """What was said of the test split."""
    return part(pd.read_parquet(path), split=TEST)


def _blind(name: str, variants: Mapping[str, Variant], files: Mapping[str, Path]) -> tuple[str, pd.DataFrame] | None:
    """The label and the scores of a variant that reads the text alone, of the same pre-training where there is one."""
    alone = [each for each, variant in variants.items() if variant.modality == "text" and files[each].is_file()]
    alone.sort(key=lambda each: variants[each].pretraining != variants[name].pretraining)
    return (variants[alone[0]].label, _read(files[alone[0]])) if alone else None
