"""Commands that are forked from a process with loaded libraries do what processes of their own would do."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from flows.children import Children
from mlim.forked import ADDRESS, ForkServer

pytestmark = pytest.mark.integration

SECONDS = 60
PROGRAMS = """
import os, signal, subprocess, sys, time

def tell():
    umask = os.umask(0)
    print(os.getppid(), "torch" in sys.modules, sys.argv[1:], os.getcwd(), oct(umask), os.environ.get("MLIM_WORD"))
    print(sys.stdin.read(), file=sys.stderr)
    return 3

def die():
    os.kill(os.getpid(), int(sys.argv[1]))

def fail():
    raise ValueError("it failed")

def wait():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(599)"])  # others sleep for 600
    try:
        print(os.getpid(), sleeper.pid, flush=True)  # who reads it may send a signal at once
        time.sleep(600)
    except KeyboardInterrupt:
        return 7

def wait_for_sigterm():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
    return wait()
"""


@pytest.fixture(scope="module", autouse=True)
def _hear_ctrl_c() -> Iterator[None]:
    """Tests that a shell starts in the background ignore SIGINT, and so would the server and what it forks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "programs.py").write_text(PROGRAMS)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[ForkServer]:
    with ForkServer(environment) as server:
        deadline = time.monotonic() + SECONDS
        while not server.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield server


@pytest.fixture(scope="module")
def asking(environment: dict[str, str], server: ForkServer) -> dict[str, str]:
    """An environment that names the server."""
    return {**environment, **server.variables}


def start(environment: Mapping[str, str], folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "mlim.forked", *words],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(environment: Mapping[str, str], folder: Path) -> list[str]:
    """The first words of what `tell` says: its parent, and whether torch was loaded."""
    return start(environment, folder, "programs:tell").communicate("", timeout=SECONDS)[0].split()[:2]


def is_forked(environment: Mapping[str, str], folder: Path, server: ForkServer) -> bool:
    return told(environment, folder) == [str(server.process), "True"]


def processes(running: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The program that waits and what it started."""
    assert running.stdout is not None
    return [psutil.Process(int(word)) for word in running.stdout.readline().split()]


def test_a_fork_has_arguments_folder_environment_streams_and_exit_code(
    asking: dict[str, str], server: ForkServer, folder: Path
) -> None:
    before = os.umask(0o027)
    try:
        running = start({**asking, "MLIM_WORD": "here"}, folder, "programs:tell", "a word", "--option")
    finally:
        os.umask(before)
    said, error = running.communicate("typed", timeout=SECONDS)
    assert running.returncode == 3
    assert said == f"{server.process} True {['a word', '--option']} {folder} 0o27 here\n"
    assert error.strip() == "typed"


def test_a_program_that_fails_or_is_killed_ends_so(asking: dict[str, str], folder: Path) -> None:
    failed = start(asking, folder, "programs:fail")
    assert failed.communicate(timeout=SECONDS)[1].endswith("ValueError: it failed\n")
    assert failed.returncode == 1
    for number in (signal.SIGUSR1, signal.SIGKILL):
        killed = start(asking, folder, "programs:die", str(int(number)))
        assert killed.wait(SECONDS) == -number


@pytest.mark.parametrize(
    "sent",
    [[], [b""], [b"{"], [b"[]"], [b"{}"], [b'{"interpreter": 1}']],
    ids=["nothing", "empty", "{", "[]", "{}", "other"],
)
def test_what_is_no_request_is_closed_and_harms_no_other(
    sent: list[bytes], asking: dict[str, str], server: ForkServer, folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(server.variables[ADDRESS])
        for message in sent:
            socket.send_fds(stranger, [message], [0, 1, 2])
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(SECONDS)
        assert stranger.recv(1) == b""
    assert is_forked(asking, folder, server)


def test_a_signal_that_is_no_number_ends_the_program_alone(
    asking: dict[str, str], server: ForkServer, folder: Path
) -> None:
    asker = """
import socket, sys
from mlim import forked
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    assert forked._begins(server, sys.argv[1], "programs:wait")
    server.send(b"stop")
    print(forked._end(server))
"""
    command = [sys.executable, "-c", asker, server.variables[ADDRESS]]
    done = subprocess.run(command, env=asking, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.splitlines()[-1] == str(-signal.SIGKILL)
    assert is_forked(asking, folder, server)


@pytest.mark.parametrize(
    ("program", "number", "code"), [("wait_for_sigterm", signal.SIGTERM, 5), ("wait", signal.SIGINT, 7)]
)
def test_signals_reach_the_program_and_all_end(
    asking: dict[str, str], folder: Path, program: str, number: signal.Signals, code: int
) -> None:
    running = start(asking, folder, f"programs:{program}")
    found = processes(running)
    running.send_signal(number)
    assert running.wait(SECONDS) == code
    assert not psutil.wait_procs(found, timeout=SECONDS)[1]


def test_signals_that_a_command_ignores_do_not_reach_the_program(asking: dict[str, str], folder: Path) -> None:
    """As `nohup` has it for SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = start(asking, folder, "programs:wait_for_sigterm")
    finally:
        signal.signal(signal.SIGHUP, before)
    found = processes(running)
    running.send_signal(signal.SIGHUP)
    running.terminate()
    assert running.wait(SECONDS) == 5
    assert not psutil.wait_procs(found, timeout=SECONDS)[1]


def test_kill_9_ends_the_program_and_what_it_started(asking: dict[str, str], folder: Path) -> None:
    running = start(asking, folder, "programs:wait")
    found = processes(running)
    running.kill()
    assert not psutil.wait_procs(found, timeout=SECONDS)[1]


def test_other_variables_than_the_libraries_were_loaded_with_mean_a_process_of_its_own(
    asking: dict[str, str], server: ForkServer, folder: Path
) -> None:
    assert is_forked({**asking, "MLIM_WORD": "a", "DVC_ROOT": "b", "SHLVL": "7"}, folder, server)
    assert told({**asking, "OMP_NUM_THREADS": "2"}, folder) == [str(os.getpid()), "False"]
    assert told({**asking, "RANK": "0"}, folder) == [str(os.getpid()), "False"]


def test_without_a_server_a_program_runs_by_itself(environment: dict[str, str], folder: Path) -> None:
    assert told({**environment, "MLIM_FORK_SERVER": str(folder / "none")}, folder) == [str(os.getpid()), "False"]


def test_a_program_outlives_neither_its_server_nor_who_started_that(environment: dict[str, str], folder: Path) -> None:
    """The process that starts the server is killed; then a program that is under way, and the server ends too."""
    starter = f"""
import subprocess, sys, time
from mlim.forked import ForkServer
server = ForkServer({environment!r})
while not server.is_ready():
    time.sleep(0.1)
command = [sys.executable, "-m", "mlim.forked", "programs:wait"]
subprocess.Popen(command, env={{**{environment!r}, **server.variables}}, process_group=0)
print(server.process, flush=True)
time.sleep(600)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", starter], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    server = psutil.Process(int(running.stdout.readline()))
    program, sleeper = processes(running)
    running.kill()
    time.sleep(1)
    assert server.is_running()  # it waits for the program
    server.kill()
    assert not psutil.wait_procs([server, program], timeout=SECONDS)[1]
    sleeper.kill()


def test_children_of_a_flow_are_forked_where_there_are_many(
    environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    command = [sys.executable, "-m", "mlim.forked", "programs:tell"]
    parents = set[str]()
    with Children(many=True) as children:
        deadline = time.monotonic() + SECONDS
        while str(os.getpid()) in parents or not parents:
            assert time.monotonic() < deadline
            parents.clear()
            for _ in range(2):
                with children.start(command, {"OMP_NUM_THREADS": "1"}, on_terminal=False) as child:
                    assert child.stdout is not None
                    parents.add(child.stdout.read().decode().split()[0])
    assert len(parents) == 1
    assert not psutil.pid_exists(int(parents.pop()))


def test_children_start_where_no_socket_can_have_its_name(
    environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    deep = folder / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    command = [sys.executable, "-m", "mlim.forked", "programs:tell"]
    with Children(many=True) as children, children.start(command, {}, on_terminal=False) as child:
        assert child.stdout is not None
        assert child.stdout.read().decode().startswith(f"{os.getpid()} False")
    assert not list(deep.iterdir())
