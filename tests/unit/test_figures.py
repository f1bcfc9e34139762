"""Figures: equal bytes for equal numbers, and nothing that a caller may leave out breaks them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mlim.errors import MlimError
from mlim.report import figures
from mlim.training.metric_logger import ALL_MODES


def history(modes, losses):
    rows = [{"step": step, "kind": "train", "mode": modes[step % len(modes)]} for step in range(1, 21)]
    rows += [{"step": step, "kind": "validation", "mode": None} for step in (10, 20)]
    frame = pd.DataFrame(rows)
    for loss in ("mlm", "recon", "itm", "match"):
        frame[loss] = 1 / frame["step"] if loss in losses else np.nan
    return frame


def test_a_curve_over_several_modes_shows_the_value_of_the_tables():
    """Not the mean of the modes' means: a mode counts by its targets."""
    rows = [("light", 1.0), ("heavy_text", 3.0), (ALL_MODES, 2.5)]
    new = pd.DataFrame([{"step": 20, "kind": "validation", "mode": mode, "mlm": value} for mode, value in rows])
    assert figures._points(new, "mlm", "validation")[1].tolist() == [2.5]
    assert figures._points(new.query("mode != 'all'"), "mlm", "validation")[1].tolist() == [2.0]  # of earlier versions


def draw_losses_of_one(path):
    figures.draw_losses({"a": history(["heavy_image", "light"], ["mlm", "recon"])}, path)


def draw_losses_of_two(path):
    both = {"a": history(["naive"], ["mlm"]), "b": history(["light"], ["mlm", "itm"]).query("kind == 'train'")}
    figures.draw_losses(both, path)


def draw_pr_curves(path):
    curve = pd.DataFrame({"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.8, 0.6]})
    figures.draw_pr_curves({"model": curve, "costs $5 or $6": curve}, 0.6, path)


def draw_figure2(path):
    rows = [(at, partner, at, at - 0.1, at + 0.1) for at in (0.2, 0.8) for partner in ("own", "random", "empty")]
    frame = pd.DataFrame(rows, columns=["probability", "partner", "loss", "low", "high"])
    figures.draw_figure2(frame, path, "title", "loss")


def draw_reconstructions(path):
    row = [np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.float32)]
    figures.draw_reconstructions([row, row], ["own", "restored"], path)


def draw_table_bars(path):
    table = pd.DataFrame({"label": ["a", "b"], "pr_auc": [0.7, 0.8], "low": [0.6, 0.7], "high": [0.8, 0.9]})
    figures.draw_table_bars(table, path, prevalence=0.5)


def draw_forest(path, **kind):
    effects = pd.DataFrame(
        {
            "label": ["A against B", "A against a row with a long name", "C"],
            "group": ["data", None, "others"],
            "value": [0.03, -0.02, 0.004],
            "low": [0.02, -0.03, -0.01],
            "high": [0.04, -0.01, 0.02],
            "verdict": ["supported", "contradicted", "not separated"],
            "by_seed": [[0.02, 0.03, 0.04], [-0.02], [0.0, 0.01]],
        }
    )
    figures.draw_forest(effects, path, margin=0.01, **kind)


def draw_label_curves(path, names=("a",), **kind):
    ends = {"value": 0.8, "low": 0.7, "high": 0.9}
    rows = {"pretrained": ends, "unpretrained": {"value": 0.7, "low": None, "high": None}, "difference": ends}
    points = [{"pairs": pairs, **rows} for pairs in (500, 1500)]
    figures.draw_label_curves([(name, points) for name in names], path, "PR-AUC", **kind)


def draw_three_label_curves(path):
    draw_label_curves(path, names=("a", "b", "c"))


DRAWINGS = [
    draw_label_curves,
    draw_three_label_curves,
    draw_losses_of_one,
    draw_losses_of_two,
    draw_pr_curves,
    draw_figure2,
    draw_reconstructions,
    draw_table_bars,
    draw_forest,
]


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_equal_numbers_give_equal_bytes(draw, suffix, tmp_path: Path):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_png_has_a_white_ground_and_ink(tmp_path: Path):
    draw_figure2(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels[0, 0] == 255
    assert pixels.min() < 80


def test_a_forest_for_another_page_brings_its_ground(tmp_path: Path):
    draw_forest(tmp_path / "ours.svg")
    draw_forest(tmp_path / "theirs.svg", ground=True)
    ours, theirs = ((tmp_path / f"{name}.svg").read_text() for name in ("ours", "theirs"))
    assert "fill: #ffffff" in theirs
    assert "fill: #ffffff" not in ours


def test_long_labels_of_a_forest_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "Figure", lambda **looks: drawn.append(Figure(**looks)) or drawn[-1])
    names = ["a name that takes three lines beside its bar", "short", "another name that takes three lines or more"]
    effects = pd.DataFrame({"label": names, "group": "some data", "value": 0.0, "low": -0.1, "high": 0.1})
    effects = effects.assign(verdict="not separated", by_seed=[[0.0, 0.01]] * len(names))
    figures.draw_forest(effects, tmp_path / "forest.svg", margin=0.01)
    labels = [label.get_window_extent() for label in drawn[0].axes[0].get_yticklabels()]
    assert all(lower.y1 <= upper.y0 for upper, lower in pairwise(labels))


def test_another_suffix_is_refused(tmp_path: Path):
    with pytest.raises(MlimError, match=r"\.svg or \.png"):
        draw_figure2(tmp_path / "figure.bmp")


def test_a_training_without_any_loss_gives_an_empty_figure(tmp_path: Path):
    figures.draw_losses({"a": history(["light"], [])}, tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").stat().st_size
