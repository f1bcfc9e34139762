"""Annotations of the little catalog: a question about the colour of every item, statements about two of them."""

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.annotations.tables import QUESTIONS, SCHEMAS, STATEMENTS, make_vocabularies, table_file
from mlim.files import write_json
from mlim.shards.items import ItemStore
from mlim.workspace import Workspace


def annotate(workspace: Workspace, store: ItemStore) -> None:
    """What `mlim annotate` would write."""
    items = pq.read_table(workspace.pairs / "items.parquet", columns=["id", "split"]).to_pylist()
    colours = {item["id"]: store.text(item["id"]).rsplit(" ", 1)[-1] for item in items}
    workspace.annotations.mkdir()
    tables = {QUESTIONS: [*_questions(items, colours)], STATEMENTS: [*_statements(items, colours)]}
    for name, rows in tables.items():
        with pa.ipc.new_file(str(table_file(workspace.annotations, name)), SCHEMAS[name]) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    write_json(workspace.annotations / "vocabularies.json", make_vocabularies(workspace.annotations, "train"))


def _questions(items: list[dict[str, str]], colours: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What colour it is, and one question that follows from that; two people saw green in what is blue."""
    for item in items:
        name, colour = item["id"], colours[item["id"]]
        about = {"id": name, "split": item["split"]}
        seen = [{"answer": colour, "score": 1.0}, *([{"answer": "green", "score": 0.6}] if colour == "blue" else [])]
        entailed = [f"{name}-is"]
        open_question = {"question": "what colour is it?", "kind": "open", "template": "colour", "entailed": entailed}
        yield {**about, "question_id": f"{name}-what", "answers": seen, **open_question}
        yes = [{"answer": "yes", "score": 1.0}]
        binary = {"question": f"is it {colour}?", "kind": "binary", "template": "is", "entailed": []}
        yield {**about, "question_id": f"{name}-is", "answers": yes, **binary}


def _statements(items: list[dict[str, str]], colours: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Whether two neighbours have the same colour."""
    for number, (left, right) in enumerate(itertools.pairwise(items)):
        if left["split"] == right["split"]:
            label = colours[left["id"]] == colours[right["id"]]
            about = {"left": left["id"], "right": right["id"], "split": left["split"], "label": label}
            yield {**about, "statement_id": str(number), "sentence": "both have one colour", "set": str(number // 2)}
