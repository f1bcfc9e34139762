import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.pictures.listed import listed_pictures

WEB = "https://img.shop.test"
CELLS = {
    "a.jpg": ["a.jpg"],
    " a.jpg ": ["a.jpg"],
    "": [],
    "  ": [],
    "a.jpg,b.jpg": ["a.jpg", "b.jpg"],
    "a.jpg, b.JPG ,c.png": ["a.jpg", "b.JPG", "c.png"],
    "a.jpg|b.jpg": ["a.jpg", "b.jpg"],
    "a.jpg;b.jpg;": ["a.jpg", "b.jpg"],
    "a.jpg\nb.jpg": ["a.jpg", "b.jpg"],
    ",a.jpg,,b.jpg": ["a.jpg", "b.jpg"],
    '"a.jpg","b.jpg"': ["a.jpg", "b.jpg"],
    "hat, red.jpg": ["hat, red.jpg"],
    "hat, red.jpg|hat, blue.jpg": ["hat, red.jpg", "hat, blue.jpg"],
    "inner/a 1.jpg; inner/b 2.jpg": ["inner/a 1.jpg", "inner/b 2.jpg"],
    "a b.jpg": ["a b.jpg"],
    '["a.jpg", "b.jpg"]': ["a.jpg", "b.jpg"],
    '["hat, red.jpg"]': ["hat, red.jpg"],
    "['a.jpg', 'b.jpg']": ["a.jpg", "b.jpg"],
    "['a.jpg' 'b.jpg']": ["a.jpg", "b.jpg"],
    "[a.jpg, b.jpg]": ["a.jpg", "b.jpg"],
    "[]": [],
    "[null]": [],
    '[["a.jpg"], ["b.jpg"]]': ["a.jpg", "b.jpg"],
    '[{"path": "a.jpg", "bytes": null}, {"url": "b.jpg", "alt": "x"}]': ["a.jpg", "b.jpg"],
    '{"path": "a.jpg"}, {"path": "b.jpg"}': ["a.jpg", "b.jpg"],
    '{"src": "a.jpg"}': ["a.jpg"],
    "[2024] a.jpg": ["[2024] a.jpg"],
    f"{WEB}/a.jpg": [f"{WEB}/a.jpg"],
    f"{WEB}/a.jpg,{WEB}/b.jpg": [f"{WEB}/a.jpg", f"{WEB}/b.jpg"],
    f"{WEB}/w_3,h_4/a.jpg?x=1,2 , {WEB}/b": [f"{WEB}/w_3,h_4/a.jpg?x=1,2", f"{WEB}/b"],
    f"{WEB}/a|{WEB}/b;{WEB}/c\n{WEB}/d {WEB}/e": [f"{WEB}/{name}" for name in "abcde"],
    f"{WEB}/w=8/https://other.test/a.jpg": [f"{WEB}/w=8/https://other.test/a.jpg"],
    "t.parquet#3": ["t.parquet#3"],
    "12@0:100+200": ["12@0:100+200"],
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_taken_apart_where_it_lists_several_pictures(cell):
    """Point 9: commas, bars, semicolons, line ends, JSON and Python lists; a name with a comma stays whole."""
    assert listed_pictures(cell) == CELLS[cell]


@pytest.mark.parametrize(
    ("cell", "separator", "expected"),
    [
        ("a1,b2", ",", ["a1", "b2"]),
        ("a1 ## b2##", "##", ["a1", "b2"]),
        ("a.jpg,b.jpg", "|", ["a.jpg,b.jpg"]),
        ('["a", "b"]', "|", ["a", "b"]),
    ],
)
def test_a_described_separator_is_the_only_one(cell, separator, expected):
    assert listed_pictures(cell, separator) == expected


@settings(deadline=None)
@given(st.text(st.sampled_from("ab,;|[]{}\"': .jpg/\n\\")), st.none() | st.text(min_size=1, max_size=2))
def test_any_cell_gives_texts(cell, separator):
    assert all(isinstance(name, str) and name for name in listed_pictures(cell, separator))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).map(str.strip).filter(lambda name: name == name.strip(" \t\r\n'\"") != "")))
def test_a_json_list_comes_back_whole(names):
    assert listed_pictures(json.dumps(names)) == names
