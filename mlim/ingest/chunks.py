"""Where one shard ends and the next begins: at rows that their ids choose, so that an inserted row moves few of them.

Cut by count, one row more at the top of a table would shift every boundary and every shard would be made again. Cut by
content (A. Muthitacharoen et al., "A low-bandwidth network file system", 2001), the boundaries below the change fall
where they fell before.
"""

import zlib
from collections.abc import Iterable, Iterator

from mlim.ingest.screen import SourceRow

SMALLEST_SHARE = 4  # a chunk has at least this part of the most rows ...
USUAL_SHARE = 2  # ... and beyond them each row ends it with this part's inverse as probability


def cut_chunks(rows: Iterable[SourceRow], most: int) -> Iterator[list[SourceRow]]:
    """The rows in order, in chunks of at most `most`, about two thirds of it on average."""
    least, spacing = most // SMALLEST_SHARE, max(1, most // USUAL_SHARE)
    chunk = list[SourceRow]()
    for row in rows:
        chunk.append(row)
        chosen = zlib.crc32(row.id.encode()) % spacing == spacing - 1
        if len(chunk) == most or (len(chunk) > least and chosen):
            yield chunk
            chunk = []
    if chunk:
        yield chunk
