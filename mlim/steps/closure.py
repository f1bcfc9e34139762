"""The code that a step's result depends on: its module and all of ours that this imports, found by reading it.

What can change a result counts. What only says, shows, records or starts does not, and neither do the recipe and the
work folder: their values reach a step through params.yaml and through the paths in dvc.yaml (docs/architecture.md).
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.util import resolve_name
from itertools import chain
from pathlib import Path

from mlim.errors import InputError
from mlim.processes import collection_paused

PACKAGE = "mlim"
WITHOUT_EFFECT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("console", "errors", "failures", "processes", "recipe"),
        *("tracking", "offline", "outbox", "versions", "workspace"),
    )
)
BESIDE_PACKAGE: Mapping[str, tuple[str, ...]] = {  # what a module reads besides what it imports
    f"{PACKAGE}.validation": ("great_expectations/expectations", f"{PACKAGE}/data_docs")
}


class Sources:
    """The package's files in a project folder."""

    def __init__(self, root: Path) -> None:
        """`InputError` when the folder `root` does not hold the package."""
        if not (root / PACKAGE / "__init__.py").is_file():
            raise InputError(f"{root.resolve()} holds no {PACKAGE}/ of the program's code; go to the project's folder")
        found = (path.relative_to(root) for path in (root / PACKAGE).rglob("*") if path.is_file())
        self._files = sorted(path for path in found if not any(part.startswith((".", "__py")) for part in path.parts))
        self._modules = {_module(path): path for path in self._files if path.suffix == ".py"}
        with collection_paused():  # parsing makes a million nodes, which the collector would look through
            self._nodes = {module: _nodes_in(root / path) for module, path in self._modules.items()}

    def closure(self, roots: Iterable[str]) -> list[str]:
        """The files that the modules `roots` are made of, sorted; a folder stands for all that lies in it.

        A root counts even where it has no effect on other steps.
        """
        modules, waiting = set[str](), list(roots)
        while waiting:
            module = waiting.pop()
            if module not in modules:
                modules.add(module)
                waiting += filter(_has_effect, self._imports(module))
        files = {self._modules[module] for module in modules}.union(*map(self._data, modules))
        beside = (BESIDE_PACKAGE[module] for module in modules & BESIDE_PACKAGE.keys())
        return sorted({*self._folded(files), *chain.from_iterable(beside)})

    def _imports(self, module: str) -> set[str]:
        """Our modules that a module imports, inside functions too, and the packages they lie in, which run first."""
        is_package = self._modules[module].name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        named = {name for node in self._nodes[module] for name in _imported(node, package)}
        return {known for name in (module, *named) for known in _with_packages(name) if known in self._modules}

    def _data(self, module: str) -> set[Path]:
        """The package's other files that a module reads: those it names; a package has those that no module names."""
        names, path = self._texts[module], self._modules[module]
        own = self._unnamed if path.name == "__init__.py" else frozenset()
        return {file for file in self._others if file.name in names or (file in own and file.parent == path.parent)}

    @cached_property
    def _others(self) -> frozenset[Path]:
        return frozenset(self._files) - frozenset(self._modules.values())

    @cached_property
    def _unnamed(self) -> frozenset[Path]:
        return frozenset(file for file in self._others if not any(file.name in names for names in self._texts.values()))

    @cached_property
    def _texts(self) -> dict[str, set[object]]:
        """The constants that are written in each module."""
        return {
            module: {node.value for node in nodes if isinstance(node, ast.Constant)}
            for module, nodes in self._nodes.items()
        }

    def _folded(self, files: set[Path]) -> Iterator[str]:
        """The files; where they are all that lies in and below a folder, the (outermost) folder."""
        partial = {folder for file in self._files if file not in files for folder in file.parents}
        for file in files:
            whole = [folder for folder in file.parents if folder not in partial]
            yield (whole[-1] if whole else file).as_posix()


def _has_effect(module: str) -> bool:
    """Whether a module can change a result; the package itself only offers names to those who import it."""
    return module != PACKAGE and WITHOUT_EFFECT.isdisjoint(_with_packages(module))


def _module(path: Path) -> str:
    """The name of the module that a file is."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _nodes_in(path: Path) -> Sequence[ast.AST]:
    """The imports and the constants in a file, wherever they stand; `InputError` when it is no Python."""
    try:
        return _nodes_of(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: is not valid Python ({error.msg}); correct it") from None


@lru_cache(maxsize=1024)  # every pipeline of a project is made of the same files
def _nodes_of(text: str) -> Sequence[ast.AST]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant)]


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The modules that a statement in a module of `package` may import: `from a import b` may mean `a.b`."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else str(node.module)
        yield origin
        yield from (f"{origin}.{name.name}" for name in node.names)


def _with_packages(name: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while name:
        yield name
        name = name.rpartition(".")[0]
