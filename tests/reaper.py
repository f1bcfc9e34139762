"""Ends whatever a test run has started once the run itself is gone, by kill -9 too.

A run puts a token into its environment, which every process below it inherits, however deep and in whatever session. A
process beside the run waits for its end and then ends all that carry the token, and nothing else.
"""

import os
import secrets
import subprocess
import sys
import time

import psutil

TOKEN = "MLIM_TEST_RUN"
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0


def start_reaper() -> None:
    """Start the process beside this run; the processes of a run that has one (xdist's workers) share it."""
    if TOKEN in os.environ:
        return
    os.environ[TOKEN] = secrets.token_hex(8)
    command = [sys.executable, __file__, str(os.getpid())]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def main() -> None:
    """Wait for the end of the parent, whose number is the argument, and then for the end of what it left."""
    while os.getppid() == int(sys.argv[1]):
        time.sleep(POLL_SECONDS)
    for process in of_this_run():
        process.terminate()
    psutil.wait_procs(of_this_run(), timeout=GRACE_SECONDS)
    while remaining := of_this_run():
        for process in remaining:
            process.kill()
        psutil.wait_procs(remaining, timeout=POLL_SECONDS)


def of_this_run(*fields: str) -> list[psutil.Process]:
    """What this test run has started, but for the calling process; `info` has `fields` and the environment."""
    others = [process for process in psutil.process_iter(["environ", *fields]) if process.pid != os.getpid()]
    return [process for process in others if (process.info["environ"] or {}).get(TOKEN) == os.environ[TOKEN]]


if __name__ == "__main__":
    main()
