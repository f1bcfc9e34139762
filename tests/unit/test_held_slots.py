"""A slot of the GPU limit that nobody holds is found, whoever else runs or waits for it."""

from types import SimpleNamespace

import pytest

from flows import health


@pytest.mark.parametrize(
    ("holders", "dead", "fine"),
    [
        ([], [], False),  # a run that waits for the slot is alive, too, and does not hold it
        (["a"], [], True),
        (["a"], ["a"], False),
    ],
)
def test_a_slot_is_held_by_a_living_run_that_says_so(monkeypatch, holders, dead, fine):
    looks = []
    monkeypatch.setattr(health, "_slots", lambda client: looks.append(client) or 1)
    monkeypatch.setattr(health, "holders", lambda client, limit: [SimpleNamespace(id=name) for name in holders])
    monkeypatch.setattr(health, "dead_runs", lambda client: [SimpleNamespace(id=name) for name in dead])
    monkeypatch.setattr(health, "SETTLE_SECONDS", 0)
    (finding,) = health._limit("client")
    assert finding.fine is fine
    assert len(looks) == (1 if fine else 2), "a run says that it holds a slot just after it got it"
    assert ("--active-slots 0" in finding.command) is not fine
