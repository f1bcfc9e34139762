"""`mlim complete`: what is missing from an attribute, and what contradicts, by a pre-trained model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.completion.baselines import by_frequency, by_trees
from mlim.completion.cells import Cell, read_cells
from mlim.completion.compared import HEAD, MODEL, MOST_FREQUENT, TREES, WITHOUT_PICTURE
from mlim.completion.fill import CellFiller
from mlim.completion.judging import Judge
from mlim.completion.probe import Completer, Known, Reading
from mlim.completion.review import Rule, contradictions, likeliest
from mlim.completion.values import ABSENT, Candidates
from mlim.config import MAX_NAME_CHARACTERS, PLAIN_NAME, nearest
from mlim.console import Terminal
from mlim.data.loader import chunks
from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, write_csv, write_json
from mlim.models.systems import load_system
from mlim.pairs.labels import TEST, TRAIN, VALIDATION
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.steps.as_trained import as_trained
from mlim.steps.trained import named
from mlim.tracking import ATTRIBUTE_TAG, CATALOG_TAG, COMPLETE_STAGE, StageRun, stage_run
from mlim.training.device import choose_device
from mlim.versions import lineage
from mlim.workspace import INDEX_FILE, Workspace

FEWEST: Final = {TRAIN: 20, VALIDATION: 5, TEST: 5}  # known values that are learned from, calibrated and judged on
FEWEST_VALUES: Final = 2
MOST_HELD: Final = 10_000  # items of a split that trees learn from, or that the model is calibrated or judged on
MOST_READ: Final = 4_000  # training items whose cells the model reads to learn from
CHUNK: Final = 10_000  # items whose scores are in memory at a time
NAME_DIGITS: Final = 16
SUMMARY_FILE: Final = "summary.json"

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def complete(
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    attribute: str,
    *,
    pretraining: str | None = None,
    seed: int | None = None,
    top: int = 3,
    sigmas: float = 3.0,
    below: float | None = None,
) -> dict[str, Any]:
    """Write the `top` likeliest values of `attribute` for every item, and which written ones contradict.

    A pre-training (None: the main variant's, its first seed) reads text and picture; a written value is hidden
    everywhere in the text. A classifier of its outputs and of its MLM head's answer learns from training items, is
    calibrated on validation items and judged on test items, beside the head alone, the most frequent value and boosted
    trees. A value contradicts `sigmas` below the usual evidence, or with a probability `below`. Writes a
    folder of workspace.completions and returns its summary. `InputError` when something is missing or unknown,
    `DataError` when too few values are known.
    """
    folder, name = _trained(recipe, workspace, pretraining, recipe.seeds[0] if seed is None else seed)
    items = _read_items(workspace, attribute)
    tokenizer = TextTokenizer.from_folder(folder / "model")
    job = _Job(items, tokenizer, recipe.seed)
    job.check(attribute)
    origin, out = lineage(workspace), workspace.completions / folder_name(attribute)
    with stage_run(recipe.record, workspace, COMPLETE_STAGE, attribute, origin) as run:
        run.tag(CATALOG_TAG, origin.catalog)
        model = load_system(folder / "model").build().to(choose_device(recipe.device))
        limit, batch = as_trained(recipe, folder).text.limit, recipe.evaluate.batch_size
        source = open_items(recipe.loader, workspace)
        filler = CellFiller(model, tokenizer, source, job.candidates, limit, batch)
        completer, rule, measured = _judge(recipe, job, filler, top, sigmas, below)
        table = _complete_all(items, job, filler, completer, rule, top, terminal)
        summary = {
            "attribute": attribute,
            **name,
            **job.counts,
            "classifier": {"strength": completer.strength, "temperature": completer.calibration.temperature},
            "test": measured,
            "contradictions": {
                **contradictions(table),
                **{"sigmas": sigmas, "below": below, **rule.usual._asdict()},
            },
        }
        with atomic_folder(out) as made:
            _write(table, made)
            write_json(made / SUMMARY_FILE, summary)
        _record(run, summary, out)
    _say(summary, terminal)
    return summary


def _record(run: StageRun, summary: Mapping[str, Any], folder: Path) -> None:
    """Keep with a run by what `mlim results` finds the figures."""
    run.tag(ATTRIBUTE_TAG, summary["attribute"])
    for name, figure in summary["test"]["exact_match"].items():
        run.metric(f"exact_match.{name}", figure["value"])
    for name in (SUMMARY_FILE, "contradictions.csv"):
        run.artifact(folder / name)


def folder_name(attribute: str) -> str:
    """What the folder of an attribute is called: its name, or a digest where that could lead elsewhere."""
    plain = len(attribute) <= MAX_NAME_CHARACTERS and PLAIN_NAME.fullmatch(attribute)
    return attribute if plain else sha256(attribute.encode()).hexdigest()[:NAME_DIGITS]


def _trained(
    recipe: Recipe, workspace: Workspace, pretraining: str | None, seed: int
) -> tuple[Path, Mapping[str, Any]]:
    """The folder of a pre-training that predicts tokens, and what names it."""
    name = recipe.main_variant.pretraining if pretraining is None else pretraining
    others = [key for key, each in recipe.pretrainings.items() if any(t.needs == "tokens" for t in each.all_tasks)]
    if name is None:
        raise InputError(
            f"variant `{recipe.main}` has no pre-training; name one with --pretraining{nearest('', others)}"
        )
    entry = named("pretrainings", recipe.pretrainings, name)
    if all(task.needs != "tokens" for task in entry.all_tasks):
        raise InputError(
            f"pre-training `{name}` was trained on {', '.join(entry.loss_names)} and predicts no text; name one with "
            f"mlm by --pretraining{nearest('', others)}"
        )
    folder = workspace.pretrained(name, seed)
    if not (folder / "model").is_dir():
        raise InputError(f"{folder / 'model'} is missing; run `mlim pretrain {name} --seed {seed}` first")
    return folder, {"pretraining": name, "seed": seed}


def _read_items(workspace: Workspace, attribute: str) -> pd.DataFrame:
    """The accepted items: id, split, component, and the `cell` of the attribute (None where it is not found)."""
    paths = {workspace.valid / INDEX_FILE: "mlim validate", workspace.pairs / "items.parquet": "mlim pairs"}
    missing = [f"{path} is missing; run `{command}` first" for path, command in paths.items() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    index, members = paths
    items = pd.read_parquet(index, columns=["id", "text", "attributes", "facts"])
    attributes = [json.loads(one) for one in items["attributes"]]
    _check_column(attribute, attributes, items["facts"])
    items["cell"] = pd.Series(read_cells([*items["text"]], attributes, attribute), dtype=object)
    splits = pd.read_parquet(members, columns=["id", "split", "component"])
    return items[["id", "cell"]].merge(splits, on="id", how="inner", validate="1:1")


def _check_column(attribute: str, attributes: Sequence[Mapping[str, str]], facts: "pd.Series[str]") -> None:
    """`InputError` unless the attribute is a text column."""
    columns = [*dict.fromkeys(name for one in attributes for name in one)]
    if attribute in columns:
        return
    if any(attribute in json.loads(one) for one in facts.head(1)):
        raise InputError(
            f"--attribute {attribute}: the model does not read this column; add it to columns.text in catalog.yaml and "
            f"start again with `mlim ingest`, or choose another{nearest('', columns)}"
        )
    raise InputError(f"--attribute {attribute}: no text column of the catalog{nearest(attribute, columns)}")


@dataclass(frozen=True)
class _Job:
    """The cells of an attribute: which values there are, and which items have which."""

    items: pd.DataFrame
    tokenizer: TextTokenizer
    seed: int

    @cached_property
    def known(self) -> pd.DataFrame:
        """The items whose value is known."""
        return self.items[[bool(cell is not None and cell.value) for cell in self.items["cell"]]]

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates.learn(
            [cell.value for cell in self.known.loc[self.known["split"] == TRAIN, "cell"]], self.tokenizer
        )

    @property
    def counts(self) -> dict[str, int]:
        places = self.places(self.known)
        unread = int(self.items["cell"].isna().sum())
        return {
            "items": len(self.items),
            "known": len(self.known),
            "missing": len(self.items) - len(self.known) - unread,
            "not_found": unread,
            "rare": int((places == ABSENT).sum()),
            "values": len(self.candidates.values),
        }

    def places(self, items: pd.DataFrame) -> Places:
        """The places (n,) of the written values among the candidates."""
        values = ["" if cell is None else cell.value for cell in items["cell"]]
        return np.array(self.candidates.places(values, self.tokenizer), dtype=np.int64)

    def held(self, split: str, most: int = MOST_HELD) -> pd.DataFrame:
        """Items of a split with a known value, at most so many, drawn by the seed."""
        items = self.known[self.known["split"] == split]
        return items.sample(min(len(items), most), random_state=self.seed).sort_index()

    def check(self, attribute: str) -> None:
        """`DataError` when too few values are known."""
        for split, fewest in FEWEST.items():
            number = int((self.known["split"] == split).sum())
            if number < fewest:
                raise DataError(
                    f"--attribute {attribute}: only {number} {split} items have a value in their text, and {fewest} "
                    "are needed; choose an attribute that more items have"
                )
        if len(self.candidates.values) < FEWEST_VALUES:
            raise DataError(
                f"--attribute {attribute}: its values hardly repeat ({len(self.candidates.values)} of them stands in "
                "two training items or more), so that there is nothing to choose from; choose another attribute"
            )
        if not (self.places(self.held(VALIDATION)) != ABSENT).any():
            raise DataError(
                f"--attribute {attribute}: no validation item has a value of the training items; choose another "
                "attribute"
            )


def _hidden(items: pd.DataFrame) -> dict[str, Cell]:
    """The cells of items by id, written values hidden everywhere in the text."""
    return {str(item): cell.hidden() for item, cell in zip(items["id"], items["cell"], strict=True)}


def _read(job: _Job, filler: CellFiller, split: str, pictures: bool, most: int = MOST_HELD) -> Known:
    """At most so many cells of a split, read with their pictures or with all of these masked; of known values."""
    items = job.held(split, most)
    places = job.places(items)
    known = places != ABSENT
    return Known(filler.read(_hidden(items), pictures).of(known), places[known])


class _Fitted(NamedTuple):
    """A completer, with the validation cells that calibrated it, and what the network makes of the test cells."""

    completer: Completer
    validation: Known
    test: Reading


def _fit(job: _Job, filler: CellFiller, pictures: bool = True) -> _Fitted:
    training = _read(job, filler, TRAIN, pictures, MOST_READ)
    validation = _read(job, filler, VALIDATION, pictures)
    completer = Completer.fit(training, validation, job.candidates, job.seed)
    return _Fitted(completer, validation, filler.read(_hidden(job.held(TEST)), pictures))


def _judge(
    recipe: Recipe, job: _Job, filler: CellFiller, top: int, sigmas: float, below: float | None
) -> tuple[Completer, Rule, dict[str, Any]]:
    """The completer, the rule that validation items give, and what both are worth on test items."""
    test, (completer, validation, reading) = job.held(TEST), _fit(job, filler)
    usual = completer.probabilities(validation.reading)
    rule = Rule.learn(usual, validation.places, job.candidates.shares, sigmas, below)
    blind = _fit(job, filler, pictures=False)
    found = {
        MODEL: completer.probabilities(reading),
        HEAD: completer.by_head(reading),
        WITHOUT_PICTURE: blind.completer.probabilities(blind.test),
        MOST_FREQUENT: by_frequency(job.candidates, len(test)),
        TREES: _trees(job, [cell.rest for cell in _hidden(test).values()]),
    }
    true, families, settings = job.places(test), test["component"].to_numpy(dtype=np.int64), recipe.evaluate
    judge = Judge(true, families, settings.bootstrap_samples, settings.confidence, recipe.seed)
    power = rule.power(found[MODEL], true, recipe.seed)
    return completer, rule, {**judge.figures(found, top), "contradictions": power}


def _trees(job: _Job, judged: Sequence[str]) -> Floats:
    training = job.held(TRAIN)
    places = job.places(training)
    texts = [cell.rest for cell in _hidden(training).values()]
    learned = [text for text, place in zip(texts, places, strict=True) if place != ABSENT]
    return by_trees(learned, places[places != ABSENT], judged, job.candidates, job.seed)


def _complete_all(
    items: pd.DataFrame,
    job: _Job,
    filler: CellFiller,
    completer: Completer,
    rule: Rule,
    top: int,
    terminal: Terminal,
) -> pd.DataFrame:
    """One row for each item whose cell is found."""
    readable = items[items["cell"].notna()]
    parts: list[pd.DataFrame] = []
    with terminal.progress("complete", len(readable)) as bar:
        for places in chunks(range(len(readable)), CHUNK):
            part = readable.iloc[[*places]].reset_index(drop=True)
            probabilities = completer.probabilities(filler.read(_hidden(part)))
            judged = rule.judge(probabilities, job.places(part))
            values = likeliest(probabilities, job.candidates, top)
            written = pd.Series([cell.value or None for cell in part["cell"]], dtype=object)
            parts.append(pd.concat([part[["id", "split"]].assign(written=written), judged, values], axis=1))
            bar.advance(len(part))
    return pd.concat(parts, ignore_index=True)


def _write(table: pd.DataFrame, folder: Path) -> None:
    """All cells, and those that contradict, the clearest first."""
    doubtful = table[table["contradicts"].fillna(False).astype(bool)].sort_values("sigmas", kind="stable")
    for name, rows in (("cells", table), ("contradictions", doubtful)):
        rows.to_parquet(folder / f"{name}.parquet", index=False)
        write_csv(folder / f"{name}.csv", _plain(rows), list(rows.columns))


def _plain(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows without pandas' own mark for what is not known."""
    for row in rows.to_dict("records"):
        yield {str(name): None if value is pd.NA else value for name, value in row.items()}


def _say(summary: Mapping[str, Any], terminal: Terminal) -> None:
    test, doubtful = summary["test"], summary["contradictions"]
    reached = {name: one["value"] for name, one in test["exact_match"].items()}
    terminal.say(
        f"{summary['attribute']}: {reached[MODEL]:.1%} of {test['cells']:,} held-back cells are restored exactly, "
        f"{reached[MOST_FREQUENT]:.1%} by the most frequent value, {reached[TREES]:.1%} by trees on the text, "
        f"{reached[WITHOUT_PICTURE]:.1%} without the picture, {reached[HEAD]:.1%} by the MLM head alone"
    )
    terminal.say(
        f"{summary['missing']:,} of {summary['items']:,} items have no value; {doubtful['cells']:,} written ones "
        "contradict"
    )
