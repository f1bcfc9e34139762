"""Draw the pictures of docs/operations/first-night.md: Prefect's pages of a nightly match, in headless Chromium.

    python scripts/prefect-pictures.py ~/.prefect docs/images

The folder is that of a service (`make serve-prefect`) whose deployment `match/nightly` has run; it may be running. Its
database is copied, and a server of the copy, which starts nothing, shows the pages without a login. Writes
prefect-run.png and prefect-match.png.
"""

import argparse
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from chromium import require_browser
from pages import photograph, serving

DATABASE = "prefect.db"
SIZES = {"run": (1400, 1250), "match": (1400, 640)}
NIGHTLY = """
    SELECT run.id, deployment.id FROM flow_run AS run JOIN deployment ON deployment.id = run.deployment_id
    JOIN flow ON flow.id = run.flow_id
    WHERE flow.name = 'match' AND deployment.name = 'nightly' AND run.state_type = 'COMPLETED'
    ORDER BY run.created DESC
"""


def main() -> int:
    """Photograph the pages; 2 when there is no browser or no nightly match to show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Prefect's folder, PREFECT_HOME")
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    options = parser.parse_args()
    browser = require_browser()
    if not (options.home / DATABASE).is_file():
        print(f"{options.home}: has no {DATABASE}; start `make serve-prefect` first", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        database = Path(folder) / DATABASE
        with closing(sqlite3.connect(options.home / DATABASE)) as source, closing(sqlite3.connect(database)) as copy:
            source.backup(copy)
            found = copy.execute(NIGHTLY).fetchone()
        if found is None:
            print(f"{options.home}: no run of match/nightly has completed there", file=sys.stderr)
            return 2
        command = ("prefect", "server", "start", "--no-services", "--port")
        with serving(
            lambda port: (*command, str(port)), "api/health", lambda at: _settings(database, at), Path(folder)
        ) as address:
            for name, place in _places(*map(UUID, found)).items():
                photograph(browser, f"{address}/{place}", options.out / f"prefect-{name}.png", SIZES[name])
    return 0


def _places(run: UUID, deployment: UUID) -> dict[str, str]:
    """A run with its log, and the deployment with its schedule."""
    return {"run": f"runs/flow-run/{run}", "match": f"deployments/deployment/{deployment}"}


def _settings(database: Path, address: str) -> dict[str, str]:
    """The environment of a server of this database; its pages ask at its own address."""
    return {
        "PREFECT_HOME": str(database.parent),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


if __name__ == "__main__":
    sys.exit(main())
