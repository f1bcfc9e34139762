"""`python -m flows.trial`: an empty flow, started as `mlim run` starts its own; `mlim doctor` runs it."""

import sys
import time

from flows.engine import engine
from mlim.failures import exit_code_of


def main() -> int:
    """Run the flow and say how long it took; an error is one sentence."""
    return exit_code_of(_try_flow)


def _try_flow() -> None:
    began = time.monotonic()
    with engine() as address:
        from prefect import flow

        flow(name="doctor")(_nothing)()
    print(f"a flow ran in {time.monotonic() - began:.0f} s, {f'on {address}' if address else 'without a server'}")


def _nothing() -> None:
    """What the flow does."""


if __name__ == "__main__":
    sys.exit(main())
