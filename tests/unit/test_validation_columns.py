"""Suites over columns, judged by numpy, against the library over the whole table at once."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim import validation
from mlim.errors import MlimError
from mlim.quality.conditions import BETWEEN, IN_SET, condition_of
from mlim.validation import SuiteCheck, Validation

TEXT_LIMITS = {"max_text_characters": 60, "max_text_uses": 3}
IMAGE_LIMITS = {
    "min_image_side": 32,
    "max_aspect_ratio": 5,
    "min_contrast": 0.01,
    "max_picture_uses": 3,
    "max_picture_families": 3,
    "max_picture_share": 0.05,
    "max_copied_share": 0.5,
    "folder": ".",
    "image_size": 16,
}
texts = st.tuples(st.integers(0, 70), st.booleans(), st.integers(1, 5))
fractions = st.sampled_from([0.0, 0.01, np.nextafter(np.float32(0.01), 0), 0.2, 5.0, 5.5, float("nan"), float("inf")])
pictures = st.tuples(*[st.integers(0, 70)] * 2, *[fractions] * 2, *[st.integers(0, 300)] * 2)


def text_columns(rows: list[tuple[int, bool, int]]) -> dict[str, Any]:
    found = list(zip(*rows, strict=True)) or [()] * 3
    kinds = {"text_characters": np.int32, "text_readable": bool, "text_uses": np.uint8}
    return {name: np.array(column, dtype=kinds[name]) for name, column in zip(kinds, found, strict=True)}


def image_columns(rows: list[tuple[float, ...]]) -> dict[str, Any]:
    found = list(zip(*rows, strict=True)) or [()] * 6
    kinds = {
        **dict.fromkeys(("image_width", "image_height"), np.int32),
        **dict.fromkeys(("aspect_ratio", "image_contrast"), np.float32),
        **dict.fromkeys(("picture_uses", "picture_families"), np.uint16),
    }
    columns = {name: np.array(column, dtype=kinds[name]) for name, column in zip(kinds, found, strict=True)}
    return columns | {"picture": np.full(len(rows), None, dtype=object)}


def plain(columns: dict[str, Any]) -> pd.DataFrame:
    """The table as the library reads it fast."""
    wide = {"i": np.int64, "u": np.int64, "f": np.float64, "b": bool, "O": object}
    return pd.DataFrame({name: values.astype(wide[values.dtype.kind]) for name, values in columns.items()})


def results(check: SuiteCheck) -> dict[str, Any]:
    return {identifier: (found[0].success, found[0].result) for identifier, found in check._results.items()}


def compare(suite: str, columns: dict[str, Any], limits: dict[str, Any], chunk: int) -> None:
    """The same rows, findings and results, whether the library sees the table or numpy its columns in chunks."""
    rows = len(next(iter(columns.values())))
    with TemporaryDirectory() as folder:
        opened = Validation(Path(folder))
        whole, parts, found = opened.start(suite), opened.start(suite), list[tuple[str, int]]()
        wanted = [(one.id, row) for one in whole.rows(plain(columns), limits) for row in one.rows.tolist()]
        for start in range(0, max(rows, 1), chunk):
            judged = parts.judge({name: values[start : start + chunk] for name, values in columns.items()}, limits)
            parts.add(judged, limits)
            found += [(one.id, start + row) for one in judged.rejected for row in one.rows.tolist()]
        for check in (whole, parts):
            check.whole(pd.DataFrame({"picture_copied": [0]}), limits)
        assert sorted(found) == sorted(wanted)
        assert parts.findings() == whole.findings()
        assert results(parts) == results(whole)


@settings(deadline=None, max_examples=15)
@given(st.lists(texts, max_size=60), st.integers(1, 30))
def test_numbers_and_flags_are_judged_as_the_library_does(rows, chunk):
    compare("texts", text_columns(rows), TEXT_LIMITS, chunk)


@settings(deadline=None, max_examples=15)
@given(st.lists(pictures, max_size=60), st.integers(1, 30))
def test_fractions_and_missing_values_are_judged_as_the_library_does(rows, chunk):
    """A limit is no number of 32 bits: 0.01 passes, the next smaller one does not; what is no number is missing."""
    compare("images", image_columns(rows), IMAGE_LIMITS, chunk)


def test_the_library_judges_what_has_no_condition(tmp_path):
    """Whatever a project's own suite expects of single rows."""
    assert condition_of(BETWEEN, {"column": "a", "min_value": 1, "mostly": 0.9}, "i") is None
    assert condition_of(BETWEEN, {"column": "a", "min_value": 1}, "O") is None
    assert condition_of(IN_SET, {"column": "a", "value_set": [1]}, "i") is None
    columns = text_columns([(0, True, 1), (5, False, 1), (99, True, 1)])
    check = Validation(tmp_path).start("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "condition_of", lambda *_: None)
        judged = check.judge(columns, TEXT_LIMITS)
    check.add(judged, TEXT_LIMITS)
    assert [found.rows.tolist() for found in judged.rejected] == [[0, 2], [1]]
    assert [finding.unexpected for finding in check.findings()] == [2, 1, 0]


def test_numpy_is_not_believed_where_the_library_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "condition_of", lambda *_: lambda values: np.zeros(len(values), dtype=bool))
    check = Validation(tmp_path).start("texts")
    check.add(check.judge(text_columns([(5, True, 1), (99, True, 1)]), TEXT_LIMITS), TEXT_LIMITS)
    with pytest.raises(MlimError, match=r"text_characters rejects other rows than mlim found"):
        check.findings()
