"""How long does recovery take when a part of `make serve-prefect` dies while a flow trains?

    python benchmarks/recovery.py

Runs the slow tests of these failures (about ten minutes: real servers, flows and trainings, which are killed) and shows
the seconds that they measured. The tests themselves assert no times.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from measure import heading, table

PACKAGES = ("mlim", "prefect", "mlflow", "torch")
TESTS = "tests/integration/test_failures_prefect.py"


def run_tests(results: Path) -> None:
    """Run the tests, which write what they measured into a file of JUnit's form."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", TESTS, f"--junitxml={results}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{TESTS} failed:\n{done.stdout}{done.stderr}")


def measured(results: Path) -> Iterator[tuple[str, str, str]]:
    """Of each test what died, what was waited for, and the seconds that it took."""
    for case in ElementTree.parse(results).iter("testcase"):
        died = case.attrib["name"].removeprefix("test_").replace("_", " ")
        for found in case.iter("property"):
            yield died, found.attrib["name"], found.attrib["value"]


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        run_tests(results)
        print(heading(PACKAGES))
        print(table(("what dies", "until", "seconds"), measured(results)))


if __name__ == "__main__":
    main()
