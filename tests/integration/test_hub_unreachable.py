"""A pre-trained start by name when the hub cannot be reached: real client, dead address or offline mode."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration
WITHOUT_NETWORK = """
from mlim.errors import InputError
from mlim.models.hub import find_start
try:
    find_start("google-bert/bert-large-uncased")
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("settings", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_names_the_alternatives(settings, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", **settings}
    output = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "google-bert/bert-large-uncased" in output
    for alternative in ("local folder", "minilm", "random"):
        assert alternative in output
