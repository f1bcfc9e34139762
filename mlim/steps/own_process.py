"""What a registered version answers with its own code, in a process of its own.

An earlier version was made by an earlier mlim, whose code lies beside it: only that code prepares items and combines
scores as it did when the version was judged and served.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.errors import MlimError
from mlim.evaluation.promotion import Answers
from mlim.processes import die_with_parent, wait_briefly
from mlim.registry import Registry
from mlim.signatures import without_signing_key

SCRIPT: Final = Path(__file__).parents[1] / "version_process.py"


def answer_alone(registry: Registry, version: str, requests: Iterable[pd.DataFrame], timed: int) -> Answers:
    """What a version answers to every pair of the `requests`; the first `timed` pairs are also sent one by one.

    Its files are compared with the registry's record first. `ChangedFilesError` when they differ, `MlimError` with the
    last line of what the process said when it fails.
    """
    with registry.fetched(version) as folder, TemporaryDirectory() as temporary:
        sent, answered = Path(temporary) / "requests.parquet", Path(temporary) / "answers.parquet"
        _write(requests, sent)
        _run(folder, f"{registry.name} version {version}", [str(sent), str(answered), str(timed)])
        found = pd.read_parquet(answered)
    milliseconds = found["milliseconds"].dropna()
    return Answers(
        found["probability"].to_numpy(np.float64),
        found["match"].to_numpy(bool),
        float(milliseconds.median()) if len(milliseconds) else float("nan"),
    )


def _write(requests: Iterable[pd.DataFrame], path: Path) -> None:
    """A row group for each request, so that no more than one is in memory at a time."""
    tables = (pa.Table.from_pandas(request, preserve_index=False) for request in requests)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(first.schema), row_group_size=max(table.num_rows, 1))


def _run(folder: Path, version: str, arguments: list[str]) -> None:
    wait_briefly()
    command = [sys.executable, "-P", str(SCRIPT), str(folder), *arguments]
    environment = {**without_signing_key(os.environ), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, preexec_fn=die_with_parent
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise MlimError(f"{version} does not answer ({said[-1] if said else f'exit {done.returncode}'})")
