"""The peak of memory while several threads decode large pictures, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import ENVIRONMENT

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

SIDE, THREADS, BYTES_PER_PIXEL = 3000, 6, 32
SCRIPT = """
import re, sys, threading
from pathlib import Path
from mlim.matching.decoding_room import DecodingRoom
from mlim.matching.items import read_picture
from mlim.pictures.decoding import ImageRules
from mlim.scoring_server import give_back_large_blocks

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

give_back_large_blocks()
data, side, threads = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
rules, room = ImageRules(("PNG",), 40, 128, 90), DecodingRoom(side * side)
read_picture(Path(sys.argv[4]).read_bytes(), "warm", rules, room)
before = peak()
readers = [threading.Thread(target=read_picture, args=(data, "big", rules, room)) for _ in range(threads)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join()
print(peak() - before)
"""


def test_threads_that_decode_large_pictures_share_the_memory_of_one(tmp_path: Path) -> None:
    """Without the room each thread holds one; without blocks that go back each thread keeps one."""
    for name, side in (("big", SIDE), ("small", 8)):
        Image.new("RGBA", (side, side), (255, 0, 0, 128)).save(tmp_path / f"{name}.png")
    words = [str(tmp_path / "big.png"), str(SIDE), str(THREADS), str(tmp_path / "small.png")]
    run = subprocess.run([sys.executable, "-c", SCRIPT, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < BYTES_PER_PIXEL * SIDE * SIDE
