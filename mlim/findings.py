"""One line of what `mlim doctor` finds, in JSON between the processes that look."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What was looked at and what was found; `command` mends it, where something is not fine."""

    subject: str
    fine: bool
    detail: str
    command: str = ""
