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
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from mlim.errors import MlimError
from mlim.evaluation.item_views import ItemAttention, Neighbourhood
from mlim.files import atomic_file
from mlim.recipe.tasks import loss_titles
from mlim.report.kit.colours import INK, PLOT

PALETTE: Final = tuple(PLOT[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky"))
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
ALL_MODES: Final = "all"  # as mlim.training.metric_logger calls a row of history.csv that is over several modes
MODES: Final = {
    "heavy_image": "heavy image masking",
    "heavy_text": "heavy text masking",
    "light": "light masking",
    "naive": "naive masking",
    "text_only": "text masking",
    "unmasked": "nothing masked",
    "both": "both",
    "text": "text only",
    "image": "image only",
}
VERDICTS: Final = {  # colour and mark
    "supported": (PLOT["green"], "o"),
    "contradicted": (PLOT["vermilion"], "s"),
    "not separated": (PLOT["grey"], "D"),
    "not measured": (PLOT["grey"], "x"),
}
FOREST_INCHES: Final = 0.2  # of height for each line of an effect's label
FOREST_LINES: Final = 2  # that an effect takes at least: its bar, and below it its seeds
SEED_OFFSET: Final = 0.52  # lines of a label; of the rings of single seeds, below their mean
LABEL_LINES: Final = {"pretrained": "with pre-training", "unpretrained": "without"}
LABEL_COLUMNS: Final = 2  # curves side by side
LABEL_MARGIN: Final = 1.15  # factor of the number of pairs beyond the first and the last point
DIFFERENCE_SHARE: Final = 0.7  # height of the panel of differences, of that of the curves
PARTNERS: Final = {"own": "its own", "empty": "empty", "random": "a random other"}
RECONSTRUCTION_INCHES: Final = 1.15
NEIGHBOUR_INCHES: Final = (1.3, 2.0)  # of one picture with its texts: width, height
NEIGHBOUR_CHARACTERS: Final = 18  # of a line of an item's text, of which there are at most
NEIGHBOUR_LINES: Final = 3
SAME_FAMILY: Final = PLOT["green"]
FRAME_WIDTH: Final = 3.0  # points
ATTENTION_INCHES: Final = (6.4, 2.25)  # of one item: width, height
ATTENTION_CHARACTERS: Final = 84  # of an item's text above its panels
ATTENTION_PANELS: Final = (1.0, 1.0, 1.2)  # widths: heat map, picture, bars
ATTENTION_WORDS: Final = 6  # bars
HEAT: Final = PLOT["vermilion"]
HEAT_OPACITY: Final = 0.85  # the most
HOTTEST: Final = 4.0  # times the average of the patches: from here on the heat covers as much as it may
PALEST: Final = 0.35  # of the gray picture under the heat: black becomes a gray that the heat shows on
BRIGHTEST: Final = 255  # of a pixel
WORD_CHARACTERS: Final = 14
SMALL_TEXT, SMALL_TITLE = 7, 9
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

    `histories` maps a label to a training's history.csv (step, kind, mode, a column for each loss). One history
    is drawn by masking mode, with its validation on top; of several, the validation curves are compared.
    """
    titles = loss_titles()
    losses = [loss for loss in titles if any(_measured(history, loss) for history in histories.values())]
    with _figure(path, rows=max(len(losses), 1)) as panels:
        for axes, loss in zip(panels, losses, strict=False):
            axes.set_title(titles[loss])
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


def draw_label_curves(
    curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], path: Path, y_label: str, ground: bool = False
) -> None:
    """PR-AUC against the number of training pairs with and without pre-training, and below it the difference.

    Each of `curves` is a title, and points as `mlim.evaluation.label_curve.LabelPoint.plain` gives them; several stand
    two in a row. `ground`: on white, for a page that is not ours.
    """
    columns = min(len(curves), LABEL_COLUMNS)
    rows = -(-len(curves) // columns)
    heights = (HEIGHT_INCHES, HEIGHT_INCHES * DIFFERENCE_SHARE)
    figure = Figure(figsize=(WIDTH_INCHES * columns, sum(heights) * rows), dpi=FIGURE_DPI, layout="constrained")
    with _style(), _saved(figure, path, ground):
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights * rows)
        for axes in panels[-2:, 1 + (len(curves) - 1) % columns :].flat:
            axes.set_axis_off()
        for place, (title, points) in enumerate(curves):
            row, column = divmod(place, columns)
            above, below = panels[2 * row : 2 * row + 2, column]
            _draw_label_curve(above, below, points)
            above.set(title=title, ylabel=y_label)


def _draw_label_curve(above: Axes, below: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    numbers = [point["pairs"] for point in points]
    for (line, label), (colour, dash) in zip(LABEL_LINES.items(), _looks(), strict=False):
        value, low, high = _ends([point[line] for point in points])
        above.plot(numbers, value, dash, color=colour, marker="o", markersize=4, label=label)
        above.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
    above.legend()
    value, low, high = _ends([point["difference"] for point in points])
    below.axhline(0, color=INK, linewidth=1)
    below.vlines(numbers, low, high, color=PALETTE[2], linewidth=2)
    below.plot(numbers, value, "o", color=PALETTE[2], markersize=7)
    below.set(xlabel="training pairs", ylabel="with \N{MINUS SIGN} without")
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xlim(numbers[0] / LABEL_MARGIN, numbers[-1] * LABEL_MARGIN)
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
        axes.xaxis.set_minor_locator(NullLocator())


def _ends(found: Sequence[Mapping[str, float | None]]) -> NDArray[np.float64]:
    """Value, low and high (3, n); NaN where there is no interval."""
    return np.array([[one[end] for one in found] for end in ("value", "low", "high")], dtype=np.float64)


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


def draw_neighbours(rows: Sequence[Neighbourhood], path: Path) -> None:
    """One row per item: its picture, then its nearest others with their similarity; its own family in frames."""
    columns = 1 + max((len(row.nearest) for row in rows), default=0)
    width, height = NEIGHBOUR_INCHES
    size = (width * columns, height * max(len(rows), 1))
    with _style(), _saved(Figure(figsize=size, dpi=FIGURE_DPI, layout="constrained"), path) as figure:
        figure.suptitle("A test item, then its nearest others by similarity", fontsize=TITLE_SIZE)
        grid = figure.subplots(max(len(rows), 1), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for (query, *others), row in zip(grid, rows, strict=False):
            _draw_item(query, row.picture, row.text, "test item", INK)
            for axes, near in zip(others, row.nearest, strict=False):
                title = f"{near.similarity:.2f}" + (" same family" if near.same_family else "")
                _draw_item(axes, near.picture, near.text, title, SAME_FAMILY if near.same_family else INK)
                if near.same_family:
                    _frame(axes, (0, 0), near.picture.shape[0], SAME_FAMILY)


def _draw_item(axes: Axes, picture: np.ndarray, text: str, title: str, colour: str) -> None:
    """A picture under its title, over the first lines of its text."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, loc="center", fontsize=TEXT_SIZE - 2, color=colour)
    lines = textwrap.wrap(text, NEIGHBOUR_CHARACTERS, max_lines=NEIGHBOUR_LINES, placeholder=" ...")
    axes.text(0.5, -0.04, "\n".join(lines), transform=axes.transAxes, ha="center", va="top", fontsize=SMALL_TEXT)


def _frame(axes: Axes, corner: tuple[float, float], side: float, colour: str) -> None:
    """A square around pixels from `corner` (x, y), whose middle is at whole numbers."""
    x, y = corner
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, ec=colour, lw=FRAME_WIDTH, clip_on=False))


def draw_attention(rows: Sequence[ItemAttention], path: Path) -> None:
    """One row per item: where a hidden word looks in the picture, and which words a hidden patch looks at."""
    width, height = ATTENTION_INCHES
    size = (width, height * max(len(rows), 1))
    with _style(), _saved(Figure(figsize=size, dpi=FIGURE_DPI, layout="constrained"), path) as figure:
        for part, row in zip(figure.subfigures(max(len(rows), 1), 1, squeeze=False).flat, rows, strict=False):
            text = textwrap.shorten(row.text, ATTENTION_CHARACTERS, placeholder=" ...")
            part.suptitle(text, x=0.01, ha="left", fontsize=TEXT_SIZE - 1, fontweight="bold")
            heat, patch, bars = part.subplots(1, len(ATTENTION_PANELS), width_ratios=ATTENTION_PANELS)
            _draw_heat(heat, row)
            _draw_hidden_patch(patch, row)
            _draw_words(bars, row)


def _draw_heat(axes: Axes, row: ItemAttention) -> None:
    """The picture in pale gray; patches with more than the average of its attention are covered, on a fixed scale."""
    size = row.picture.shape[0]
    gray = PALEST + (1 - PALEST) * row.picture.mean(axis=2) / BRIGHTEST
    axes.imshow(gray, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    times = row.patches / row.patches.mean()
    heat = np.empty((*row.patches.shape, 4))
    heat[..., :3] = to_rgb(HEAT)
    heat[..., 3] = HEAT_OPACITY * np.log(times.clip(1, HOTTEST)) / np.log(HOTTEST)
    axes.imshow(heat, interpolation="nearest", extent=(-0.5, size - 0.5, size - 0.5, -0.5))
    axes.set_title(f"hidden word: {_short(row.word)}", loc="center", fontsize=SMALL_TITLE)
    even = row.patches.size / row.places
    lines = [
        f"attention on the picture: {row.patches.sum():.0%}",
        f"(even: {even:.0%}), hottest patch x{times.max():.1f}",
    ]
    if row.guess is not None:
        lines.append(f"guess: {_short(row.guess.word)} {row.guess.probability:.0%}")
        lines.append(f"truth {row.guess.truth:.0%}, no picture {row.guess.truth_beside_gray:.0%}")
    _write_below(axes, lines)


def _draw_hidden_patch(axes: Axes, row: ItemAttention) -> None:
    axes.imshow(row.picture, interpolation="nearest")
    side = row.picture.shape[0] / len(row.patches)
    line, column = row.patch
    _frame(axes, (column * side, line * side), side, HEAT)
    axes.set_title("hidden patch: framed", loc="center", fontsize=SMALL_TITLE)
    share, pieces = sum(word.share for word in row.words), sum(word.pieces for word in row.words)
    _write_below(axes, [f"attention on words: {share:.0%}", f"(even: {pieces / row.places:.0%})"])


def _short(word: str) -> str:
    return word if len(word) <= WORD_CHARACTERS else f"{word[:WORD_CHARACTERS]}..."


def _draw_words(axes: Axes, row: ItemAttention) -> None:
    """The words with the most attention as bars; dots: even attention to words of as many pieces."""
    top = sorted(row.words, key=lambda word: -word.share)[:ATTENTION_WORDS]
    places = np.arange(len(top))
    axes.barh(places, [100 * word.share for word in top], color=PALETTE[0])
    axes.plot([100 * word.pieces / row.places for word in top], places, "o", color=INK, mfc="white", markersize=4)
    axes.set_yticks(places, [_short(word.text) for word in top])
    axes.set_ylim(ATTENTION_WORDS - 0.5, -0.5)
    axes.set_title("words it looks at, % (dots: even)", loc="center", fontsize=SMALL_TITLE)
    axes.tick_params(labelsize=TEXT_SIZE - 2)
    axes.grid(visible=False, axis="y")


def _write_below(axes: Axes, lines: Sequence[str]) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("\n".join(lines), fontsize=SMALL_TEXT)


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
    labels = [_effect_label(row) for row in effects.to_dict("records")]
    lines = np.array([max(FOREST_LINES, label.count("\n") + 1) for label in labels])
    with _figure(path, height=FOREST_INCHES * (lines.sum() + 2 * FOREST_LINES), ground=ground) as (axes,):
        places = lines / 2 - np.cumsum(lines)
        axes.axvspan(-margin, margin, color=INK, alpha=0.07, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1)
        for verdict, (colour, marker) in VERDICTS.items():
            shown = (effects["verdict"] == verdict).to_numpy()
            if shown.any():
                _draw_effects(axes, effects[shown], places[shown], colour, marker, verdict)
        axes.set_yticks(places, labels)
        axes.tick_params(axis="y", labelsize=TEXT_SIZE - 1)
        axes.set_ylim(-lines.sum(), 0)
        axes.set_xlabel("difference of PR-AUC")
        axes.locator_params(axis="x", nbins=5)
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
    lowest = [curve.loc[curve["recall"] > MARGIN, "precision"].min() for curve in curves.values()]
    return max(0.0, float(np.nanmin([prevalence, *lowest])) - MARGIN)


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
    modes = [mode for mode in training["mode"].dropna().unique().tolist() if mode not in {"", ALL_MODES}]
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
    """Steps and values of the rows of `kind` where `loss` was measured, in the order of the steps.

    Of several modes the value over all of them, as the tables have it; in histories of earlier versions, which lack it,
    the mean of the modes.
    """
    rows = history[(history["kind"] == kind) & history[loss].notna()]
    over_all = rows[rows["mode"] == ALL_MODES]
    several = rows[~rows["step"].isin(over_all["step"])]
    means = pd.concat([over_all, several]).groupby("step")[loss].mean()
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
