"""`mlim annotate`: read boxes, captions, questions and statements, check them, and write the tables that tasks read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.annotations.columns import ItemValues, ValueReader, annotate_columns, stored_values
from mlim.annotations.measures import Found, find_items, measure, measure_together
from mlim.annotations.names import Names
from mlim.annotations.pictures import Pictures
from mlim.annotations.priors import Posed, measure_priors
from mlim.annotations.records import Annotation, Region, Statement
from mlim.annotations.sources import picture_numbers, read_boxes, read_files
from mlim.annotations.tables import (
    SCHEMAS,
    VOCABULARIES_FILE,
    load_answers,
    load_questions,
    make_vocabularies,
    most_frequent,
    row_of,
    table_file,
    table_of,
)
from mlim.catalog.annotation_rules import AnnotationRules
from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.item import QUARANTINE_SCHEMA
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, QuarantineWriter, describe_reasons
from mlim.catalog.row_writer import RowWriter
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_folder, write_json
from mlim.pairs.labels import SPLITS, TEST, TRAIN
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.validation import Finding, Rule, SuiteCheck, Validation, require
from mlim.workspace import Workspace

SUITE = "annotations"
CHUNK = 20_000  # annotations that are checked at a time
EDGE = 0.01  # of a picture's side: a box that leaves it by less is cut off there
SHOWN_CHARACTERS = 80
DIGITS = 4


def annotate(
    recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, if_any: bool = False
) -> dict[str, Any]:
    """Write regions, captions, questions and statements (.arrow), vocabularies.json, quarantine.parquet, summary.json.

    Returns the summary. `InputError` for a catalog without annotations (with `if_any` it gets empty vocabularies), for
    one that was not split, a file that is not of its layout, and a picture that several items may be; `DataError` when
    too many annotations are of pictures that the catalog does not have.
    """
    description = load_description(catalog)
    rules = description.annotations
    if rules is None and not if_any:
        raise InputError(f"{catalog}: has no section `annotations`; docs/scenes.md says what it can hold")
    if rules is None:
        return _annotate_nothing(workspace, terminal, {})
    pictures, unboxed = Pictures(_splits(workspace), picture_numbers(rules.files)), Counter[str]()
    items = list(_items(recipe, rules, description, workspace)) if rules.columns else []
    annotations = _all(rules, description, items, recipe.seed, unboxed)
    first = next(annotations, None)
    if first is None and not if_any:
        raise InputError(
            f"{catalog}: nothing that the section `annotations` names is an annotation; docs/scenes.md says what it "
            "can hold"
        )
    if first is None:
        return _annotate_nothing(workspace, terminal, unboxed)
    with atomic_folder(workspace.annotations) as folder, atomic_folder(workspace.annotation_docs) as docs:
        validation, counts = Validation(docs), Counter[tuple[str, str]]()
        check, labels = validation.start(SUITE), _kept_labels(rules, items, pictures)
        with ExitStack() as stack:
            quarantine = QuarantineWriter(stack.enter_context(RowWriter(folder / QUARANTINE_FILE, QUARANTINE_SCHEMA)))
            writers = {name: stack.enter_context(writer) for name, writer in _open_tables(folder).items()}
            judge = _Judge(check, pictures, rules, labels, quarantine)
            for chunk in _chunks(chain([first], annotations)):
                _write(writers, judge.accepted(chunk), pictures, counts)
        findings = judge.conclude()
        validation.write_docs()
        require([finding for finding in findings if not finding.row_level])
        write_json(folder / VOCABULARIES_FILE, make_vocabularies(folder, TRAIN, rules.limits.attributes))
        summary = {**_summary(folder, rules, counts, quarantine.counts), "unboxed": dict(sorted(unboxed.items()))}
        write_json(folder / "summary.json", summary)
    _report(summary, terminal)
    return summary


def _report(summary: Mapping[str, Any], terminal: Terminal) -> None:
    """What was kept and quarantined, and how many questions nothing can answer."""
    if beyond := sum(summary["unanswerable"].values()):
        terminal.warn(f"{beyond} questions have no answer that the train split has; nothing can answer them")
    kept = ", ".join(f"{sum(by.values())} {name}" for name, by in summary["counts"].items())
    terminal.say(f"{kept}; quarantined: {describe_reasons(summary['quarantined']) or 'none'}")


def _annotate_nothing(workspace: Workspace, terminal: Terminal, unboxed: Mapping[str, int]) -> dict[str, Any]:
    """Empty vocabularies and the summary of a catalog without annotations."""
    with atomic_folder(workspace.annotations) as folder:
        for writer in _open_tables(folder).values():
            writer.close()
        write_json(folder / VOCABULARIES_FILE, make_vocabularies(folder, TRAIN))
        summary = {**_summary(folder, AnnotationRules(), {}, {}), "unboxed": dict(sorted(unboxed.items()))}
        write_json(folder / "summary.json", summary)
    terminal.say("the catalog has no annotations")
    return summary


def _open_tables(folder: Path) -> dict[str, Any]:
    """The writer of every table, by its name; one to which nothing is written is there without rows."""
    return {name: pa.ipc.new_file(str(table_file(folder, name)), schema) for name, schema in SCHEMAS.items()}


def _splits(workspace: Workspace) -> dict[str, str]:
    """The split of every accepted item."""
    path = workspace.pairs / "items.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim pairs` first, which splits the items")
    table = pq.read_table(path, columns=["id", "split"])
    return dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _all(
    rules: AnnotationRules,
    description: CatalogDescription,
    items: Sequence[ItemValues],
    seed: int,
    unboxed: Counter[str],
) -> Iterator[Annotation]:
    """What the files say, then what the columns say of `items`; attributes that decide pairs are refused.

    `unboxed` counts pictures without a plain border, or without a label, where each should have a box.
    """
    refused = set(description.pairs.decided_by) - set(rules.may_tell)
    for annotation in read_files(rules.files):
        told = [kind for kind, _ in annotation.attributes if kind in refused] if isinstance(annotation, Region) else []
        if told:
            raise InputError(
                f"{annotation.place.file}: line {annotation.place.row}: the attribute `{told[0]}` decides which pairs "
                f"match (pairs.decided_by); leave it out, or say `annotations.may_tell: [{told[0]}]`"
            )
        yield annotation
    yield from annotate_columns(rules, items, seed, unboxed)


def _kept_labels(rules: AnnotationRules, items: Sequence[ItemValues], pictures: Pictures) -> Set[str] | None:
    """The labels that boxes may have: the most frequent ones of the train split, in files and columns; None: any."""
    most, column = rules.limits.labels, None if rules.regions is None else rules.regions.label
    if most is None:
        return None
    told = [(item.id, item.values[column]) for item in items if column in item.values] if column else []
    boxed = ((pictures.find(box.picture, box.place), box.label) for box in read_boxes(rules.files))
    counts = Counter(label for item, label in chain(told, boxed) if item is not None and pictures.split(item) == TRAIN)
    return {*most_frequent(counts, most)}


def _items(
    recipe: Recipe, rules: AnnotationRules, description: CatalogDescription, workspace: Workspace
) -> Iterator[ItemValues]:
    """The accepted items, with their pictures where boxes are found in them.

    `InputError` when they were read before the catalog named a column that the annotations need.
    """
    store = open_items(recipe.loader, workspace) if rules.regions is not None else None
    index = pq.read_table(workspace.valid / "index.parquet", columns=["id", "attributes", "facts"]).to_pylist()
    stored = stored_values(index[0]) if index else {}
    if lacking := [column for column in rules.columns if index and column not in stored]:
        raise InputError(
            f"`annotations` of the catalog reads {', '.join(lacking)}, which the items in {workspace.root} were "
            "ingested without; run `mlim ingest`, `mlim validate` and `mlim pairs` again, or choose another --work"
        )
    reader = ValueReader(rules, description)
    for row, item in enumerate(index, start=1):
        yield reader.read(row, item, None if store is None else store.jpeg(item["id"]))


def _chunks(annotations: Iterable[Annotation]) -> Iterator[list[Annotation]]:
    """Chunks of any annotations but statements, which come last and whole: a sentence is judged with all its pairs."""
    stated: list[Annotation] = []
    pending: list[Annotation] = []
    for annotation in annotations:
        (stated if isinstance(annotation, Statement) else pending).append(annotation)
        if len(pending) == CHUNK:
            yield pending
            pending = []
    yield from (chunk for chunk in (pending, stated) if chunk)


def _cut(annotation: Annotation) -> Annotation:
    """A box that leaves its picture by a rounding error, cut off there."""
    if not isinstance(annotation, Region):
        return annotation
    x0, y0, x1, y1 = (min(max(side, 0.0), 1.0) if -EDGE <= side <= 1 + EDGE else side for side in annotation.box)
    return replace(annotation, box=(x0, y0, x1, y1))


class _Judge:
    """Judges chunks of annotations; those that are rejected go to quarantine at once."""

    def __init__(
        self,
        check: SuiteCheck,
        pictures: Pictures,
        rules: AnnotationRules,
        labels: Set[str] | None,
        quarantine: QuarantineWriter,
    ) -> None:
        self._check, self._pictures, self._labels, self._quarantine = check, pictures, labels, quarantine
        self._parameters = _parameters(rules)
        self._rules = {rule.id: rule for rule in check.rules(self._parameters)}
        self._taken = set[int]()
        self._seen = self._unknown = 0

    def accepted(self, chunk: Sequence[Annotation]) -> list[Found]:
        """Those that pass, each by itself and then beside the others that do."""
        found = [find_items(_cut(annotation), self._pictures) for annotation in chunk]
        self._seen += len(found)
        self._unknown += sum(None in entry.items for entry in found)
        good = self._passing(found, measure(found, self._pictures, TRAIN, self._labels))
        return self._passing(good, measure_together(good, self._taken))

    def _passing(self, found: Sequence[Found], measured: pd.DataFrame) -> list[Found]:
        """Those that no expectation rejects; of the others the first one that does is quarantined with them."""
        bad: dict[int, str] = {}
        for rejection in self._check.rows(measured, self._parameters):
            for row in rejection.rows.tolist():
                bad.setdefault(row, rejection.id)
        for row, expectation in sorted(bad.items()):
            self._quarantine.add(_quarantined(found[row].annotation, self._rules[expectation]))
        return [entry for row, entry in enumerate(found) if row not in bad]

    def conclude(self) -> list[Finding]:
        """The findings, with those of all annotations together."""
        self._check.whole(pd.DataFrame({"is_known": [1 - self._unknown / self._seen]}), self._parameters)
        return self._check.findings()


def _parameters(rules: AnnotationRules) -> dict[str, Any]:
    limits = rules.limits
    return {"min_box_area": limits.min_box_area, "min_known_share": 1 - limits.max_unknown_share}


def _write(
    writers: Mapping[str, Any], accepted: Sequence[Found], pictures: Pictures, counts: Counter[tuple[str, str]]
) -> None:
    """Append to the tables."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for entry in accepted:
        items = [item for item in entry.items if item is not None]
        table, split = table_of(entry.annotation), pictures.split(items[0])
        rows[table].append(row_of(entry.annotation, items, split))
        counts[table, split] += 1
    for name, members in rows.items():
        if members:
            writers[name].write_table(pa.Table.from_pylist(members, schema=SCHEMAS[name]))


def _quarantined(annotation: Annotation, rule: Rule) -> Quarantined:
    names = annotation.left if isinstance(annotation, Statement) else annotation.picture
    detail = f"{rule.problem}: {_shown(annotation)}; {rule.advice}"
    return Quarantined(annotation.place.file, annotation.place.row, names.first, "annotate", rule.code, detail)


def _shown(annotation: Annotation) -> str:
    """What identifies an annotation for a person."""
    shown = {name: value.first if isinstance(value, Names) else value for name, value in vars(annotation).items()}
    text = ", ".join(f"{name} {value}" for name, value in shown.items() if name not in ("place", "entailed", "outside"))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _summary(
    folder: Path, rules: AnnotationRules, counts: Mapping[tuple[str, str], int], quarantined: Mapping[str, int]
) -> dict[str, Any]:
    priors = measure_priors(_posed(folder, TRAIN), list(_posed(folder, TEST)))
    return {
        "counts": {name: {split: counts.get((name, split), 0) for split in SPLITS} for name in SCHEMAS},
        "quarantined": dict(quarantined),
        "unanswerable": _unanswerable(folder),
        "may_tell": list(rules.may_tell),
        "priors": {
            key: {
                "questions": found.questions,
                "majority": round(found.majority, DIGITS),
                "words": round(found.words, DIGITS),
            }
            for key, found in priors.items()
        },
    }


def _unanswerable(folder: Path) -> dict[str, int]:
    """How many questions of the other splits have only answers that no question of the train split has."""
    known = set(load_answers(folder))
    return {
        split: sum(known.isdisjoint(row.answers) for row in load_questions(folder, split))
        for split in SPLITS
        if split != TRAIN
    }


def _posed(folder: Path, split: str) -> Iterator[Posed]:
    return (Posed(row.kind, row.template, row.question, row.answers) for row in load_questions(folder, split))
