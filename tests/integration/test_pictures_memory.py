"""Images in the cells of Parquet take no more memory than one row."""

import os
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration


PLAIN = pa.binary()


def parquet(path, values, kind=PLAIN, rows_per_group=3):
    table = pa.table({"id": [str(n) for n in range(len(values))], "image": pa.array(values, kind)})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


READ_ALL = """
import resource, sys
from pathlib import Path
import psutil
from mlim.pictures.folder import FolderPictures
from mlim.sources.table import TableSource

place, rows, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = TableSource.open(place, "utf-8", "image", FolderPictures(place.parent, 1), 1 << 20).pictures()
store.prefetch(())
limit = psutil.Process().memory_info().vms + (megabytes << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for start in range(0, rows, 16):  # two shards side by side
    for row in (*range(start, start + 8), *range(rows // 2 + start // 2, rows // 2 + start // 2 + 8)):
        assert len(store.read(f"{place.name}#{row + 1}")) == 60_000
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a limit on memory")
def test_one_row_group_larger_than_the_memory_is_read_row_by_row(tmp_path):
    picture, rows = os.urandom(60_000), 4800
    values = [row.to_bytes(4) + picture[4:] for row in range(rows)]  # as pandas writes them: 288 MB in one row group
    table = parquet(tmp_path / "t.parquet", values, rows_per_group=rows)
    subprocess.run([sys.executable, "-c", READ_ALL, str(table), str(rows), "150"], check=True, timeout=120)
