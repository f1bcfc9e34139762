"""How long the served model works on a request."""

import pytest
from mlflow.exceptions import MlflowException

from mlim.serving import SERVING_VARIABLE, Deadline


def test_work_ends_when_the_scoring_server_has_given_up(monkeypatch):
    """Point 24: the model does not work on for a client that was told 504; outside a server nothing limits it."""
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    Deadline().check()
    monkeypatch.setenv(SERVING_VARIABLE, "true")
    with pytest.raises(MlflowException, match="takes longer than 0 s; send fewer rows") as caught:
        Deadline().check()
    assert caught.value.get_http_status_code() == 504
