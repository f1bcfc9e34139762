"""What `mlim export` refuses: graphs that give other scores, and an installation without the extra."""

import sys

import numpy as np
import pytest

from mlim.errors import InputError, MlimError
from mlim.onnx.export import export_matcher
from mlim.steps.export import ONNX, TORCH, Outcome, check_parity
from tests.unit.test_loading import build


@pytest.mark.parametrize("differs", [0.001, float("nan")])
def test_graphs_that_give_other_scores_are_refused(differs):
    scores = np.array([0.2, 0.7])
    outcomes = {TORCH: Outcome([scores]), ONNX: Outcome([scores + 1e-6])}
    check_parity(outcomes)
    outcomes[ONNX].parts[0][1] += differs
    with pytest.raises(MlimError, match="do not give the scores of torch"):
        check_parity(outcomes)


def test_without_the_extra_one_sentence_says_what_to_install(tiny_recipe, monkeypatch):
    model = build(tiny_recipe)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'mlim\[onnx\]'"):
        export_matcher(model.network, "both", 12, 16)
