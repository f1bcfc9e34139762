"""Every plot of the project: one look, a palette for colour-blind readers too, equal bytes for equal numbers.

Figures are drawn without pyplot (no global state) and written as SVG or PNG by the suffix of the path. They are
narrow with large letters, so that they stay readable on a telephone.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlim.errors import MlimError
from mlim.files import atomic_file

INK: Final = "#1c2330"  # the report replaces it by the page's own text colour
PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, without yellow
DASHES: Final = ("-", "--", "-.", ":")
WIDTH_INCHES: Final = 4.8
HEIGHT_INCHES: Final = 3.4
ROW_INCHES: Final = 0.37
PANEL_PADDING_INCHES: Final = 0.08
LABEL_CHARACTERS: Final = 22  # of a line beside the bars
LEGEND_CHARACTERS: Final = 28  # of a label; with longer ones a legend has one column
LEGEND_INCHES: Final = 0.2  # of height for each line of a legend
MARGIN: Final = 0.05  # of recall and of precision, around the curves
FIGURE_DPI: Final = 150
SMOOTHING_WINDOWS: Final = 25  # a training curve is averaged over 1/25 of its length
LOSSES: Final = {
    "mlm": "MLM: text loss per masked token",
    "recon": "RECON: squared error per pixel",
    "itm": "ITM: image-text matching loss",
    "match": "Matching loss per pair",
}
MODES: Final = {
    "heavy_image": "heavy image masking",
    "heavy_text": "heavy text masking",
    "light": "light masking",
    "naive": "naive masking",
    "both": "both",
    "text": "text only",
    "image": "image only",
}
VERDICTS: Final = {  # colour and mark
    "supported": ("#009e73", "o"),
    "contradicted": ("#d55e00", "s"),
    "not separated": ("#6b7788", "D"),
    "not measured": ("#6b7788", "x"),
}
FOREST_INCHES: Final = 0.4  # of height for each effect
SEED_OFFSET: Final = 0.26  # of the rings of single seeds, below their mean
PARTNERS: Final = {"own": "its own", "empty": "empty", "random": "a random other"}
RECONSTRUCTION_INCHES: Final = 1.15
TITLE_SIZE: Final = 11
TEXT_SIZE: Final = 10
_STYLE: Final[Any] = {
    "svg.hashsalt": "mlim",
    "svg.fonttype": "path",  # letters as outlines: the same width on every machine
    "font.family": "DejaVu Sans",
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": TITLE_SIZE,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "figure.constrained_layout.h_pad": PANEL_PADDING_INCHES,
    "axes.facecolor": "none",
    "grid.color": "#8a94a6",
    "grid.alpha": 0.25,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "legend.fontsize": TEXT_SIZE - 1,
}


def draw_losses(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Loss curves, one panel for each loss that was measured.

    `histories` maps a label to a training's history.csv (step, kind, mode, mlm, recon, itm, match). One history
    is drawn by masking mode, with its validation on top; of several, the validation curves are compared.
    """
    losses = [loss for loss in LOSSES if any(_measured(history, loss) for history in histories.values())]
    with _figure(path, rows=max(len(losses), 1)) as panels:
        for axes, loss in zip(panels, losses, strict=False):
            axes.set_title(LOSSES[loss])
            _draw_one_loss(axes, histories, loss)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.legend()
        panels[-1].set_xlabel("optimiser step")


def draw_pr_curves(curves: Mapping[str, pd.DataFrame], prevalence: float, path: Path) -> None:
    """Precision against recall; each curve has the columns `recall` and `precision`, `prevalence` is chance level."""
    one_column = max(map(len, curves), default=0) > LEGEND_CHARACTERS
    longer = LEGEND_INCHES * (len(curves) + 1) / 2 if one_column else 0.0
    with _figure(path, height=HEIGHT_INCHES + longer) as (axes,):
        for (label, curve), (colour, dash) in zip(curves.items(), _looks(), strict=False):
            axes.plot(curve["recall"], curve["precision"], dash, color=colour, label=label, drawstyle="steps-pre")
        axes.axhline(prevalence, color=INK, linewidth=1, linestyle=":", label=f"chance ({prevalence:.3f})")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(_lowest(curves, prevalence), 1 + MARGIN / 5))
        axes.figure.legend(loc="outside lower left", ncols=1 if one_column else 2)


def draw_figure2(frame: pd.DataFrame, path: Path, title: str, y_label: str) -> None:
    """Figure 2 of the paper: a loss against the masking probability, one line for each kind of partner.

    `frame` has the columns probability, partner (own|random|empty), loss, low, high.
    """
    with _figure(path) as (axes,):
        for (partner, label), (colour, dash) in zip(PARTNERS.items(), _looks(), strict=False):
            line = frame[frame["partner"] == partner].sort_values("probability")
            if line.empty:
                continue
            axes.plot(line["probability"], line["loss"], dash, color=colour, marker="o", markersize=4, label=label)
            axes.fill_between(line["probability"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="masking probability", ylabel=y_label)
        axes.legend(title="partner")


def draw_reconstructions(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], path: Path) -> None:
    """A sheet of pictures: one row per item, one column per title (own picture, masked, reconstructed, ...).

    Pictures are (S, S, 3) arrays, uint8 or floating point in [0, 1].
    """
    size = (RECONSTRUCTION_INCHES * len(titles), RECONSTRUCTION_INCHES * max(len(rows), 1))
    with _style(), _saved(Figure(figsize=size, dpi=FIGURE_DPI, layout="constrained"), path) as figure:
        grid = figure.subplots(max(len(rows), 1), len(titles), squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for column, title in enumerate(titles):
            grid[0][column].set_title(title, loc="center", fontsize=TEXT_SIZE - 1)
        for line, pictures in zip(grid, rows, strict=False):
            for axes, picture in zip(line, pictures, strict=True):
                axes.imshow(picture, interpolation="nearest")


def draw_table_bars(table: pd.DataFrame, path: Path, prevalence: float | None = None) -> None:
    """One line per row of `table` (label, pr_auc, low, high): the figure as a dot, its interval as a bar."""
    height = ROW_INCHES * (len(table) + 2)
    with _figure(path, height=height) as (axes,):
        places = np.arange(len(table))[::-1]
        axes.hlines(places, table["low"], table["high"], color=PALETTE[0], linewidth=4, alpha=0.45)
        axes.plot(table["pr_auc"], places, "o", color=PALETTE[0], markersize=7)
        axes.tick_params(axis="y", labelsize=TEXT_SIZE - 1)
        axes.set_yticks(places, [textwrap.fill(label, LABEL_CHARACTERS) for label in table["label"]])
        axes.set_ylim(-0.6, len(table) - 0.4)
        axes.set_xlabel("PR-AUC on the test pairs")
        axes.grid(visible=False, axis="y")
        if prevalence is not None:
            axes.axvline(prevalence, color=INK, linewidth=1, linestyle=":")
            axes.annotate("chance", (prevalence, len(table) - 0.5), ha="center", va="bottom", annotation_clip=False)


def draw_forest(effects: pd.DataFrame, path: Path, margin: float, ground: bool = False) -> None:
    """Effect sizes with their intervals, one line each, and the single seeds behind them.

    `effects` has label, value, low, high, verdict and by_seed (a list), and group where there are several data sets;
    +-`margin` around 0 is shaded. `ground`: on white, for a page that is not ours.
    """
    with _figure(path, height=FOREST_INCHES * (len(effects) + 2), ground=ground) as (axes,):
        places = np.arange(len(effects))[::-1]
        axes.axvspan(-margin, margin, color=INK, alpha=0.07, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1)
        for verdict, (colour, marker) in VERDICTS.items():
            shown = (effects["verdict"] == verdict).to_numpy()
            if shown.any():
                _draw_effects(axes, effects[shown], places[shown], colour, marker, verdict)
        axes.set_yticks(places, [_effect_label(row) for row in effects.to_dict("records")])
        axes.tick_params(axis="y", labelsize=TEXT_SIZE - 1)
        axes.set_ylim(-0.7, len(effects) - 0.3)
        axes.set_xlabel("difference of PR-AUC")
        axes.grid(visible=False, axis="y")
        axes.figure.legend(loc="outside lower left", ncols=3)


def _draw_effects(
    axes: Axes, effects: pd.DataFrame, places: np.ndarray, colour: str, marker: str, verdict: str
) -> None:
    axes.hlines(places, effects["low"], effects["high"], color=colour, linewidth=2)
    axes.plot(effects["value"], places, marker, color=colour, markersize=7, label=verdict)
    for place, seeds in zip(places, effects["by_seed"], strict=True):
        if len(seeds) > 1:
            axes.plot(seeds, np.full(len(seeds), place - SEED_OFFSET), "o", mec=colour, mfc="none", markersize=3.5)


def _effect_label(row: Mapping[Any, Any]) -> str:
    label = textwrap.fill(str(row["label"]), LABEL_CHARACTERS)
    return f"{label}\n{row['group']}" if row.get("group") else label


def _lowest(curves: Mapping[str, pd.DataFrame], prevalence: float) -> float:
    """Where the precision axis starts; the first few pairs of a ranking may lie below it."""
    settled = [curve.loc[curve["recall"] > MARGIN, "precision"].min() for curve in curves.values()]
    return max(0.0, float(np.nanmin([prevalence, *settled])) - MARGIN)


def _measured(history: pd.DataFrame, loss: str) -> bool:
    return loss in history and bool(history[loss].notna().any())


def _draw_one_loss(axes: Axes, histories: Mapping[str, pd.DataFrame], loss: str) -> None:
    if len(histories) == 1:
        _draw_by_mode(axes, next(iter(histories.values())), loss)
        return
    for (label, history), (colour, dash) in zip(histories.items(), _looks(), strict=False):
        if _measured(history, loss):
            steps, values = _points(history, loss, "validation")
            if not len(steps):
                steps, values = _smooth(*_points(history, loss, "train"))
            axes.plot(steps, values, dash, color=colour, label=label, marker="o", markersize=3)


def _draw_by_mode(axes: Axes, history: pd.DataFrame, loss: str) -> None:
    training = history[history["kind"] == "train"]
    modes = [mode for mode in training["mode"].dropna().unique().tolist() if mode]
    for mode, (colour, dash) in zip(sorted(modes, key=_mode_order), _looks(), strict=False):
        of_mode = training[training["mode"] == mode]
        if _measured(of_mode, loss):
            axes.plot(*_smooth(*_points(of_mode, loss, "train")), dash, color=colour, label=MODES.get(mode, mode))
    steps, values = _points(history, loss, "validation")
    if len(steps):
        axes.plot(steps, values, color=INK, marker="o", markersize=4, linewidth=1, label="validation")


def _mode_order(mode: str) -> tuple[int, str]:
    known = list(MODES)
    return (known.index(mode) if mode in known else len(known), mode)


def _points(history: pd.DataFrame, loss: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean values of the rows of `kind` where `loss` was measured, in the order of the steps."""
    rows = history[(history["kind"] == kind) & history[loss].notna()]
    means = rows.groupby("step")[loss].mean()
    return means.index.to_numpy(), means.to_numpy()


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    window = max(1, len(values) // SMOOTHING_WINDOWS)
    return steps, pd.Series(values).rolling(window, min_periods=1).mean().to_numpy()


def _looks() -> Iterator[tuple[str, str]]:
    """Endless pairs of colour and dash; the first 12 differ from each other."""
    return zip(cycle(PALETTE), cycle(DASHES), strict=False)


@contextmanager
def _figure(
    path: Path, rows: int = 1, height: float = HEIGHT_INCHES, ground: bool = False
) -> Iterator[tuple[Axes, ...]]:
    with _style():
        empty = Figure(figsize=(WIDTH_INCHES, height * rows), dpi=FIGURE_DPI, layout="constrained")
        with _saved(empty, path, ground) as figure:
            yield tuple(figure.subplots(rows, 1, squeeze=False)[:, 0])


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


@contextmanager
def _saved(figure: Figure, path: Path, ground: bool = False) -> Iterator[Figure]:
    """Write the figure to `path` when the block ends well, as its suffix says, without a date inside.

    An SVG is transparent, for the page's own ground, unless it brings a white `ground`.
    """
    looks: dict[str, Any] = {"facecolor": "white"} if ground else {"transparent": True}
    formats: dict[str, dict[str, Any]] = {
        ".svg": {"metadata": {"Date": None, "Creator": None}, **looks},
        ".png": {"metadata": {"Software": None}, "facecolor": "white"},
    }
    if path.suffix not in formats:
        raise MlimError(f"{path}: a figure is written as .svg or .png")
    yield figure
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), **formats[path.suffix])
