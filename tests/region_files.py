"""Annotations and LXMERT's files of regions for the tiny work folder."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.annotations.tables import SCHEMAS, table_file
from mlim.workspace import Workspace

LABELS, SIZES = ["left", "right"], ["small", "large"]
NAMES = {"labels": LABELS, "attributes": {"size": SIZES}}


def annotate(workspace: Workspace, **attributes: str) -> None:
    """None, one or two objects in the pictures, in turns; `attributes` are further ones of each."""
    items = pq.read_table(workspace.pairs / "items.parquet", columns=["id", "split"]).to_pylist()
    rows = [
        {
            **{
                **item,
                "label": LABELS[side],
                "attributes": {"size": SIZES[side], **attributes},
                "score": 0.5 + side / 2,
            },
            **{"x0": 0.1 + 0.4 * side, "y0": 0.2, "x1": 0.4 + 0.4 * side, "y1": 0.7, "crowd": False},
        }
        for number, item in enumerate(items)
        for side in range(number % 3)
    ]
    workspace.annotations.mkdir(exist_ok=True)
    with pa.ipc.new_file(str(table_file(workspace.annotations, "regions")), SCHEMAS["regions"]) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["regions"]))
    names = {"labels": LABELS, "attributes": {"size": SIZES, **{kind: [value] for kind, value in attributes.items()}}}
    (workspace.annotations / "vocabularies.json").write_text(json.dumps(names))


def packed(values: Any, kind: str) -> str:
    """A column of numbers as the files hold them."""
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()


def tsv_line(picture: str, seed: int = 0, size: int = 6, **changes: str) -> str:
    """A picture of 200 x 100 pixels with two regions, the second of them surer, with features of `size` numbers."""
    cells = {
        "img_id": picture, "img_h": "100", "img_w": "200", "objects_id": packed([1, 0], "<i8"),
        "objects_conf": packed([0.5, 0.75], "<f4"), "attrs_id": packed([2, 0], "<i8"),
        "attrs_conf": packed([0.25, 1], "<f4"), "num_boxes": "2",
        "boxes": packed([[0, 0, 100, 50], [50, 25, 200, 100]], "<f4"),
        "features": packed(np.random.default_rng(seed).random((2, size)), "<f4"),
    } | changes  # fmt: skip
    return "\t".join(cells.values()) + "\n"


def write_tsv(path: Path, pictures: int = 38) -> Path:
    """Regions of the first items of the tiny work folder in another order, and of a picture that it does not have."""
    lines = [tsv_line(f"item-{number:03d}", number) for number in reversed(range(pictures))]
    path.write_text("".join([tsv_line("elsewhere"), *lines]))
    return path
