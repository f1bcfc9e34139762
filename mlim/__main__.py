"""`python -m mlim`: the same as the `mlim` command."""

import sys

from mlim.cli import main

if __name__ == "__main__":
    sys.exit(main())
