"""What goes into a wheel: packages are listed one by one, and a forgotten one is missed only after an installation."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(path.relative_to(ROOT).parent.parts)
        for top in ("mlim", "flows")
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(listed["packages"]) == found | set(listed["package-dir"])


def test_every_file_beside_the_code_is_in_the_wheel():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    packed = {
        path
        for package, patterns in data.items()
        for name in patterns
        for path in (ROOT / package.replace(".", "/")).glob(name)
    }
    beside = {path for path in (ROOT / "mlim").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert beside == packed
