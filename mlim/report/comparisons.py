"""Experiments that vary settings, and Figure 2 at each masking probability, as they stand in the documentation.

Both are figures that a work folder holds beside its tables: what an experiment compared (`mlim ablate --experiment`,
`mlim.steps.experiment`), and the differences from which the claims about Figure 2 are judged (`mlim probe`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mlim.report.kit import formats
from mlim.report.kit.markdown import table
from mlim.report.tasks import row_names, task_header, task_lead, task_rows

Summary = Mapping[str, Any]

FIGURE2: Final = {"figure2a": "Text masked, beside a picture", "figure2b": "Picture masked, beside a text"}
DIFFERENCES: Final = {
    "empty_minus_own": "gray or empty minus own",
    "random_minus_own": "random minus own",
    "random_minus_empty": "random minus gray or empty",
}
DECIMALS: Final = 4  # of a loss per pixel, whose differences are small
FIGURE2_NOTE: Final = (
    "How much the loss is higher beside another partner than beside the item's own; intervals over families of items "
    "and seeds, not corrected. A claim about Figure 2 asks for every probability at once, so the weakest one decides."
)


def experiment_lines(found: Sequence[Summary]) -> list[str]:
    """The tables of each experiment as Markdown: PR-AUC of its variants and runs, the figures of other tasks."""
    return [line for each in found for line in _experiment(each)]


def _experiment(found: Summary) -> list[str]:
    matching = _matching(found) if found["rows"] else []
    tasks = [line for each in found.get("tasks", {}).values() for line in _task(each, found)]
    return [f"### {found['question']}", "", *matching, *tasks]


def _matching(found: Summary) -> list[str]:
    note = (
        f"{_command(found)}, judged on the {found['judged_on']} pairs; differences are paired by family and seed, and "
        "their p-values are not corrected."
    )
    other = f"minus `{found['compared_with']}`"
    header = ("variant or run", "settings", "PR-AUC", "spread (seeds)", other, "p-value")
    rows = [_row(name, row, found["settings"].get(name, ())) for name, row in found["rows"].items()]
    return [note, "", *table(header, rows)]


def _command(found: Summary) -> str:
    return f"`mlim ablate --experiment {found['experiment']} --seeds {len(found['seeds'])}`"


def _task(found: Summary, experiment: Summary) -> list[str]:
    """The table of one task, with what the runs among its rows change."""
    told = [_settings(experiment["settings"].get(name, ())) for name in row_names(found)]
    cells = task_rows(found)  # those of the variants, then those of baselines, which no settings have
    said = [*told, *[""] * (len(cells) - len(told))]
    rows = [(*line[:1], each, *line[1:]) for line, each in zip(cells, said, strict=True)]
    first, *others = task_header(found)
    note = f"{_command(experiment)}. {found['title']}. {task_lead(found)}"
    return [note, "", *table((first, "settings", *others), rows)]


def _settings(settings: Sequence[str]) -> str:
    return "; ".join(f"`{each}`" for each in settings)


def _row(name: str, row: Summary, settings: Sequence[str]) -> list[str]:
    by_seed, minus = [*row["by_seed"].values()], row["minus"] or {}
    return [
        f"`{name}`",
        _settings(settings),
        formats.score(row["pr_auc"]),
        formats.spread(float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None, len(by_seed)),
        formats.signed_interval(minus.get("value"), minus.get("low"), minus.get("high")),
        formats.p_value(minus.get("p_value")),
    ]


def figure2_points(probe: Summary | None) -> dict[str, list[Summary]]:
    """The differences of both halves of Figure 2 at each masking probability; a half that was not probed is absent."""
    halves = {name: (probe or {}).get(name) or {} for name in FIGURE2}
    return {
        name: found for name, half in halves.items() if (found := [_point(each) for each in half.get("points", ())])
    }


def _point(found: Summary) -> Summary:
    ends = {key: {end: found[key].get(end) for end in ("value", "low", "high")} for key in DIFFERENCES if key in found}
    return {"probability": found["probability"], **ends}


def figure2_lines(points: Mapping[str, Sequence[Summary]]) -> list[str]:
    """A table of the differences for each half of the figure, as Markdown; nothing where none was probed."""
    if not points:
        return []
    halves = [line for name, each in points.items() for line in (f"{FIGURE2[name]}:", "", *_half(each))]
    return ["### Figure 2 at each masking probability", "", FIGURE2_NOTE, "", *halves]


def _half(points: Sequence[Summary]) -> list[str]:
    rows = [[f"{point['probability']:g}", *(_difference(point.get(key)) for key in DIFFERENCES)] for point in points]
    above = [sum(_above(point.get(key)) for point in points) for key in DIFFERENCES]
    counts = ["alone above 0", *(f"{number} of {len(points)}" for number in above)]
    return table(("masking probability", *DIFFERENCES.values()), [*rows, counts])


def _above(found: Summary | None) -> bool:
    return bool(found and found["low"] is not None and found["low"] > 0)


def _difference(found: Summary | None) -> str:
    if not found or found["low"] is None:
        return formats.MISSING
    value, low, high = (f"{found[end]:+.{DECIMALS}f}".replace("-", formats.MINUS) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
