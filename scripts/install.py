"""Installs into this interpreter's environment: with uv, several times as fast as pip, else with pip.

    python scripts/install.py --constraint constraints.txt --editable '.[dev]'

The arguments are pip's. uv comes from the package index, as all else does, and reads none of pip's configuration: what
that says about indexes is handed on to it. Where uv cannot be had or fails, for whatever reason, pip installs, and
says what is wrong if it fails too.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
SECTIONS = ("global.", "install.", ":env:.")  # of pip's configuration
# what pip's configuration says, by the variables in which uv reads it
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "constraint": "UV_CONSTRAINT",
}


def pip_configuration() -> dict[str, str]:
    """pip's settings for all commands and for `pip install`, whatever file or variable they come from."""
    said = _run(*PIP, "config", "list").stdout
    found = [line.split("=", 1) for line in said.splitlines() if line.startswith(SECTIONS)]
    found.sort(key=lambda setting: SECTIONS.index(f"{setting[0].rpartition('.')[0]}."))  # the last one wins
    return {name.rpartition(".")[2]: ast.literal_eval(value) for name, value in found}


def uv_environment(configuration: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with pip's configuration as uv reads it; variables of uv that are set already win.

    Any index may have any package, as for pip.
    """
    found = {UV_VARIABLES[name]: value for name, value in configuration.items() if name in UV_VARIABLES}
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = ",".join(found["UV_FIND_LINKS"].split())  # pip has spaces or lines there
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **found, **environment}


def installed_with_uv(arguments: list[str]) -> bool:
    """Whether uv could be had and has installed; what it says is not shown."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists() and _run(*PIP, "install", "uv").returncode:
        return False
    os.environ.update(uv_environment(pip_configuration(), os.environ))
    return _run(str(uv), "pip", "install", "--python", sys.executable, *arguments).returncode == 0


def main(arguments: list[str]) -> int:
    """Exit code of the installation."""
    if installed_with_uv(arguments):
        return 0
    _run(*PIP, "install", "--upgrade", "pip")  # an old one takes three times as long
    done = _run(*PIP, "install", "--quiet", "--quiet", "--no-compile", *arguments)
    sys.stderr.write(done.stdout + done.stderr)
    return done.returncode


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
