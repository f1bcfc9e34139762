"""How good candidates are: which known matches they keep, and how much of all comparisons they save."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.matching.candidates import NO_RANK

RANKS: Final = (1, 5, 10, 20, 50, 100)
ALL: Final = "all"


def all_pairs(items: int) -> int:
    """How many pairs so many items make."""
    return items * (items - 1) // 2


def shares(candidates: int, items: int) -> dict[str, float]:
    """The share of all pairs that are candidates, and the reduction ratio; of fewer than two items 0 and 1."""
    share = candidates / max(all_pairs(items), 1)
    return {"share_of_all_pairs": share, "reduction_ratio": 1 - share}


def pair_completeness(known: pd.DataFrame, kept: NDArray[np.bool_]) -> dict[str, Any]:
    """The share of the known matches (split, kind) that are `kept` (m,), by split and kind; with their number."""
    frame = known.assign(kept=kept)
    return {
        str(split): {
            ALL: _share(of_split),
            **{str(kind): _share(of_kind) for kind, of_kind in of_split.groupby("kind")},
        }
        for split, of_split in frame.groupby("split")
    }


def recall_at(known: pd.DataFrame, ranks: NDArray[np.int64], most: int) -> dict[str, dict[str, float]]:
    """For each kind of known match (kind): the share found among the k nearest of either item, k up to `most`.

    `ranks` (m,) are those of one way in `Found.ranks_of`.
    """
    near = np.where(ranks > 0, ranks, NO_RANK)
    chosen = {ALL: np.ones(len(known), dtype=bool)} | {
        str(kind): known["kind"] == kind for kind in known["kind"].unique()
    }
    wanted = [*(k for k in RANKS if k < most), most]
    return {
        kind: {str(k): float((near[rows] <= k).mean()) for k in wanted} for kind, rows in chosen.items() if rows.any()
    }


def _share(frame: pd.DataFrame) -> dict[str, Any]:
    return {"share": float(frame["kept"].mean()), "matches": len(frame)}
