"""The guide from an empty machine to a nightly match, pasted block by block into a fresh clone."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlim.files import read_csv, read_json
from tests.integration.conftest import ROOT, environment, free_port
from tests.prefect_service import START_SECONDS, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GUIDE = ROOT / "docs" / "operations" / "first-night.md"
BLOCK = re.compile(r"^(?P<service><!-- terminal: service -->\n)?^```sh\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
SECTION = re.compile(r"^## \d+\. ", re.MULTILINE)
BLOCK_SECONDS = 3600


class Terminal:
    """A shell that keeps its folder and its variables from block to block."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home, self._state = home, home / "state"
        self._variables = environment(HOME=str(home), **variables)
        self._state.write_text(f"cd {home}\n")

    def paste(self, block: str) -> str:
        """What a block prints; the test fails where one of its commands does."""
        script = f'. "{self._state}"\n{block}\n{{ echo "cd \'$PWD\'"; export -p; }} > "{self._state}"\n'
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block}\nexited {done.returncode}\n{done.stdout}"
        return done.stdout

    @contextmanager
    def service(self, block: str) -> Iterator[Path]:
        """A terminal of its own in which a block runs until Ctrl-C; its log."""
        log = self.home / "service.log"
        with log.open("w") as file:
            script = f'. "{self._state}"\nexec {block}'
            started = subprocess.Popen(
                ["bash", "-c", script], env=self._variables, stdout=file, stderr=file, start_new_session=True
            )
        try:
            wait_until(lambda: "Prefect is ready" in log.read_text(), START_SECONDS)
            yield log
        finally:
            os.killpg(started.pid, signal.SIGINT)
            started.wait(START_SECONDS)


class Block(NamedTuple):
    code: str
    service: bool


def sections(port: int) -> list[list[Block]]:
    """The blocks of each section, for this repository and a port that nobody has."""
    return [
        [
            Block(
                found["code"].replace("git clone URL", f"git clone {ROOT}").replace("4277", str(port)),
                bool(found["service"]),
            )
            for found in BLOCK.finditer(section)
        ]
        for section in SECTION.split(GUIDE.read_text())[1:]
    ]


def summary(project: Path) -> dict[str, Any]:
    return dict(read_json(project / "matches" / "summary.json"))


def test_every_block_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    port = free_port()
    installed, nightly, (service, night), removed, killed, replaced = sections(port)
    project = tmp_path / "mlim"
    terminal = Terminal(tmp_path, PORT=str(port), PYTHONPATH=str(project))
    terminal.paste(fetched(installed[0].code))
    for block in (*installed[1:], *nightly):
        terminal.paste(block.code)
    with terminal.service(service.code) as log:
        assert "match/nightly at 0 3 * * *" in log.read_text()
        terminal.paste(night.code)
        first = summary(project)
        assert first["matches"] > 0
        terminal.paste(removed[0].code)
        assert summary(project)["since"]["items"] == {"changed": 0, "new": 0, "removed": 3}
        assert (project / "matches" / "events.csv").is_file()
        terminal.paste(killed[0].code)
        wait_until(lambda: "Prefect's server ended (SIGKILL) and is started again" in log.read_text(), START_SECONDS)
        promote, back = replaced
        terminal.paste(promote.code)
        assert summary(project)["model_sha256"] != first["model_sha256"]
        terminal.paste(back.code)
        assert summary(project)["model_sha256"] == first["model_sha256"]
    left = {row["item"] for row in read_csv(project / "matches" / "groups.csv")}
    assert len(left) == first["items"] - 3


def fetched(block: str) -> str:
    """The first block with this environment in the place of an installation, which other tests try."""
    clone, into, *others = block.splitlines()
    linked = f"ln -s {ROOT / '.venv'} .venv && touch --date=2000-01-01 pyproject.toml constraints.txt"
    return "\n".join((clone, into, linked, *others))
