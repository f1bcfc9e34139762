"""Scores of candidates that an earlier match has scored already, beside those that are computed now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.files import atomic_file
from mlim.matching.batch import ADDED
from mlim.matching.candidates import CANDIDATE_SCHEMA
from mlim.matching.earlier import GONE, ROWS_AT_ONCE, EarlierScores
from mlim.matching.groups import Places
from mlim.matching.pairs_table import write_table

SCORED: Final[Any] = pa.schema([*CANDIDATE_SCHEMA, *ADDED])


def write_unscored(candidates: Path, earlier: EarlierScores, out: Path) -> Places:
    """Write the candidates that `earlier` has no score of to `out`; where the others (n,) are in it, else GONE."""
    found = [np.empty(0, dtype=np.int64)]
    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, CANDIDATE_SCHEMA) as writer:
        for batch in pq.ParquetFile(candidates).iter_batches(ROWS_AT_ONCE):
            found.append(earlier.find(earlier.numbering.of_batch(batch)))
            writer.write_table(pa.Table.from_batches([batch]).filter(pa.array(found[-1] == GONE)))
    return np.concatenate(found)


def unite_scores(
    candidates: Path, found: Places, earlier: EarlierScores, scored: Path, threshold: float, out: Path
) -> None:
    """Write all candidates with their scores to `out`: those `found` in `earlier`, the others from the table `scored`.

    The table is the one that scoring all of them writes.
    """
    write_table(out, SCORED, _united(candidates, found, earlier, pq.read_table(scored), threshold))


def _united(candidates: Path, found: Places, earlier: EarlierScores, scored: Any, threshold: float) -> Iterator[Any]:
    start = taken = 0
    for batch in pq.ParquetFile(candidates).iter_batches(ROWS_AT_ONCE):
        at = found[start : start + len(batch)]
        known = at != GONE
        fresh = scored.slice(taken, int((~known).sum())).select(ADDED.names)
        both = pa.concat_tables([_as_added(earlier, at[known], threshold), fresh.cast(ADDED)])
        order = np.empty(len(batch), dtype=np.int64)
        order[np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])] = np.arange(len(batch))
        added = both.take(pa.array(order))
        yield pa.Table.from_arrays([*batch.columns, *added.columns], schema=SCORED)
        start, taken = start + len(batch), taken + len(fresh)


def _as_added(earlier: EarlierScores, rows: Places, threshold: float) -> Any:
    """The columns that scoring adds to the pairs at these rows of `earlier`."""
    score = earlier.score[rows]
    nothing = pa.nulls(len(rows), pa.string())
    columns = [pa.array(score), pa.array(earlier.probability[rows]), pa.array(score >= threshold), nothing, nothing]
    return pa.table(columns, schema=ADDED)
