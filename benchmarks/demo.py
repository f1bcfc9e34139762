"""The demo before and after: `mlim run` of two commits on the embedded catalog, one after the other on this machine.

    python benchmarks/demo.py --before COMMIT [--after COMMIT]

Both are taken out of git into folders of their own and run with the interpreter and the packages of this one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measure import heading, table

PACKAGES = ("mlim", "torch", "transformers")
GIT = ("git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")


class Demo(NamedTuple):
    """What one demo took and reached."""

    seconds: float
    pr_auc: float
    low: float
    high: float


def short(commit: str) -> str:
    """The abbreviated hash of a commit, by whatever name."""
    words = ["git", "rev-parse", "--short", commit]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def check_out(commit: str, folder: Path) -> None:
    """The files of a commit in a repository of their own: DVC wants one."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", commit)):
        subprocess.run([*GIT, *words], cwd=folder, check=True)


def run_demo(folder: Path) -> Demo:
    """`mlim run` in a checkout; the catalog is drawn before the clock starts."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": path}
    mlim = [sys.executable, "-m", "mlim"]
    for words in (["catalog", "synthesize", "--quiet"], ["run", "--catalog", "data/catalog.yaml", "--recipe", "demo"]):
        started = time.perf_counter()
        done = subprocess.run([*mlim, *words], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{words} failed:\n{done.stderr}")
    seconds = time.perf_counter() - started
    reached = json.loads((folder / "build/demo/evaluation/summary.json").read_text())["pr_auc"]["both"]
    return Demo(seconds, reached["value"], reached["low"], reached["high"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--after", default="HEAD", metavar="COMMIT")
    options = parser.parse_args()
    commits = {name: short(getattr(options, name)) for name in ("before", "after")}
    demos: dict[str, Demo] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, commit in commits.items():
            folder = Path(temporary) / name
            check_out(commit, folder)
            demos[name] = run_demo(folder)
    print(heading(PACKAGES))
    rows = [
        [
            f"{name} ({commits[name]})",
            f"{demo.seconds:.0f}",
            f"{demos['before'].seconds / demo.seconds:.2f}",
            f"{demo.pr_auc:.3f} [{demo.low:.3f}, {demo.high:.3f}]",
        ]
        for name, demo in demos.items()
    ]
    columns = ["", "whole run, s", "times faster", "PR-AUC of the main model"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
