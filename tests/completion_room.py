"""A work folder whose texts are joined as ingest joins them, some without a colour."""

import json
from collections.abc import Collection

import pandas as pd

from mlim.catalog.item import join_text
from mlim.workspace import Workspace

FORMULA = "=blue"  # one colour as a spreadsheet would compute it


def write_texts(workspace: Workspace, missing: Collection[str] = (), formula: Collection[str] = ()) -> None:
    """Write the texts of the little catalog anew: `kind` without a label, then `colour`; some items have none.

    Items in `formula` have the colour FORMULA.
    """
    path = workspace.valid / "index.parquet"
    index = pd.read_parquet(path)
    for row, item in enumerate(index["id"]):
        columns = json.loads(index.loc[row, "attributes"])
        colour = "" if item in missing else FORMULA if item in formula else columns["colour"]
        index.loc[row, "text"] = join_text([(None, columns["kind"]), ("colour", colour)])
        index.loc[row, "attributes"] = json.dumps({**columns, "colour": colour})
    index.to_parquet(path, index=False)
