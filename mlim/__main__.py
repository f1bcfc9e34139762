"""The `mlim` command, and `python -m mlim`.

Every process that is started (to decode pictures, to train beside another) imports the main module of its parent
again. So this one is light: the command line is loaded when it runs, and by the first process alone.
"""

import sys


def main() -> int:
    """Run the command line; the exit code."""
    from mlim.forked import run

    return run("mlim.cli.main:main")


if __name__ == "__main__":
    sys.exit(main())
