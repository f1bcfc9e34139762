"""Connecting to a Dask cluster, for ingest (`ingest/cluster.py`) and scoring (`matching/cluster.py`).

Nothing else imports Dask. Every machine must see source and work folder under the same path (a shared file system).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client

from mlim.errors import InputError

CONNECT_SECONDS = 30


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """The scheduler that listens at `address`; `InputError` when none answers there, or when it has no workers."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors are raised, as sentences of this package
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"ingest.cluster: no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, or "
            "set it to null for this machine alone"
        ) from None
    with client:
        if not client.nthreads():
            raise InputError(
                f"ingest.cluster: the scheduler at {address} has no workers; start some with `dask worker`"
            )
        yield client
