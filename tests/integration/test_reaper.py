"""A test run that is killed leaves no server behind, whatever its servers started themselves."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.reaper import TOKEN

pytestmark = pytest.mark.integration

SLEEP = "import time; time.sleep(600)"
SERVER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
RUN = f"""
import signal, subprocess, sys, time
from tests.reaper import start_reaper
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start deaf to it
start_reaper()
server = subprocess.Popen([sys.executable, "-c", {SERVER!r}], start_new_session=True)
print(server.pid, flush=True)
time.sleep(600)
"""
PATIENCE = 60.0  # seconds


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_server_and_no_child_of_one(how: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}
    with (
        subprocess.Popen([sys.executable, "-c", SLEEP], env={**environment, TOKEN: "another run"}) as other,
        subprocess.Popen([sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE, text=True) as run,
    ):
        try:
            server = psutil.Process(int(run.stdout.readline()))
            while not (started := server.children()):
                pass
            run.send_signal(how)
            assert not psutil.wait_procs([server, *started], timeout=PATIENCE)[1]
            assert other.poll() is None
        finally:
            run.kill()
            other.kill()
