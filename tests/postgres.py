"""A real PostgreSQL server on loopback, with a folder, a port and a password of its own."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

DEBIAN = Path("/usr/lib/postgresql")  # its package keeps the programs of each version here, off PATH
OWNER = "mlim"
UNPRIVILEGED = "postgres"  # the user of Debian's package; PostgreSQL refuses to run as root


def programs() -> Path | None:
    """The folder with initdb and pg_ctl; None where PostgreSQL is not installed."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("createdb")
    return Path(found).parent if found else None


class Postgres:
    """A server that lives as long as the block, run by a user without rights."""

    def __enter__(self) -> Self:
        found = programs()
        if found is None:
            pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        self._programs = found
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="mlim-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.password = secrets.token_hex(16)
        secret = self._folder / "secret"
        secret.write_text(self.password)
        if self._user is not None:
            for path in (self._folder, secret):
                os.chown(path, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-U", OWNER, "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8")
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "-l", str(self._folder / "log"), "-o", options)
        return self

    def __exit__(self, *error: object) -> None:
        self._run("pg_ctl", "stop", "-m", "fast")
        shutil.rmtree(self._folder)

    def create(self, name: str) -> str:
        """Make a database; gives `USER:PASSWORD@HOST:PORT/NAME`, the address without its scheme."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", OWNER, name, data=False)
        return f"{OWNER}:{self.password}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *words: str, data: bool = True) -> None:
        place = ["-D", str(self._folder / "data")] if data else []
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C"}
        command = [str(self._programs / program), *place, *words]
        done = subprocess.run(
            command,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            env=environment,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
