"""The secret that opens this user's Prefect server: a file that only this user can read, made at the first start."""

import os
import re
import secrets
import stat
from pathlib import Path

from mlim.errors import MlimError

FILE = "mlim-login"
USER = "mlim"
BYTES = 32
FORM = re.compile(r"[!-9;-~]+:[!-~]{16,}")  # USER:PASSWORD, as Prefect wants it
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def login_file() -> Path:
    """Where the secret lies: in Prefect's own folder of this user."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute() / FILE


def login(path: Path) -> str:
    """The secret `USER:PASSWORD` in a file, created if it is missing; `MlimError` when others can read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        created = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _known(path)
    with os.fdopen(created, "w", encoding="ascii") as target:
        target.write(f"{USER}:{secrets.token_urlsafe(BYTES)}\n")
    return _known(path)


def _known(path: Path) -> str:
    found = path.lstat()
    private = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & OTHERS
    secret = path.read_text(encoding="utf-8", errors="replace").strip() if private else ""
    if not FORM.fullmatch(secret):
        problem = "holds no USER:PASSWORD" if private else "is not a file that only you can read"
        raise MlimError(f"{path} {problem}; delete it, and the next start makes a new one")
    return secret
