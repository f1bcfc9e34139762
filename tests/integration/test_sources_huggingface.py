"""Data sets of Hugging Face in another process: images, and places that cannot be reached."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.huggingface_sets import dataset, datasets, jpeg, opened, record, rows

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place))


@pytest.fixture
def saved(tmp_path):
    place = tmp_path / "goods"
    dataset(*map(record, range(5))).save_to_disk(place)
    return place


def test_every_row_gets_its_own_picture_also_in_another_process(saved, tmp_path):
    source = opened(saved)
    references = [photo for (photo,) in rows(source, "photo")]
    (tmp_path / "store").write_bytes(pickle.dumps((source.pictures(), references)))
    code = "import pickle, sys; s, r = pickle.load(open(sys.argv[1], 'rb')); print([s.read(x).hex() for x in r])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "store"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([jpeg(number).hex() for number in range(5)])


SCRIPT = """
import sys
from mlim.catalog.description import HuggingFaceSource
from mlim.sources.huggingface import HuggingFaceRows
from mlim.errors import InputError
if sys.argv[2:]:
    sys.modules["datasets"] = None
try:
    HuggingFaceRows(HuggingFaceSource(dataset=sys.argv[1]), "image", 1).columns()
except InputError as error:
    print(error)
"""


def said(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )
    return done.stdout


UNREACHABLE = pytest.param(
    {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
    marks=pytest.mark.slow,  # the library tries again for half a minute
)


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, UNREACHABLE])
def test_a_hub_that_cannot_be_reached_is_one_error_with_the_alternatives(tmp_path, environment):
    message = said("nobody/nothing", HF_HOME=str(tmp_path), **environment)
    assert "nobody/nothing: cannot be opened as a data set" in message
    assert "HF_HUB_OFFLINE" in message
    assert "save_to_disk" in message
    assert len(message.splitlines()) == 1


def test_without_the_library_the_extra_is_named():
    assert "pip install 'mlim[huggingface]'" in said("nobody/nothing", "without")
