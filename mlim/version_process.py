"""A version answers requests in a process of its own, with the code that is stored beside it.

Run as a script, `python -P version_process.py FOLDER REQUESTS ANSWERS TIMED`: it imports nothing of mlim, so that the
first `mlim` in the process is the package inside the version (mlim/steps/own_process.py has compared that with the
registry's record). REQUESTS is a Parquet file with a row group for each request; ANSWERS becomes one with the columns
of the model's answer and, of the first TIMED pairs, `milliseconds` of a request of that pair alone.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

WARM_UP = 2  # requests before those that are timed


def main() -> None:
    """Answer all requests, then time single pairs."""
    import pandas as pd
    import pyarrow.parquet as pq
    from mlflow import pyfunc

    folder, requests, answers, timed = sys.argv[1], pq.ParquetFile(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    model = pyfunc.load_model(folder)
    known = model.metadata.get_input_schema().input_names()  # earlier versions read no fields
    columns = [name for name in requests.schema_arrow.names if name in known]
    numbers = range(requests.num_row_groups)
    found = pd.concat([model.predict(_request(requests, number, columns)) for number in numbers], ignore_index=True)
    milliseconds = pd.Series(list(_time(model, _request(requests, 0, columns), timed)), dtype="float64")
    found.assign(milliseconds=milliseconds).to_parquet(answers)


def _request(requests: Any, number: int, columns: Sequence[str]) -> Any:
    return requests.read_row_group(number, columns=columns).to_pandas()


def _time(model: Any, frame: Any, timed: int) -> Iterator[float]:
    """Milliseconds of each of the first rows alone."""
    for number in range(-WARM_UP, min(timed, len(frame))):
        row = frame.iloc[[max(number, 0)]]
        started = time.perf_counter()
        model.predict(row)
        if number >= 0:
            yield 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
