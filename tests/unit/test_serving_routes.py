"""What the scoring server does with versions of other releases of mlim."""

from types import SimpleNamespace

import pytest

from mlim.scoring_server import version_app
from mlim.serving import MatcherModel


def loaded(python_model: object) -> SimpleNamespace:
    """A loaded version, as far as the scoring server asks it for its routes."""
    return SimpleNamespace(unwrap_python_model=lambda: python_model)


def test_a_version_of_before_the_routes_is_served_without_them(capfd):
    assert version_app(loaded(object()), {"images": "shop"}) is None
    assert "answers /invocations alone" in capfd.readouterr().err


def test_an_option_that_the_version_does_not_know_is_one_sentence():
    model = MatcherModel()
    model._model = None
    with pytest.raises(SystemExit, match="error: the options of mlim serve: unknown key `batch_wait`"):
        version_app(loaded(model), {"batch_wait": 5})
