"""What captions are worth that no network wrote, beside those that one did: the bar to beat."""

from collections import Counter
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.annotations.tables import CAPTIONS, read_table
from mlim.pairs.labels import TRAIN
from mlim.quality.near_duplicates import hash_numbers
from mlim.workspace import Workspace

FREQUENT: Final = "most frequent caption"
NEAREST: Final = "caption of the most similar image"


class Baseline(NamedTuple):
    """A simple answer to the examples of a table: `scores` has the columns that the task's judge reads."""

    label: str
    scores: pd.DataFrame


def caption_baselines(scores: pd.DataFrame, workspace: Workspace) -> list[Baseline]:
    """The most frequent caption of the train split, and the first one of the train image whose hash is nearest.

    `scores` are a variant's (id, references). None where the train split has no captions.
    """
    if not workspace.annotations.is_dir():
        return []
    told = read_table(workspace.annotations, CAPTIONS, TRAIN).to_pandas()
    if told.empty:
        return []
    counts = Counter(told["caption"])
    frequent = min(counts, key=lambda text: (-counts[text], text))
    return [
        Baseline(FREQUENT, scores.assign(written=frequent)),
        Baseline(NEAREST, scores.assign(written=_nearest(scores["id"], told, workspace))),
    ]


def _nearest(items: pd.Series, told: pd.DataFrame, workspace: Workspace) -> list[str]:
    """The first caption of the train image that differs from each item's in the fewest bits of the perceptual hash."""
    first = told.drop_duplicates("id")
    index = pq.read_table(workspace.valid / "index.parquet", columns=["id", "image_hash"]).to_pandas()
    hashes = index.set_index("id")["image_hash"]
    known, asked = (hash_numbers(hashes.loc[ids].tolist()) for ids in (first["id"], items))
    captions = first["caption"].to_numpy(dtype=object)
    return [str(captions[np.bitwise_count(known ^ one).argmin()]) for one in asked]
