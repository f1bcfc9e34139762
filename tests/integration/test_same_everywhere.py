"""The same input gives the same bytes in every process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlim.console import Terminal
from mlim.embedded.generate import synthesize

pytestmark = pytest.mark.integration


TEXTS = [
    f"Brand: {brand} | Colour: {colour} | {kind} size {size} Café-style"
    for brand in ("Nike", "Adidas", "Acme")
    for colour in ("red", "light blue", "dark green")
    for kind in ("running shoe", "t-shirt", "水筒 bottle")
    for size in range(3)
]
LEARN = """
import sys, hashlib, json
from pathlib import Path
from mlim.data.tokenize import TextTokenizer
TextTokenizer.learn(json.loads(sys.stdin.read()), 150).save(Path(sys.argv[1]))
"""


def test_learning_gives_the_same_bytes_in_every_process(tmp_path):
    results = []
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", LEARN, str(folder)]
        subprocess.run(command, input=json.dumps(TEXTS), text=True, check=True, env=environment)
        results.append((folder / "tokenizer.json").read_bytes())
    assert results[0] == results[1] == results[2]


ITEMS, SEED, SIDE = 24, 5, 32


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "catalog"
    synthesize(out, ITEMS, SEED, SIDE, workers=1, terminal=Terminal(quiet=True))
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_request_gives_the_same_bytes_with_any_number_of_workers(catalog, tmp_path):
    synthesize(tmp_path / "again", ITEMS, SEED, SIDE, workers=2, terminal=Terminal(quiet=True))
    assert digests(tmp_path / "again") == digests(catalog)
