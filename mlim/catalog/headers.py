"""The headers that are sent along when pictures are fetched. What is secret comes out of the environment only.

A description holds `${NAME}`, never the value; it is filled in where a request is made and kept nowhere.
"""

import os
import re
from collections.abc import Iterator, Mapping

from mlim.config import ENVIRONMENT_VARIABLE
from mlim.errors import InputError

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?")
OWN = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")  # decided by who downloads
SECRET_WORDS = ("auth", "cookie", "credential", "key", "password", "secret", "session", "token")


def header_problems(headers: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with headers as they are written, a sentence each; no value is repeated."""
    names = [name.lower() for name in headers]
    for name, value in headers.items():
        lower = name.lower()
        if not NAME.fullmatch(name):
            yield f"`{name}` is no name of a header"
        elif lower in OWN:
            yield f"`{name}` cannot be set"
        elif lower == "user-agent":
            yield f"`{name}` is set with download.user_agent"
        elif names.count(lower) > 1:
            yield f"`{name}` stands there twice"
        elif any(word in lower for word in SECRET_WORDS) and not ENVIRONMENT_VARIABLE.search(value):
            yield f"`{name}` looks like a secret; write ${{VARIABLE}} and set it in the environment"


def filled_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they are sent, with `${NAME}` out of the environment.

    `InputError` for variables that are not set, and for values that no header may have; the values are not repeated.
    """
    unset = [
        f"download.headers: `{name}` needs the environment variable {found}, which is not set; export {found}=VALUE"
        for name, value in headers.items()
        for found in ENVIRONMENT_VARIABLE.findall(value)
        if not os.environ.get(found)
    ]
    if unset:
        raise InputError(*unset)
    filled = {
        name: ENVIRONMENT_VARIABLE.sub(lambda found: os.environ[found[1]], value) for name, value in headers.items()
    }
    bad = [name for name, value in filled.items() if not VALUE.fullmatch(value)]
    if bad:
        raise InputError(
            *(
                f"download.headers: the value of `{name}` is empty or holds what no header may (a line end?)"
                for name in bad
            )
        )
    return filled
