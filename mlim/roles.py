"""Which versions of a registered model are challenger and champion, and which were.

The alias is the truth. It is what `models:/NAME@champion` loads, and one call of MLflow writes it, so that it has moved
or it has not. MLflow's older stage and a `stage` tag say the same for tools that still read those, and the record of
champions says when and why; they take further calls, between which a process may die. `reconcile` lets them follow the
alias: moving an alias ends with it, and every command that changes the registry begins with it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from mlim.config import Config
from mlim.errors import MlimError
from mlim.tracking import TAG, as_mlim_error
from mlim.versions import person

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

Disagreement = tuple[str, Callable[[], None]]  # in a sentence, and what mends it
Stage = Literal["Production", "Staging", "Archived"]

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
STAGES: Final[dict[str, Stage]] = {CHAMPION: "Production", CHALLENGER: "Staging"}  # of two roles, the first counts
FORMER: Final[Stage] = "Archived"
NO_STAGE: Final = "None"  # as MLflow writes it
STAGE_TAG: Final = "stage"
EVENT: Final = f"{TAG}champion."  # with the time: a tag of the registered model for each change of the champion
ROLLED_BACK: Final = f"{TAG}rolled_back"  # of a version: why it is no longer champion


class Event(Config):
    """One change of the champion; a `found` one was made outside mlim, or by a command that died."""

    time: str
    version: str | None
    kind: Literal["promoted", "rolled back", "found"]
    why: str
    by: str


class Roles:
    """The aliases of a registered model, with all that follows them."""

    def __init__(self, client: "MlflowClient", name: str, uri: str) -> None:
        self._client, self._name, self._uri = client, name, uri

    def holder(self, alias: str) -> str | None:
        """The version that has an alias, if any."""
        return self._holders().get(alias)

    def of(self, version: str) -> list[str]:
        """The aliases of a version, sorted."""
        return sorted(alias for alias, holder in self._holders().items() if alias in STAGES and holder == version)

    def set_challenger(self, version: str) -> None:
        """Make a version the challenger."""
        self._set_alias(CHALLENGER, version)
        self.reconcile()

    def promote(self, version: str, why: str) -> None:
        """Make a version the champion; the one before it stays in the archive."""
        self.reconcile()  # records who was champion until now
        self._set_champion(version, "promoted", why)

    def check_champion(self, judged_against: str | None) -> None:
        """`MlimError` when the champion is not the one that a version was compared with, which took minutes."""
        present = self.holder(CHAMPION)
        if present != judged_against:
            raise MlimError(
                f"{self._name}: the champion changed meanwhile, from version {judged_against or 'none'} to "
                f"{present or 'none'}; run the command again to be compared with it"
            )

    def roll_back(self, version: str, why: str) -> None:
        """Make an earlier champion the champion again; the present one says why it is not any more."""
        self.reconcile()
        present = self.holder(CHAMPION)
        with as_mlim_error(self._uri):
            if present is not None:
                self._client.set_model_version_tag(self._name, present, ROLLED_BACK, why)
        self._set_champion(version, "rolled back", why)

    def champions(self) -> list[Event]:
        """Every recorded change of the champion, the earliest first."""
        known = self._registered()
        tags = known.tags if known else {}
        return [event for name in sorted(tags) if name.startswith(EVENT) for event in _event(tags[name])]

    def predecessor(self) -> str | None:
        """The champion before the present one, without those that were rolled back or deleted; None without one."""
        before = list(dict.fromkeys(reversed(standing(self.champions()))))
        with as_mlim_error(self._uri):
            known = {str(each.version): each for each in self._versions()}
        usable = (version for version in before if version in known and ROLLED_BACK not in known[version].tags)
        present = self.holder(CHAMPION)
        return next((version for version in usable if version != present), None)

    def reconcile(self) -> list[str]:
        """Let stages, their tags and the record of champions follow the aliases; says what did not, a sentence each."""
        found = self._disagreements()
        for _, follow in found:
            with as_mlim_error(self._uri):
                follow()
        return [sentence for sentence, _ in found]

    def disagreements(self) -> list[str]:
        """What `reconcile` would change, a sentence each; changes nothing."""
        return [sentence for sentence, _ in self._disagreements()]

    def _disagreements(self) -> list[Disagreement]:
        holders = self._holders()
        with as_mlim_error(self._uri):
            versions = self._versions()
        behind = [found for version in versions for found in self._behind(version, holders)]
        return [*behind, *self._unrecorded(holders.get(CHAMPION))]

    def _set_champion(self, version: str, kind: Literal["promoted", "rolled back"], why: str) -> None:
        self._set_alias(CHAMPION, version)
        self._add(version, kind, why)
        self.reconcile()

    def _set_alias(self, alias: str, version: str) -> None:
        with as_mlim_error(self._uri):
            self._client.set_registered_model_alias(self._name, alias, version)

    def _holders(self) -> dict[str, str]:
        known = self._registered()
        return {alias: str(version) for alias, version in known.aliases.items()} if known else {}

    def _registered(self) -> "RegisteredModel | None":
        """The registered model; None before its first version."""
        with as_mlim_error(self._uri):
            return next(iter(self._client.search_registered_models(f"name='{self._name}'")), None)

    def _versions(self) -> Sequence["ModelVersion"]:
        return self._client.search_model_versions(f"name='{self._name}'")

    def _behind(self, version: "ModelVersion", holders: dict[str, str]) -> Iterator[Disagreement]:
        """Where a version does not have the stage of its alias, or, after an alias, not that of the archive."""
        number, shown, tagged = str(version.version), version.current_stage, version.tags.get(STAGE_TAG)
        roles = [stage for alias, stage in STAGES.items() if holders.get(alias) == number]
        if holders.get(CHAMPION) == number and ROLLED_BACK in version.tags:
            yield (
                f"{self._name} version {number} is the champion and was marked as rolled back",
                partial(self._client.delete_model_version_tag, self._name, number, ROLLED_BACK),
            )
        had_none = (shown, tagged) == (NO_STAGE, None)
        stage = roles[0] if roles else FORMER
        if (shown, tagged) != (stage, stage) and (roles or not had_none):
            yield (
                f"{self._name} version {number}: stage {stage} follows the alias (it was {shown}, its tag {tagged})",
                partial(self._set_stage, number, stage),
            )

    def _set_stage(self, version: str, stage: Stage) -> None:
        self._client.set_model_version_tag(self._name, version, STAGE_TAG, stage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stages are deprecated; set while they exist
            self._client.transition_model_version_stage(self._name, version, stage)

    def _unrecorded(self, champion: str | None) -> Iterator[Disagreement]:
        """A champion that nobody recorded."""
        events = self.champions()
        if champion != (events[-1].version if events else None):
            why = "the alias was moved outside mlim, or by a command that was stopped"
            yield (
                f"{self._name}: champion is {champion or 'none'}, which nobody had recorded",
                partial(self._add, champion, "found", why),
            )

    def _add(self, version: str | None, kind: Literal["promoted", "rolled back", "found"], why: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        event = Event(time=now, version=version, kind=kind, why=why, by=person())
        with as_mlim_error(self._uri):
            self._client.set_registered_model_tag(self._name, f"{EVENT}{now[:-6]}", event.model_dump_json())


def standing(events: Sequence[Event]) -> list[str]:
    """The champions that a roll-back can go to and the present one, the latest last."""
    stack: list[str] = []
    for event in events:
        if event.kind == "rolled back" and event.version in stack:
            back = len(stack) - stack[::-1].index(event.version)  # to the last time that it was the champion
            del stack[back:]
        elif event.version is not None:
            stack.append(event.version)
    return stack


def _event(text: str) -> Iterator[Event]:
    """The event in a tag; nothing where somebody wrote something else there."""
    try:
        yield Event.model_validate_json(text)
    except ValidationError:
        return
