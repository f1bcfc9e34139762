"""What can be reached on the embedded catalog at best, and that its document says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlim.embedded.ceilings import measure_ceilings, read_catalog
from mlim.embedded.document import BEGIN, DEMO_ITEMS, DEMO_SEED, END, ceilings_table, demo_ceilings
from mlim.embedded.generate import plan_items
from mlim.errors import InputError

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).parents[2] / "docs" / "embedded-catalog.md"
MARGIN = 0.2


@pytest.mark.parametrize("seed", range(3))
def test_neither_modality_suffices(seed):
    ceilings = measure_ceilings(item.row for item in plan_items(DEMO_ITEMS, seed))
    assert 0.4 <= ceilings.prevalence <= 0.5
    assert ceilings.prevalence + MARGIN / 2 < ceilings.text < ceilings.both - MARGIN
    assert ceilings.prevalence + MARGIN / 2 < ceilings.image < ceilings.both - MARGIN
    assert 0.95 < ceilings.both < 1  # below 1: some sizes are missing or wrong


def test_what_texts_say_wrongly_is_what_the_best_matcher_loses():
    rows = [{**item.row, "details": f"size {item.row['size']}", "title": ""} for item in plan_items(300, DEMO_SEED)]
    assert measure_ceilings(rows).both == pytest.approx(1.0)


def test_the_document_holds_the_figures_of_a_fresh_computation():
    block = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert block.strip() == ceilings_table(demo_ceilings())


def test_the_command_rewrites_the_block_and_nothing_else(tmp_path):
    stale = tmp_path / "document.md"
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, after = document.partition(BEGIN)
    stale.write_text(f"{before}{BEGIN}\nstale\n{END}{after.partition(END)[2]}", encoding="utf-8")
    command = [sys.executable, "-m", "mlim.embedded.document", "--out", str(stale)]
    subprocess.run(command, check=True, timeout=120)
    assert stale.read_text(encoding="utf-8") == document


def test_the_command_says_what_is_wrong_with_a_document(tmp_path):
    (tmp_path / "empty.md").write_text("nothing here")
    command = [sys.executable, "-m", "mlim.embedded.document", "--out", str(tmp_path / "empty.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == InputError.exit_code
    assert "lacks the line" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_catalog_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"catalog\.csv"):
        measure_ceilings(read_catalog(tmp_path / "catalog.csv"))
