"""`mlim promote VERSION` and `mlim rollback`: a person changes the champion, by the recipe's policy or against it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mlim.console import Terminal
from mlim.errors import InputError, RefusedError
from mlim.evaluation.gate import Objection
from mlim.evaluation.promotion import Decision, standing_objections
from mlim.recipe import Recipe
from mlim.registry import FORCED, PROMOTION, RUN_OF_REGISTRATION, Registry
from mlim.roles import CHAMPION, ROLLED_BACK
from mlim.steps.compare import read_test_pairs
from mlim.steps.deciding import Verdict, against_champion, codes, decision_of, one_line, write_decision_pages
from mlim.tracking import add_artifact
from mlim.versions import UNKNOWN
from mlim.workspace import Workspace

UNJUDGED: Final = Objection(
    "unjudged", "The quality gate has not judged this version: register its model again (`mlim register`)."
)


def promote(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, choice: str, force: str | None = None
) -> dict[str, Any]:
    """Make a version (a number or an alias) champion if the policy of the recipe has nothing against it.

    What stood against it at registration counts, and so does the comparison with the present champion on the work
    folder's test pairs. `force` says why neither counts. Gives the decision, which is recorded with the version
    whatever it is. `RefusedError` when the policy says no; `ChangedFilesError` for a version whose files are not those
    that were registered, which no reason overrules.
    """
    force = one_line(force)
    registry = Registry(recipe.tracking)
    version = registry.version_of(choice)
    for sentence in registry.roles.reconcile():
        terminal.say(sentence)
    champion = registry.roles.holder(CHAMPION)
    if champion == version:
        verdict = Verdict(False, "is the champion already")
        return decision_of(recipe, workspace, registry, version, (), verdict).model_dump(mode="json")
    registry.check(version)
    found = _standing(recipe, registry, version)
    if force is not None:
        verdict = Verdict(True, f"champion, as a person decided against the policy: {force}", force)
    elif found:
        verdict = Verdict(False, f"not promoted ({codes(found)})")
    else:
        read_test_pairs(workspace)  # a wrong work folder is no verdict
        terminal.say(f"{registry.name} version {version}: comparing with the champion, version {champion or 'none'}")
        verdict = against_champion(recipe, workspace, registry, version, champion)
    decision = decision_of(recipe, workspace, registry, version, found, verdict)
    if verdict.promoted:
        registry.roles.check_champion(champion)
    _record(recipe, registry, decision)
    if not verdict.promoted:
        raise RefusedError(_refusal(decision))
    registry.roles.promote(version, verdict.why)
    registry.show_champion()
    return decision.model_dump(mode="json")


def roll_back(recipe: Recipe, terminal: Terminal, why: str | None = None, to: str | None = None) -> dict[str, Any]:
    """Make the champion before the present one champion again, or the version `to`; gives both and the reason.

    The version that is taken back is marked: neither `register` nor `promote` makes it champion again unless forced.
    `InputError` when no earlier champion is known, `ChangedFilesError` when its files are not those registered.
    """
    why = one_line(why) or "no reason given"
    registry = Registry(recipe.tracking)
    for sentence in registry.roles.reconcile():
        terminal.say(sentence)
    present = registry.roles.holder(CHAMPION)
    if present is None:
        raise InputError(f"{registry.name} has no champion in {registry.uri}; `mlim promote VERSION` makes one")
    version = registry.roles.predecessor() if to is None else registry.version_of(to)
    if version is None:
        raise InputError(
            f"{registry.name}: no champion before version {present} is known; name one with "
            "`mlim rollback --to VERSION`"
        )
    if version == present:
        raise InputError(f"--to {to}: is the champion; name another version")
    registry.check(version)
    registry.roles.roll_back(version, why)
    registry.show_champion()
    registry.add_tags(version, {PROMOTION: f"promoted: champion again, version {present} was rolled back: {why}"})
    return {"model": registry.name, "version": version, "before": present, "why": why}


def _standing(recipe: Recipe, registry: Registry, version: str) -> list[Objection]:
    """What stands against a version by its own record: what the gate found, and that it was taken back since."""
    decided = registry.gate_decision(version)
    tags = registry.tags(version)
    if decided is None:
        return [UNJUDGED]
    now = standing_objections(tags.get("mlim.validation", UNKNOWN), 0.0, tags.get(ROLLED_BACK), recipe.promotion)
    known = {objection.code for objection in decided.objections}
    return [*decided.objections, *(each for each in now if each.code not in known)]


def _record(recipe: Recipe, registry: Registry, decision: Decision) -> None:
    """Keep a decision with the version and with the run that registered it."""
    verdict = "promoted" if decision.promoted else "not promoted"
    forced = {} if decision.forced is None else {FORCED: decision.forced}
    registry.add_tags(decision.version, {PROMOTION: f"{verdict}: {decision.why}", **forced})
    run = registry.tags(decision.version).get(RUN_OF_REGISTRATION)
    if run is None:
        return
    with TemporaryDirectory() as temporary:
        for path in write_decision_pages(decision, Path(temporary)):
            add_artifact(recipe.tracking, run, path, f"decision/{decision.time.replace(':', '')}")


def _refusal(decision: Decision) -> str:
    reasons: Sequence[Objection] = (*decision.objections, *decision.against)
    said = [f"{each.code}: {each.sentence}" for each in reasons] or [decision.why]
    head = f"{decision.model} version {decision.version} is not promoted by the policy of the recipe:"
    return "\n".join([head, *said, "overrule it with `--force WHY`, which is recorded"])
