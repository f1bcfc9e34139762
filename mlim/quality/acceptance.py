"""Which data versions were accepted, and which complaints a person overruled: the memory of `mlim validate`.

The file lies in the work folder beside the results, not inside them: `dvc repro` and a new ingest leave it alone. It is
the only thing validation remembers, so deleting it starts over with a first version.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mlim.config import Config, parse
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.quality.profile import Profile

ACCEPTED_FOLDER = "accepted"
KEPT_VERSIONS = 100
UNUSUAL_CHARACTERS = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Acceptance:
    """A person's word that the complaints about this data version are known and fine. `InputError` without a reason."""

    by: str
    why: str

    def __post_init__(self) -> None:
        if not self.why.strip():
            raise InputError("an acceptance needs a reason: say why the complaints are fine")


@dataclass(frozen=True)
class Complaint:
    """Why validation rejects a data version; `key` stays the same from run to run."""

    key: str
    sentence: str
    acceptable: bool


class Version(Config):
    """A data version that was accepted, and what it looked like."""

    data_version: str
    profile: Profile


class Overruled(Config):
    """What a person accepted in one data version."""

    data_version: str
    by: str
    why: str
    when: str
    keys: tuple[str, ...]
    complaints: tuple[str, ...]


class History(Config):
    """The accepted versions, the last one last, and everything that was ever overruled."""

    versions: tuple[Version, ...] = ()
    overruled: tuple[Overruled, ...] = ()

    def reference(self, data_version: str) -> Version | None:
        """The last accepted version other than this one: judging a version again compares it with the same one."""
        return next((past for past in reversed(self.versions) if past.data_version != data_version), None)

    def granted(self, data_version: str, complaints: Sequence[Complaint]) -> Overruled | None:
        """The last acceptance of this very version, if it covers all of the complaints."""
        last = next((past for past in reversed(self.overruled) if past.data_version == data_version), None)
        covered = last is not None and {complaint.key for complaint in complaints} <= set(last.keys)
        return last if covered else None

    def with_version(self, version: Version) -> Self:
        """The history with `version` as the last accepted one."""
        others = [past for past in self.versions if past.data_version != version.data_version]
        return self.model_copy(update={"versions": (*others, version)[-KEPT_VERSIONS:]})

    def with_overruled(self, overruled: Overruled) -> Self:
        """The history with one more acceptance."""
        return self.model_copy(update={"overruled": (*self.overruled, overruled)})


def overrule(data_version: str, complaints: Sequence[Complaint], acceptance: Acceptance) -> Overruled:
    """The record of a person's acceptance of complaints about one data version, dated now."""
    return Overruled(
        data_version=data_version,
        by=acceptance.by,
        why=acceptance.why,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        keys=tuple(complaint.key for complaint in complaints),
        complaints=tuple(complaint.sentence for complaint in complaints),
    )


def history_file(work: Path, catalog: Path) -> Path:
    """Where the history of a catalog lies in a work folder; the name tells folder and file of the catalog."""
    place = catalog.resolve()
    name = UNUSUAL_CHARACTERS.sub("_", f"{place.parent.name}-{place.stem}")
    return work / ACCEPTED_FOLDER / f"{name}.json"


def read_history(path: Path) -> History:
    """The history in a file, empty if it is missing; `InputError` when the file is not a history."""
    if not path.is_file():
        return History()
    try:
        return parse(History, read_json(path), str(path))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); restore it, or delete it to start over") from None


def write_history(path: Path, history: History) -> None:
    """Write the history, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, history.model_dump(mode="json"))
