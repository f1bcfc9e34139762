"""Why a row is set aside: a stable code for machines and one sentence for a person."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a row was set aside: a stable code and one sentence."""

    reason: str
    detail: str


class RefusedError(Exception):
    """Carries a `Refusal` out of the code that found it; never reaches a person as it is."""

    def __init__(self, reason: str, detail: str) -> None:
        self.refusal = Refusal(reason, detail)
        super().__init__(reason, detail)
