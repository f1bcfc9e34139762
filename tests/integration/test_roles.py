"""Aliases, stages and the record of champions, in a real registry, also when a command dies between two calls."""

import os
import signal

import pytest

from mlim.errors import MlimError
from mlim.recipe.tracking import TrackingConfig
from mlim.registry import Registry
from mlim.roles import EVENT, ROLLED_BACK, STAGE_TAG, standing
from mlim.tracking import client

pytestmark = pytest.mark.integration

NAME = "shoes"
WRITES = (
    "set_registered_model_alias",
    "set_registered_model_tag",
    "set_model_version_tag",
    "delete_model_version_tag",
    "transition_model_version_stage",
)


@pytest.fixture
def tracking(tmp_path, new_store):
    """A registry with three versions of a model; their files play no part."""
    tracking = TrackingConfig(uri=new_store(tmp_path / "own.db"), model_name=NAME)
    store = client(tracking)
    store.create_registered_model(NAME)
    for number in range(3):
        store.create_model_version(NAME, source=str(tmp_path / str(number)))
    return tracking


def roles_of(tracking):
    return Registry(tracking).roles


def shown(tracking):
    """Alias, stage and tag of each version, as a person sees them in MLflow's pages."""
    versions = client(tracking).search_model_versions(f"name='{NAME}'")
    roles = roles_of(tracking)
    return {
        str(each.version): (roles.of(str(each.version)), each.current_stage, each.tags.get(STAGE_TAG))
        for each in versions
    }


def assert_nothing_disagrees(tracking):
    for aliases, stage, tag in shown(tracking).values():
        if "champion" in aliases:
            assert (stage, tag) == ("Production", "Production")
        elif "challenger" in aliases:
            assert (stage, tag) == ("Staging", "Staging")
        else:
            assert (stage, tag) in {("None", None), ("Archived", "Archived")}
    champion = roles_of(tracking).holder("champion")
    recorded = [event.version for event in roles_of(tracking).champions()]
    assert (recorded or [None])[-1] == champion


def test_stages_follow_the_aliases(tracking):
    roles = roles_of(tracking)
    roles.set_challenger("1")
    roles.promote("1", "first")
    assert shown(tracking)["1"] == (["challenger", "champion"], "Production", "Production")
    roles.set_challenger("2")
    roles.promote("2", "better")
    assert shown(tracking) == {
        "1": ([], "Archived", "Archived"),
        "2": (["challenger", "champion"], "Production", "Production"),
        "3": ([], "None", None),
    }
    assert_nothing_disagrees(tracking)
    assert [(event.version, event.kind, event.why) for event in roles.champions()] == [
        ("1", "promoted", "first"),
        ("2", "promoted", "better"),
    ]
    assert roles.reconcile() == []


def test_a_roll_back_goes_to_the_champion_before_and_never_to_one_that_was_taken_back(tracking):
    roles = roles_of(tracking)
    assert roles.predecessor() is None
    for version in ("1", "2", "3"):
        roles.promote(version, "better")
    assert roles.predecessor() == "2"
    roles.roll_back("2", "blue shirts")
    assert client(tracking).get_model_version(NAME, "3").tags[ROLLED_BACK] == "blue shirts"
    assert roles.predecessor() == "1"
    roles.roll_back("1", "also blue shirts")
    assert roles.predecessor() is None
    roles.promote("3", "mended")
    assert ROLLED_BACK not in client(tracking).get_model_version(NAME, "3").tags
    assert roles.predecessor() == "1"
    assert standing(roles.champions()) == ["1", "3"]
    assert_nothing_disagrees(tracking)


def test_a_version_that_was_champion_twice_leads_back_to_the_one_before(tracking):
    roles = roles_of(tracking)
    for version in ("1", "2", "1", "3"):
        roles.promote(version, "better")
    roles.roll_back("1", "blue shirts")
    assert standing(roles.champions()) == ["1", "2", "1"]
    assert roles.predecessor() == "2"


def test_an_alias_that_a_person_moved_is_followed_and_recorded(tracking):
    roles = roles_of(tracking)
    roles.promote("1", "first")
    client(tracking).set_registered_model_alias(NAME, "champion", 3)
    sentences = roles.reconcile()
    assert any("version 3: stage Production follows the alias" in sentence for sentence in sentences)
    assert roles.champions()[-1].kind == "found"
    assert roles.predecessor() == "1"
    assert_nothing_disagrees(tracking)
    client(tracking).delete_registered_model_alias(NAME, "champion")
    roles.reconcile()
    assert_nothing_disagrees(tracking)
    client(tracking).set_registered_model_tag(NAME, f"{EVENT}9", "no event")
    assert roles.champions()[-1].version is None


@pytest.mark.parametrize("change", ["promote", "roll_back"])
def test_killed_between_any_two_calls_the_next_command_mends_it(tracking, change):
    """The alias has moved or not; whatever was not yet written follows it, and the same command then does its work."""
    first = roles_of(tracking)
    for version in ("1", "2"):
        first.set_challenger(version)
        first.promote(version, "better")
    kills = 0
    while killed_after(kills, tracking, change):
        kills += 1
        roles = roles_of(tracking)
        roles.reconcile()
        assert_nothing_disagrees(tracking)
        assert roles.holder("champion") in ("1", "2", "3")
        tags = client(tracking).get_model_version(NAME, roles.holder("champion")).tags
        assert ROLLED_BACK not in tags
        if roles.holder("champion") != "2":  # the alias had moved: back to the start
            roles.promote("2", "again")
    assert kills >= 6  # alias, event, and stage and tag of two versions
    assert roles_of(tracking).holder("champion") == ("3" if change == "promote" else "1")
    assert_nothing_disagrees(tracking)


def killed_after(calls, tracking, change):
    """Whether a process that changes the champion died at its write after so many; it is killed with SIGKILL."""
    child = os.fork()
    if child == 0:
        roles = roles_of(tracking)
        store, left = roles._client, [calls]

        def counted(write):
            def call(*arguments, **named):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(*arguments, **named)

            return call

        for name in WRITES:
            setattr(store, name, counted(getattr(store, name)))
        getattr(roles, change)("3" if change == "promote" else "1", "why")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        assert status == 0
    return os.WIFSIGNALED(status)


def test_a_champion_that_changed_during_the_comparison_is_noticed(tracking):
    """A roll-back while a version is compared with the champion of before must not be undone."""
    roles = roles_of(tracking)
    roles.check_champion(None)
    roles.promote("1", "first")
    roles.check_champion("1")
    with pytest.raises(MlimError, match="the champion changed meanwhile, from version none to 1"):
        roles.check_champion(None)
