"""Signatures of registered versions, with keys that the user keeps: who writes to the registry cannot forge one.

In the format of OpenSSF's model signing, by the package `model-signing` (extra `signing`); its own command verifies
them too. Two variables of the environment name PEM files of an elliptic curve: MLIM_SIGNING_KEY, the private key that
signs what is registered, and MLIM_VERIFYING_KEY, the public key that every version must then be signed with. Without
them nothing is signed or asked for, and the manifest alone says what was changed.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlim.errors import InputError
from mlim.manifest import MANIFEST, ChangedFilesError

if TYPE_CHECKING:
    from model_signing.hashing import Config

SIGNING_KEY, SIGNING_PASSWORD, VERIFYING_KEY = "MLIM_SIGNING_KEY", "MLIM_SIGNING_PASSWORD", "MLIM_VERIFYING_KEY"
SIGNATURE: Final = "model.sig"  # beside the files; the manifest, which is written later, lists it


def signing_key() -> Path | None:
    """The private key that signs, if there is one; `InputError` for one that is no file, or without the package."""
    return _key(SIGNING_KEY)


def sign(folder: Path) -> None:
    """Write the signature of all files in `folder` into it, where there is a key; `InputError` for an unusable key."""
    key = signing_key()
    if key is None:
        return
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key, password=os.environ.get(SIGNING_PASSWORD))
    except (ValueError, TypeError) as error:  # another curve, another file, a password that is missing
        raise InputError(f"{SIGNING_KEY}: {key} cannot sign ({error}); give a PEM file of an elliptic curve") from None
    config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)


def check_signature(folder: Path, model: str) -> None:
    """`ChangedFilesError` unless the files of `model` in `folder` are signed with the key that is asked for, if any."""
    key = _key(VERIFYING_KEY)
    if key is None:
        return
    if not (folder / SIGNATURE).is_file():
        raise ChangedFilesError(f"{model} is not signed, and {VERIFYING_KEY} asks for it; register the model again")
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError) as error:
        raise InputError(f"{VERIFYING_KEY}: {key} cannot verify ({error}); give the PEM file of a public key") from None
    try:
        config.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
    except Exception as error:  # a signature of any shape, from anybody
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ChangedFilesError(
            f"the files of {model} are not those that were signed with the key of {VERIFYING_KEY} ({reason}); do not "
            "use it, fetch it again or register it again"
        ) from error


def without_signing_key(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that runs a version's own code: it has no business with the private key."""
    return {name: value for name, value in environment.items() if name not in (SIGNING_KEY, SIGNING_PASSWORD)}


def _hashing() -> "Config":
    """Every file counts but the signature itself and the manifest, which lists the signature."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE, MANIFEST], ignore_git_paths=False)


def _key(variable: str) -> Path | None:
    given = os.environ.get(variable)
    if not given:
        return None
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise InputError(f"{variable} is set, which needs `pip install 'mlim[signing]'`") from None
    if not Path(given).is_file():
        raise InputError(f"{variable}: {given} is no file; give the path of a key (PEM), or unset it")
    return Path(given)
