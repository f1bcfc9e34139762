"""What was changed in the files of a version is noticed, whatever was changed."""

import random
import shutil

import pytest

from mlim.manifest import MANIFEST, ChangedFilesError, check_manifest, remove_derived, write_manifest

TAMPERINGS = 1000
FILES = {
    "MLmodel": b"flavors: {}\n",
    "serving.py": b"print('model')\n",
    "artifacts/matcher/model.safetensors": bytes(range(256)),
    "artifacts/matcher/serving.json": b'{"threshold": 0.5}',
    "code/mlim/__init__.py": b"",
}


def write(folder):
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def flip(folder, path, chance):
    data = bytearray(path.read_bytes() or b"\0")
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def cut(folder, path, chance):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))] if data else b"\n")


def append(folder, path, chance):
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 9)))


def remove(folder, path, chance):
    path.unlink()


def add(folder, path, chance):
    path.with_name(f"new-{chance.randrange(99)}{path.suffix}").write_bytes(path.read_bytes())


def rename(folder, path, chance):
    path.rename(path.with_name(f"{path.name}.{chance.randrange(99)}"))


def link(folder, path, chance):
    """The same bytes, from a place that can change later."""
    elsewhere = folder.with_name(f"{folder.name}-elsewhere-{path.name}")
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def link_folder(folder, path, chance):
    path.with_name(f"linked-{chance.randrange(99)}").symlink_to(folder.parent)


def swap(folder, path, chance):
    other = chance.choice([each for each in FILES if folder / each != path])
    first, second = path.read_bytes(), (folder / other).read_bytes()
    path.write_bytes(second)
    (folder / other).write_bytes(first)


def seal_again(folder, path, chance):
    """As one who knows about the manifest: only its record in the registry shows it."""
    append(folder, path, chance)
    write_manifest(folder)


CHANGES = (flip, cut, append, remove, add, rename, link, link_folder, swap, seal_again)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_random_change_is_refused(change, tmp_path):
    """1,000 of 1,000, a hundred of each kind."""
    chance = random.Random(change.__name__)
    missed = []
    for number in range(TAMPERINGS // len(CHANGES)):
        folder = tmp_path / str(number)
        write(folder)
        recorded = write_manifest(folder)
        path = folder / chance.choice(sorted(FILES))
        change(folder, path, chance)
        try:
            check_manifest(folder, "the model", recorded)
        except ChangedFilesError:
            continue
        missed.append((number, path.name))
    assert missed == []


def test_what_was_not_changed_is_accepted_with_what_python_and_mlflow_leave_there(tmp_path):
    write(tmp_path)
    recorded = write_manifest(tmp_path)
    (tmp_path / "code" / "mlim" / "__pycache__").mkdir()
    (tmp_path / "code" / "mlim" / "__pycache__" / "x.pyc").write_bytes(b"code")
    with pytest.raises(ChangedFilesError, match=r"x\.pyc changed"):
        check_manifest(tmp_path, "the model", recorded)
    remove_derived(tmp_path)
    check_manifest(tmp_path, "the model", recorded)


@pytest.mark.parametrize("text", [None, "", "[]", "{", "[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_refused(text, tmp_path):
    write(tmp_path)
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ChangedFilesError, match="the model"):
        check_manifest(tmp_path, "the model")
