"""What the page of matches shows of large tables, and reasons that are kept from one match to the next."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.matching.explain import Change, Contribution, Explanation
from mlim.report.matches import gather as module
from mlim.steps.kept_explanations import read_explanations, write_explanations


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Pairs of ten items, with scores of two decimals and some without; read seven rows at a time."""
    generator = np.random.default_rng(0)
    sides = np.array([(one, other) for one in range(10) for other in range(one + 1, 10)])
    score = generator.integers(0, 100, len(sides)) / 100
    table = {
        "item_a": [f"i{one}" for one in sides[:, 0]],
        "item_b": [f"i{other}" for other in sides[:, 1]],
        "score": pa.array(score, mask=generator.random(len(sides)) < 0.2),
        "probability": score,
        "match": score >= 0.5,
        "found_by": [["text"]] * len(sides),
    }
    pq.write_table(pa.table(table), tmp_path / "scores.parquet")
    return tmp_path / "scores.parquet"


@pytest.mark.parametrize("most", [1, 5, 30, 100])
def test_the_pairs_nearest_to_the_threshold_are_shown(scores: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    every = pd.read_parquet(scores).dropna(subset="score")
    every = every.assign(doubt=(every["score"] - 0.5).abs())
    expected = every.sort_values(["doubt", "item_a", "item_b"]).head(most)
    found = module._doubtful(scores, 0.5, most)
    assert found[["item_a", "item_b"]].to_numpy().tolist() == expected[["item_a", "item_b"]].to_numpy().tolist()


def test_a_group_tells_its_lowest_score(scores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    groups = pd.DataFrame({"item": ["i1", "i2", "i5", "i7", "i8", "x1", "x2"], "group": [*"aabbb", *"cc"]})
    of_item = dict(zip(groups["item"], groups["group"], strict=True))
    lowest: dict[str, float] = {}
    for row in pd.read_parquet(scores).dropna(subset="score").itertuples():
        one, other = (of_item.get(str(item)) for item in (row.item_a, row.item_b))
        if one is not None and one == other:
            lowest[one] = min(float(str(row.score)), lowest.get(one, 1.0))
    assert module._lowest_scores(scores, groups).to_dict() == lowest
    assert module._lowest_scores(scores, groups.head(0)).empty


def test_reasons_come_back_but_for_items_that_changed(tmp_path: Path) -> None:
    part = Contribution("title", "text", "red", "blue", np.float64(0.25))
    why = Explanation(0.7, 0.5, 0.2, (part,), None, (), Change(("title",), "other", 0.1), True, 6)
    plain = Explanation(0.7, 0.5, 0.2, (), None, (), None, False, 0)
    path = tmp_path / "explanations.json"
    write_explanations(path, {("a", "b"): why, ("b", "c"): plain})
    assert read_explanations(path, []) == {("a", "b"): why, ("b", "c"): plain}
    assert read_explanations(path, ["c", "z"]) == {("a", "b"): why}
    path.write_text("{}")
    assert read_explanations(path, []) == {}
    assert read_explanations(tmp_path / "none.json", []) == {}
