"""The lock of a work folder: one command with its stages, by one recipe."""

import os
from pathlib import Path

import pytest

from mlim.errors import InputError, MlimError
from mlim.files import MARKER
from mlim.recipe import Recipe, load_recipe
from mlim.workspace import Workspace
from mlim.writer import TOKENS, fix_recipe, locked, only_writer, recording

DEMO = load_recipe("demo")
OTHER = load_recipe("demo", ["pairs.test_share=0.4"])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv(TOKENS, raising=False)
    return Workspace(tmp_path / "work")


def test_a_stage_shares_the_lock_and_a_stranger_does_not(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 20: what a command starts is part of it; who does not know its token is refused."""
    with only_writer(work, DEMO.record, "mlim run"):
        with only_writer(work, DEMO.record, "mlim pairs"), only_writer(work, DEMO.record, "mlim probe"):
            pass
        token = os.environ[TOKENS]
        for unknown in ("", "0" * len(token)):
            monkeypatch.setenv(TOKENS, unknown)
            with (
                pytest.raises(MlimError, match=r"`mlim run` .* is writing there"),
                only_writer(work, DEMO.record, "mlim pairs"),
            ):
                pass
        monkeypatch.setenv(TOKENS, token)
    assert os.environ[TOKENS] == ""
    with only_writer(work, OTHER.record, "mlim pairs"):
        pass


def test_a_stage_by_another_recipe_than_the_runs_is_refused(work: Workspace) -> None:
    """Point 20: params.yaml that is edited while `mlim run` goes through DVC changes no stage of that run."""
    changed = pytest.raises(InputError, match="no longer the one that `mlim run`")
    with only_writer(work, DEMO.record, "mlim run"), changed, only_writer(work, OTHER.record, "mlim pairs"):
        pass


def test_a_token_of_a_command_that_has_ended_opens_nothing(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 20: a stage left over from a run that was killed is a command like any other."""
    with only_writer(work, DEMO.record, "mlim run"):
        token = os.environ[TOKENS]
    monkeypatch.setenv(TOKENS, token)
    with only_writer(work, OTHER.record, "mlim pairs"):
        assert token in os.environ[TOKENS].split()
        monkeypatch.setenv(TOKENS, token)
        with pytest.raises(MlimError, match="`mlim pairs`"), locked(work, OTHER.record, "mlim probe"):
            pass


def test_two_folders_have_two_locks(work: Workspace, tmp_path: Path) -> None:
    """Point 20: a command may write into several folders."""
    other = Workspace(tmp_path / "other")
    with only_writer(work, DEMO.record, "one"), only_writer(other, OTHER.record, "two"):
        for place, recipe in ((work, DEMO), (other, OTHER)):
            with only_writer(place, recipe.record, "a stage"):
                pass


def test_what_a_run_began_with_is_kept_by_content(work: Workspace) -> None:
    """Point 20: the file that stages are given never holds another recipe."""
    files = [fix_recipe(work, recipe.record) for recipe in (DEMO, OTHER, DEMO)]
    assert [load_recipe(str(file)) for file in files] == [DEMO, OTHER, DEMO]
    assert files[0] == files[2] != files[1]


@pytest.mark.parametrize(
    ("failure", "left"), [(None, OTHER), (InputError("no"), DEMO), (MlimError("half"), OTHER), (SystemExit(1), OTHER)]
)
def test_the_record_changes_with_what_is_made(work: Workspace, failure: BaseException | None, left: Recipe) -> None:
    """Point 20: inputs that are refused make nothing."""
    with recording(work, DEMO.record):
        pass

    def again() -> None:
        with recording(work, OTHER.record):
            if failure is not None:
                raise failure

    if failure is None:
        again()
    else:
        with pytest.raises(type(failure)):
            again()
    assert load_recipe(str(work.recipe)) == left


def test_a_refused_folder_has_no_lock(tmp_path: Path) -> None:
    """Points 19 and 20: nothing at all is written into a folder that is not ours."""
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="did not make"), only_writer(Workspace(tmp_path), DEMO.record, "mlim run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / MARKER).exists()
