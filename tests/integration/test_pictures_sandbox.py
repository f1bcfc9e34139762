"""Real decoding processes, with stores whose pictures hang, kill and swell."""

import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.errors import MlimError
from mlim.pictures.decoding import ImageRules, Picture
from mlim.pictures.sandbox import DecodeLimits, Job, open_sandbox

pytestmark = pytest.mark.integration

RULES = ImageRules(("PNG",), max_megapixels=30, size=16, quality=90)
LIMITS = DecodeLimits(seconds=2, memory_mb=200)
GIGABYTE = 1 << 30


def png(colour: str, note: str = "") -> bytes:
    notes, target = PngInfo(), io.BytesIO()
    notes.add_text("note", note, zip=True)
    Image.new("RGB", (20, 10), colour).save(target, "PNG", pnginfo=notes)
    return target.getvalue()


@dataclass(frozen=True)
class Dangerous:
    """A picture store where the reference says what happens."""

    noted: bytes = b""

    def read(self, reference: str) -> bytes:
        if reference.startswith("hang"):
            time.sleep(60)
        if reference.startswith("kill"):
            os._exit(9)
        if reference.startswith("swell"):
            bytearray(GIGABYTE)
        if reference.startswith("missing"):
            raise RejectedError("missing-image", f"{reference} is missing")
        if reference.startswith("noted"):
            return self.noted
        return png(reference.partition("-")[0])

    def fingerprint(self, reference: str) -> str:
        return ""

    def prefetch(self, references: Sequence[str]) -> None:
        pass


@pytest.fixture(scope="module")
def sandbox():
    with open_sandbox(2, LIMITS, Dangerous(), RULES) as opened:
        yield opened


def reasons(sandbox, references):
    outcomes = sandbox.decode([Job(reference, None) for reference in references])
    return [outcome.result.reason if isinstance(outcome.result, Rejection) else None for outcome in outcomes]


def test_pictures_come_back_in_order(sandbox):
    colours = ["red", "lime", "blue"] * 20
    outcomes = sandbox.decode([Job(colour, None) for colour in colours])
    assert all(isinstance(outcome.result, Picture) for outcome in outcomes)
    hashes = [outcome.result.sha256 for outcome in outcomes]
    assert hashes[:3] * 20 == hashes
    assert len(set(hashes)) == 3


def test_one_bad_picture_costs_itself_and_nothing_else(sandbox):
    references = ["red"] * 40
    references[3], references[17], references[39] = "hang", "kill", "missing"
    found = reasons(sandbox, references)
    assert (found[3], found[17]) == ("decode-timeout", "decoder-died")
    assert found[39] == "missing-image"
    assert [reason for place, reason in enumerate(found) if place not in (3, 17, 39)] == [None] * 37


def test_a_picture_that_eats_memory_is_refused(sandbox):
    assert reasons(sandbox, ["red", "swell", "red"]) == [None, "too-much-memory", None]


def test_notes_in_a_picture_may_take_what_its_process_may_take():
    """Point 12: what bounds the metadata is the memory of the decoding process, not Pillow's 64 MiB."""
    limits = DecodeLimits(seconds=60, memory_mb=200)
    with open_sandbox(1, limits, Dangerous(png("red", "a" * (70 << 20))), RULES) as opened:
        assert reasons(opened, ["noted"]) == [None]


def test_a_refused_row_gets_a_thumbnail_where_there_is_a_picture(sandbox):
    refusal = Rejection("no-text", "every text column is empty")
    shown, hidden = sandbox.decode([Job("red", refusal), Job("missing", refusal)])
    assert shown.result == hidden.result == refusal
    assert hidden.thumbnail is None
    with Image.open(io.BytesIO(shown.thumbnail)) as small:
        assert small.width == 2 * small.height


def test_waiting_for_a_picture_ends_when_all_is_over():
    """A source that breaks off ends ingest while pictures are decoded: nobody may wait for those then."""
    patient = DecodeLimits(seconds=60, memory_mb=200)
    with ThreadPoolExecutor(1) as threads:
        with open_sandbox(1, patient, Dangerous(), RULES) as opened:
            waiting = threads.submit(reasons, opened, ["hang"] * 40)
            while not opened.running:
                time.sleep(0.01)
        with pytest.raises(MlimError, match=r"processes are gone \(ingest has ended\)"):
            waiting.result(timeout=5)
