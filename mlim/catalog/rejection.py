"""Why a row is quarantined: a stable code for machines and one sentence for a person."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rejection:
    """Why a row was quarantined: a stable code and one sentence."""

    reason: str
    detail: str


class RejectedError(Exception):
    """Carries a `Rejection` out of the code that found it; never reaches a person as it is."""

    def __init__(self, reason: str, detail: str) -> None:
        self.rejection = Rejection(reason, detail)
        super().__init__(reason, detail)
