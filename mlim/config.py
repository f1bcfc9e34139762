"""The base of every typed configuration: frozen, unknown keys refused with the nearest known one named."""

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from mlim.errors import InputError

C = TypeVar("C", bound="Config")

ENVIRONMENT_VARIABLE = re.compile(r"\$\{(\w+)\}")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_NAME_CHARACTERS = 100  # file systems take 255 with what is added to a name
MAX_TITLE_BYTES = 200


def _plain(name: str) -> str:
    if len(name) > MAX_NAME_CHARACTERS or not PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"{name[:MAX_NAME_CHARACTERS]!r} names a folder or an address, so it must be made of letters a to z, "
            f"digits, `.`, `_` and `-`, at most {MAX_NAME_CHARACTERS}, and begin with a letter, a digit or `_`; choose "
            "another name"
        )
    return name


def _title(name: str) -> str:
    shaped = name.isprintable() and name == name.strip() and 0 < len(name.encode("utf-8", "replace")) <= MAX_TITLE_BYTES
    if not shaped or not {".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(
            f"{name[:MAX_NAME_CHARACTERS]!r} names a folder, so it must be one line of 1 to {MAX_TITLE_BYTES} bytes "
            "that does not begin or end with a blank, without `.` or `..` between its slashes; choose another name"
        )
    return name


PlainName = Annotated[str, AfterValidator(_plain)]
"""A name that can be that of a file or folder, or stand in an address, and leads nowhere else."""

Title = Annotated[str, AfterValidator(_title)]
"""What a person calls something; it may hold blanks, slashes and any letters, and leads nowhere else either."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice in a mapping is an error; the library keeps the last one silently."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written; `ComposerError` at the second of two equal keys."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                mark = first.setdefault((key.tag, key.value), key.start_mark)
                if mark is not key.start_mark:
                    problem = f"`{key.value}` is already a key of this mapping in line {mark.line + 1}; keep one"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
        return node


class Config(BaseModel):
    """A frozen configuration node; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def load_yaml(text: str) -> Any:
    """What a YAML text holds; `yaml.YAMLError` also where a key is repeated."""
    return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a safe loader


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `InputError` names file, line and column when it cannot be read."""
    try:
        loaded = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name and the permissions") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be read; start from a file made by `mlim init`") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds no `key: value` mapping; start from a file made by `mlim init`")
    return loaded


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "unreadable"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


def parse(model: type[C], values: Mapping[str, Any], where: str | Callable[[tuple[str, ...]], str]) -> C:
    """Validate `values` as `model`; all problems are raised together as one `InputError`, each led by `where`.

    `where` may depend on the keys that lead to the value.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    leads = [where if isinstance(where, str) else where(_location(details)) for details in found]
    raise InputError(*(f"{lead}: {_explain(model, details)}" for lead, details in zip(leads, found, strict=True)))


def problems_of(model: type[BaseModel], found: Iterable[Any]) -> list[str]:
    """The problems that pydantic found in values for `model` (`ValidationError.errors()`), one sentence each."""
    return [_explain(model, details) for details in found]


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a mistyped name: ' (did you mean `x`?)' or the list of known names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean `{close[0]}`?)"
    return f" (known: {', '.join(known)})" if known else ""


def _explain(model: type[BaseModel], details: Any) -> str:
    location = _location(details)
    path = ".".join(location)
    if details["type"] == "extra_forbidden":
        return f"unknown key `{path}`{nearest(location[-1], _known_keys(model, location[:-1]))}"
    if details["type"] == "missing":
        return f"missing key `{path}`"
    if details["type"] == "tuple_type" and location:
        return f"`{path}`: must be a list{_as_list(location[-1], details['input'])}"
    message: str = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error" and not path:
        return message
    given = "" if details["type"] == "value_error" else f", got {details['input']!r}"
    return f"`{path}`: {message[:1].lower() + message[1:]}{given}"


def _as_list(key: str, given: Any) -> str:
    """How to write a single value as a list; what is no single value is shown as it is."""
    if not isinstance(given, str | int | float):
        return f", got {given!r}"
    written = yaml.safe_dump([given], default_flow_style=True, allow_unicode=True, width=float("inf")).strip()
    return f"; write `{written}`" if key.isdecimal() else f"; write `{key}: {written}`"


def _location(details: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in details["loc"] if part != "[key]")  # pydantic's mark for the key of a mapping


def _known_keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The field names of the node at `location`; empty where it is unknown."""
    nodes = [model]
    for part in location:
        nodes = [inner for node in nodes for inner in _step_into(node, part)]
    return [name for node in nodes for name in node.model_fields]


def _step_into(node: type[BaseModel], part: str) -> Iterator[type[BaseModel]]:
    field = node.model_fields.get(part)
    if field is not None:
        yield from _models_in(field.annotation)
    else:  # a key of a mapping (`variants.NAME`) or a tagged union's tag: stay where we are
        yield node


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, all else replaced; the inputs stay untouched."""
    result = _copy(base)
    for key, value in _copy(over).items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` assignments (values are read as YAML) to a nested mapping; the input stays untouched.

    A mapping that is assigned to a section changes the keys that it names.
    """
    result: dict[str, Any] = _copy(values)
    problems = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            problems.append(f"--set {assignment}: write it as key.subkey=value")
            continue
        try:
            _assign(result, path.split("."), load_yaml(text), assignment)
        except InputError as error:
            problems.append(str(error))
        except yaml.YAMLError as error:
            problems.append(f"--set {assignment}: is not valid YAML: {_yaml_problem(error)}")
    if problems:
        raise InputError(*problems)
    return result


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _assign(node: dict[str, Any], path: Sequence[str], value: Any, assignment: str) -> None:
    for part in path[:-1]:
        inner = node.get(part)
        if not isinstance(inner, dict):
            raise InputError(f"--set {assignment}: no section `{part}`{nearest(part, list(node))}")
        node = inner
    node.update(merged(node, {path[-1]: value}))
