"""Signed versions: only the holder of the private key makes one that is accepted, whoever writes to the registry."""

import random
import subprocess

import pytest

import mlim
from mlim.errors import InputError
from mlim.manifest import ChangedFilesError, remove_derived, write_manifest
from mlim.registry import VERSION_SHA256, Registry
from mlim.signatures import SIGNATURE, check_signature, sign, without_signing_key
from mlim.steps.register import register
from mlim.tracking import client
from tests.registry_room import artifacts_of, put_model
from tests.unit.test_manifest import CHANGES, FILES, write

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_versions")]

TAMPERINGS = 5  # of each kind


def make_keys(folder, name):
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)], check=True, capture_output=True
    )
    return private, public


@pytest.fixture
def keys(tmp_path, monkeypatch):
    private, public = make_keys(tmp_path, "own")
    monkeypatch.setenv("MLIM_SIGNING_KEY", str(private))
    monkeypatch.setenv("MLIM_VERIFYING_KEY", str(public))
    return private, public


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_refused_even_when_the_manifest_was_written_again(change, keys, tmp_path):
    chance = random.Random(change.__name__)
    for number in range(TAMPERINGS):
        folder = tmp_path / "versions" / str(number)
        write(folder)
        sign(folder)
        write_manifest(folder)
        check_signature(folder, "the model")
        change(folder, folder / chance.choice(sorted(FILES)), chance)
        write_manifest(folder)
        with pytest.raises(ChangedFilesError, match="the model"):
            check_signature(folder, "the model")


def test_another_key_no_signature_and_a_broken_one_are_refused(keys, tmp_path, monkeypatch):
    folder = tmp_path / "version"
    write(folder)
    with pytest.raises(ChangedFilesError, match="is not signed, and MLIM_VERIFYING_KEY asks for it"):
        check_signature(folder, "the model")
    other, _ = make_keys(tmp_path, "other")
    monkeypatch.setenv("MLIM_SIGNING_KEY", str(other))
    sign(folder)
    with pytest.raises(ChangedFilesError, match="not those that were signed with the key"):
        check_signature(folder, "the model")
    (folder / SIGNATURE).write_text("{}")
    with pytest.raises(ChangedFilesError, match="not those that were signed"):
        check_signature(folder, "the model")
    monkeypatch.delenv("MLIM_VERIFYING_KEY")
    check_signature(folder, "the model")
    assert "MLIM_SIGNING_KEY" not in without_signing_key({"MLIM_SIGNING_KEY": "x", "PATH": "y"})


def test_a_key_that_cannot_be_used_is_said(keys, tmp_path, monkeypatch):
    folder = tmp_path / "version"
    write(folder)
    monkeypatch.setenv("MLIM_SIGNING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match=r"MLIM_SIGNING_KEY: .*none\.pem is no file"):
        sign(folder)
    (tmp_path / "none.pem").write_text("no key")
    with pytest.raises(InputError, match="cannot sign"):
        sign(folder)
    sign_with, _ = keys
    monkeypatch.setenv("MLIM_SIGNING_KEY", str(sign_with))
    sign(folder)
    monkeypatch.setenv("MLIM_VERIFYING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="cannot verify"):
        check_signature(folder, "the model")


def test_a_version_is_signed_when_it_is_registered_and_an_unsigned_or_forged_one_is_not_loaded(promoted, quiet, keys):
    recipe, workspace = promoted
    registry, uri = Registry(recipe.tracking), recipe.tracking.uri
    with pytest.raises(ChangedFilesError, match="version 1 is not signed"):
        mlim.load("models:/mlim-matcher/1", tracking_uri=uri)
    client(recipe.tracking).delete_registered_model_alias("mlim-matcher", "champion")  # nothing to compare with
    put_model(recipe, workspace, seed=1)
    assert register(recipe, workspace, quiet)["version"] == "2"
    registry.check("2")
    folder = artifacts_of(recipe, "2")
    assert (folder / SIGNATURE).is_file()
    code = next(folder.rglob("serving.py"))
    code.write_text(code.read_text() + "\n# forged\n")
    remove_derived(folder)
    registry.add_tags("2", {VERSION_SHA256: write_manifest(folder)})  # by one who writes to files and database
    with pytest.raises(ChangedFilesError, match="not those that were signed"):
        mlim.load("models:/mlim-matcher/2", tracking_uri=uri)
