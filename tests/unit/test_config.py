import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.config import Config, nearest, override, parse, read_yaml
from mlim.errors import InputError


class Lamp(Config):
    watts: int
    colour: str = "white"


class Room(Config):
    lamp: Lamp
    lamps: dict[str, Lamp] | None = None
    walls: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def problems_of(values):
    with pytest.raises(InputError) as caught:
        parse(Room, values, "room.yaml")
    return list(caught.value.problems)


def test_good_values_become_a_frozen_tree():
    room = parse(Room, {"lamp": {"watts": 5}}, "room.yaml")
    assert room.lamp == Lamp(watts=5, colour="white")
    with pytest.raises(ValueError, match="frozen"):
        room.lamp.watts = 6


def test_all_problems_are_reported_at_once_each_with_its_file():
    problems = problems_of({"lamp": {"wats": 5, "colour": 3}, "door": 1})
    assert len(problems) == 4
    assert all(problem.startswith("room.yaml: ") for problem in problems)
    message = "\n".join(problems)
    assert "missing key `lamp.watts`" in message
    assert "unknown key `lamp.wats` (did you mean `watts`?)" in message
    assert "`lamp.colour`" in message
    assert "got 3" in message
    assert "unknown key `door`" in message


def test_the_nearest_name_is_found_inside_mappings():
    [problem] = problems_of({"lamp": {"watts": 1}, "lamps": {"desk": {"watts": 1, "color": "red"}}})
    assert problem == "room.yaml: unknown key `lamps.desk.color` (did you mean `colour`?)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("red", "must be a list; write `walls: [red]`"),
        ("a: b", "must be a list; write `walls: ['a: b']`"),
        ({"red": 1}, "must be a list, got {'red': 1}"),
        (None, "must be a list, got None"),
    ],
)
def test_a_single_value_in_place_of_a_list_is_shown_as_one(given, message):
    [problem] = problems_of({"lamp": {"watts": 1}, "walls": given})
    assert problem == f"room.yaml: `walls`: {message}"


def test_a_single_value_in_a_list_of_lists_is_shown_as_a_list():
    [problem] = problems_of({"lamp": {"watts": 1}, "rows": ["red"]})
    assert problem == "room.yaml: `rows.0`: must be a list; write `[red]`"


def test_nearest_lists_all_names_when_none_is_near():
    assert nearest("zzz", ["red", "blue"]) == " (known: red, blue)"
    assert nearest("zzz", []) == ""


def test_override_sets_nested_values_and_leaves_the_input_alone():
    values = {"lamp": {"watts": 5}, "name": "x"}
    assert override(values, ["lamp.watts=7", "lamp.colour=a=b", "name=[1, 2]"]) == {
        "lamp": {"watts": 7, "colour": "a=b"},
        "name": [1, 2],
    }
    assert values == {"lamp": {"watts": 5}, "name": "x"}


def test_override_tells_every_bad_assignment():
    with pytest.raises(InputError) as caught:
        override({"lamp": {"watts": 5}}, ["lamp.watts", "lmap.watts=3", "=3", "lamp.watts=[", "lamp.watts.x=1"])
    problems = caught.value.problems
    assert len(problems) == 5
    assert "key.subkey=value" in problems[0]
    assert "(did you mean `lamp`?)" in problems[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"a: 1\nb: c: d\n", "line 2"),
        (b"- 1\n", "key: value"),
        (b"", "key: value"),
        (b"a: \xff\n", "UTF-8"),
        (b"a: 1\nb: 2\na: 3\n", "`a` is already a key of this mapping in line 1; keep one (line 3, column 1)"),
        (b"a:\n  - {b: 1, b: 1}\n", "`b` is already a key of this mapping in line 2"),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_key_may_be_repeated_in_another_mapping_and_replace_a_merged_one(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("one: &one {a: 1, b: 2}\ntwo: &two {<<: *one, a: 3}\nthree: {<<: *two, b: 4}\n")
    assert read_yaml(path)["three"] == {"a": 3, "b": 4}


def test_a_repeated_key_of_an_assignment_is_named():
    with pytest.raises(InputError, match=r"--set lamp=\{watts: 1, watts: 2\}: .*`watts` is already a key"):
        override({"lamp": {"watts": 5}}, ["lamp={watts: 1, watts: 2}"])


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


@settings(deadline=None)
@given(st.text())
def test_override_never_fails_but_as_a_persons_mistake(assignment):
    with contextlib.suppress(InputError):
        override({"lamp": {"watts": 5}}, [assignment])
