"""Annotations of the little catalog: objects, captions and questions."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.workspace import Workspace

NAMES = {"labels": ["left", "right"], "attributes": {"size": ["small", "large"]}}
ANSWERS = ["red", "green", "blue"]


def annotate(workspace: Workspace) -> None:
    """One or two objects in two thirds of the pictures, captions of all, and one question about every other one."""
    items = pq.read_table(workspace.pairs / "items.parquet", columns=["id", "split"]).to_pylist()
    regions = [
        {
            **{**item, "label": NAMES["labels"][side], "attributes": {"size": NAMES["attributes"]["size"][side]}},
            **{"x0": 0.1 + 0.4 * side, "y0": 0.2, "x1": 0.4 + 0.4 * side, "y1": 0.7, "score": 1.0, "crowd": False},
        }
        for number, item in enumerate(items)
        for side in range(number % 3)
    ]
    texts = ["one", "two"] * len(items)
    captions = [{**item, "caption_id": str(n), "caption": texts[n]} for n, item in enumerate([*items, *items])]
    questions = [
        {
            **{**item, "question_id": str(n), "question": "what colour is it?", "kind": "open", "template": "colour"},
            **{"answers": [{"answer": ANSWERS[n % 3], "score": 1.0}], "entailed": []},
        }
        for n, item in enumerate(items)
        if n % 2
    ]
    workspace.annotations.mkdir()
    for name, rows in (("regions", regions), ("captions", captions), ("questions", questions)):
        with pa.ipc.new_file(str(table_file(workspace.annotations, name)), SCHEMAS[name]) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    (workspace.annotations / "vocabularies.json").write_text(json.dumps({**NAMES, "answers": ANSWERS}))
