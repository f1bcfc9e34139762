"""What `pip install` of a built wheel brings: everything that the first steps need, in a folder with nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlim.files import read_json

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "mlim", "flows", "catalogs", "great_expectations")
SIDE = 96
RULE = "  decided_by: [pattern]\n"


def called(*words: object, folder: Path, packages: Path | None = None) -> str:
    """What `python -m WORDS` said; it finds mlim in `packages` alone, before anything that is installed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLIM_GX_ROOT")}
    environment |= {"OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(packages)} if packages else {})}
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """The folder into which the wheel is installed; neither step uses a network."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    local = ("--no-deps", "--no-index", "--disable-pip-version-check")
    called("pip", "wheel", *local, "--no-build-isolation", "--wheel-dir", place / "dist", source, folder=place)
    (wheel,) = (place / "dist").glob("*.whl")
    called("pip", "install", *local, "--target", place / "packages", wheel, folder=place)
    return place / "packages"


@pytest.fixture
def shop(tmp_path) -> Path:
    """A folder with a table of products in two patterns, and their pictures."""
    rng = np.random.default_rng(0)
    rows = [
        {"sku": f"p{number}-{side}", "product": f"p{number}", "title": f"cotton shirt {number}", "pattern": pattern}
        for number in range(60)
        for side, pattern in enumerate(("plain", "striped" if number % 2 else "plain"))
    ]
    table = pd.DataFrame(rows)
    table["picture"] = table["sku"] + ".png"
    table.to_csv(tmp_path / "shop.csv", index=False)
    (tmp_path / "pictures").mkdir()
    for name in table["picture"]:
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name)
    return tmp_path


def test_every_file_of_the_checkout_is_in_the_wheel(packages):
    """Point 17: no module and no data file is forgotten, and the suites are the committed ones."""
    for folder in ("mlim", "flows"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        missing = [path for path in files if not (packages / path.relative_to(ROOT)).is_file()]
        assert not missing
    suites = sorted((ROOT / "great_expectations" / "expectations").glob("*.json"))
    packed = packages / "mlim" / "suites" / "expectations"
    assert [(packed / suite.name).read_bytes() for suite in suites] == [suite.read_bytes() for suite in suites]
    assert not (packages / "great_expectations").exists()  # would shadow the library


def test_the_first_steps_run_from_the_wheel(packages, shop):
    """Point 17: init, ingest, validate and pairs in an empty environment and folder; validate really checks."""
    called("mlim", "init", "shop.csv", folder=shop, packages=packages)
    description = shop / "catalog.yaml"
    text = description.read_text(encoding="utf-8").replace("    - pattern\n", "").replace("pairs:\n", "pairs:\n" + RULE)
    description.write_text(text, encoding="utf-8")
    for step in ("ingest", "validate", "pairs"):
        called("mlim", step, "--catalog", "catalog.yaml", "--work", "work", folder=shop, packages=packages)
    found = read_json(shop / "work" / "valid" / "summary.json")["expectations"]
    committed = [
        (suite, entry["type"])
        for suite in dict.fromkeys(finding["suite"] for finding in found)
        for entry in read_json(ROOT / "great_expectations" / "expectations" / f"{suite}.json")["expectations"]
    ]
    assert [(finding["suite"], finding["expectation"]) for finding in found] == committed
    assert {"rows", "keys", "images", "texts"} <= {finding["suite"] for finding in found}
    assert "Success" in (shop / "work" / "valid" / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert len(pd.read_parquet(shop / "work" / "pairs" / "pairs.parquet")) > 0
