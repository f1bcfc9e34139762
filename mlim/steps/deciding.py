"""Who is champion: what stands against a version, the comparison with the present champion, and the record of both."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mlim.errors import InputError
from mlim.evaluation.gate import Objection
from mlim.evaluation.promotion import (
    Comparison,
    Decision,
    comparison_objections,
    measured,
    slow_objections,
)
from mlim.files import read_json, write_json
from mlim.manifest import ChangedFilesError
from mlim.recipe import Recipe
from mlim.registry import FORCED, Registry
from mlim.report.decision import decision_page
from mlim.roles import CHAMPION
from mlim.steps.compare import compare, read_test_pairs, requests
from mlim.steps.own_process import answer_alone
from mlim.versions import person
from mlim.workspace import DECISION_PAGE, Workspace

DECISION = "decision.json"


class Verdict(NamedTuple):
    """Whether a version becomes champion, why, and what a person said against the objections, if anything.

    `against` are the objections of the `comparison` with the present champion, where there was one.
    """

    promoted: bool
    why: str
    forced: str | None = None
    against: tuple[Objection, ...] = ()
    comparison: Comparison | None = None


def one_line(force: str | None) -> str | None:
    """A person's reason as it stands in lists; `InputError` for a blank one."""
    if force is not None and not force.strip():
        raise InputError(
            "--force: is blank; say why the objections do not count, for those who find this version later"
        )
    return None if force is None else " ".join(force.split())


def decide(
    recipe: Recipe,
    workspace: Workspace,
    registry: Registry,
    version: str,
    found: Sequence[Objection],
    force: str | None,
) -> Verdict:
    """Champion when there is no objection, or a person overrules them, and it beats the present champion."""
    champion = registry.roles.holder(CHAMPION)
    if champion == version:  # its files were opened: registration gives no other
        return _stays(registry, version, found, force)
    if found and force is None:
        return Verdict(
            False,
            f"challenger, not promoted ({codes(found)}): do what the objections say and register again, or "
            "overrule them with `mlim register --force WHY`",
        )
    verdict = against_champion(recipe, workspace, registry, version, champion)
    if not found or not verdict.promoted:
        return verdict
    return verdict._replace(
        why=f"{verdict.why}; forced against objections ({codes(found)}): {force}",
        forced=force,
    )


def _stays(registry: Registry, version: str, found: Sequence[Objection], force: str | None) -> Verdict:
    """The present champion was registered again: it stays, as others may use it, whatever is found now."""
    forced = force or registry.tags(version).get(FORCED)
    kept = "is the champion already; nothing in it has changed"
    if not found:
        return Verdict(False, kept)
    if forced is not None:
        return Verdict(False, f"{kept}; forced against objections ({codes(found)}): {forced}", forced)
    return Verdict(
        False,
        f"{kept}, but it would not be promoted now ({codes(found)}): stop using it (`mlim rollback`), or give a reason "
        "with `mlim register --force WHY`; a version that passes and scores higher replaces it",
    )


def against_champion(
    recipe: Recipe, workspace: Workspace, registry: Registry, version: str, champion: str | None
) -> Verdict:
    """Champion when no other can be used, or when the recipe's policy finds nothing against replacing the present one.

    Both answer the same test pairs with their own code, in processes of their own.
    """
    if champion is None:
        return _first(recipe, workspace, registry, version)
    try:
        found = compare(recipe, workspace, registry, version, champion)
    except ChangedFilesError as error:  # it is unusable and must not block one that works
        return Verdict(True, f"champion without a comparison: version {champion}, champion until now, is lost: {error}")
    except Exception as error:  # an old version may fail in any way; a person has to look at it
        reason = str(error).splitlines()[0]
        return Verdict(False, f"challenger; champion version {champion} cannot be scored ({reason}), compare by hand")
    against = tuple(comparison_objections(found, recipe.promotion))
    if against:
        return Verdict(False, f"challenger, {'; '.join(each.sentence for each in against)}", None, against, found)
    return Verdict(True, f"champion, {measured(found)}", None, (), found)


def _first(recipe: Recipe, workspace: Workspace, registry: Registry, version: str) -> Verdict:
    """A first version has no opponent; only a limit of its time is left to be asked."""
    slow: tuple[Objection, ...] = ()
    if recipe.promotion.max_milliseconds is not None:
        timed = recipe.promotion.timed_requests
        sent = requests(recipe, workspace, read_test_pairs(workspace).head(timed), timed)
        slow = tuple(slow_objections(answer_alone(registry, version, sent, timed).milliseconds, None, recipe.promotion))
    if slow:
        return Verdict(False, f"challenger, {'; '.join(each.sentence for each in slow)}", None, slow)
    return Verdict(True, "champion, the first of this model")


def codes(found: Sequence[Objection]) -> str:
    """The codes of objections, each once."""
    return ", ".join(dict.fromkeys(objection.code for objection in found))


def decision_of(
    recipe: Recipe,
    workspace: Workspace,
    registry: Registry,
    version: str,
    found: Sequence[Objection],
    verdict: Verdict,
) -> Decision:
    """A verdict with everything that it follows from."""
    pairs = workspace.pairs / "summary.json"
    return Decision(
        model=registry.name,
        version=version,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        by=person(),
        promoted=verdict.promoted,
        why=verdict.why,
        forced=verdict.forced,
        objections=tuple(found),
        against=verdict.against,
        comparison=verdict.comparison,
        test_pairs_sha256=read_json(pairs).get("test_pairs_sha256") if pairs.is_file() else None,
        policy=recipe.promotion,
    )


def write_decision_pages(decision: Decision, folder: Path) -> list[Path]:
    """Write a decision into `folder`, for machines and for people; gives both files."""
    data, page = folder / DECISION, folder / DECISION_PAGE
    write_json(data, decision.model_dump(mode="json"))
    page.write_text(decision_page(decision), encoding="utf-8")
    return [data, page]
