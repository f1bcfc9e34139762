"""Logs of stages: a second run does not destroy what the one under way has written."""

import os

from flows.stage import _log_file


def test_each_run_has_the_log_to_itself(tmp_path):
    with _log_file(tmp_path, "match") as first:
        first.write(b"at work\n")
        first.flush()
        with _log_file(tmp_path, "match") as second:
            second.write(b"somebody else is writing\n")
        first.write(b"done\n")
    assert (tmp_path / "match.log").read_text() == "at work\ndone\n"
    assert (tmp_path / f"match.{os.getpid()}.log").read_text() == "somebody else is writing\n"
    with _log_file(tmp_path, "match") as third:
        third.write(b"again\n")
    assert (tmp_path / "match.log").read_text() == "again\n"
