"""The tables of the fine-tuning tasks besides matching: one for each task that a variant of the recipe has."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlim.evaluation.caption_baselines import caption_baselines
from mlim.evaluation.evidence import Split
from mlim.evaluation.judges import judge_of
from mlim.evaluation.resampling import Resampling
from mlim.evaluation.task_table import task_table
from mlim.files import read_json, write_csv, write_json
from mlim.offline import RUN_ID
from mlim.recipe import Recipe
from mlim.report.kit import formats
from mlim.steps.task_variants import ExperimentRun, task_variants
from mlim.tracking import add_figures
from mlim.workspace import Workspace

COLUMNS: Final = (
    *("row", "label", "also_saw", "zero_shot", "seeds", "figure", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "p_value"),
)
SUMMARY_FILE: Final = "summary.json"
DIGITS: Final = 6  # of figures in tables; more would only be noise

Tables = dict[str, dict[str, Any]]


def task_tables(
    recipe: Recipe,
    workspace: Workspace,
    split: Split = "test",
    runs: Mapping[str, ExperimentRun] | None = None,
    equal_budgets: bool = True,
) -> Tables:
    """The table of each task by its name, of trainings that are there (`task_table` says what is refused).

    `runs` are those of an experiment, with a row each in the tables of the tasks that they were fine-tuned to.
    """
    settings = recipe.evaluate
    resampling = Resampling(settings.bootstrap_samples, settings.confidence, recipe.seed)
    return {
        task: task_table(
            judge_of(task),
            task_variants(task, recipe, workspace, runs),
            split,
            workspace,
            resampling,
            equal_budgets,
            partial(caption_baselines, workspace=workspace) if task == "caption" else None,
        )
        for task in recipe.other_tasks
    }


def with_seen(recipe: Recipe, tables: Tables) -> Tables:
    """The tables of a recipe's variants, whose rows say what each has seen that others may not have."""
    variants = recipe.variants
    for table in tables.values():
        for name, row in table["rows"].items():
            row["also_saw"] = [*recipe.also_saw(variants[name])] if name in variants else []
    return tables


def write_tables(folder: Path, tables: Tables) -> None:
    """TASK.json, and TASK.csv with a row for each variant and figure."""
    for task, table in tables.items():
        write_json(folder / f"{task}.json", table)
        write_csv(folder / f"{task}.csv", [*_rows(table)], COLUMNS)


def read_tables(recipe: Recipe, workspace: Workspace) -> Tables:
    """What `mlim ablate` wrote; tasks that were not compared are left out."""
    paths = {task: workspace.ablation / f"{task}.json" for task in recipe.other_tasks}
    return {task: read_json(path) for task, path in paths.items() if path.is_file()}


def _rows(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    baselines = {row["label"]: {**row, "zero_shot": None, "seeds": None} for row in table.get("baselines", ())}
    for name, row in (table["rows"] | baselines).items():
        for figure in table["figures"]:
            found = row[figure["name"]]
            apart = found.get("difference", {})
            numbers = {end: found[end] for end in ("value", "low", "high")}
            numbers |= {f"difference_{end}": apart.get(end) for end in ("low", "high")}
            numbers |= {"difference": apart.get("value"), "p_value": apart.get("p_value")}
            rounded = {key: None if value is None else round(value, DIGITS) for key, value in numbers.items()}
            about = {"row": name, **{key: row[key] for key in ("label", "zero_shot", "seeds")}}
            about["also_saw"] = ", ".join(row.get("also_saw", ()))
            yield {**about, "figure": figure["name"], **rounded}


def headlines(tables: Tables) -> dict[str, float]:
    """The figure that stands for each task, of every variant: `retrieval.r1.dual` for MLflow."""
    return {
        f"{task}.{table['figures'][0]['name']}.{name}": row[table["figures"][0]["name"]]["value"]
        for task, table in tables.items()
        for name, row in table["rows"].items()
    }


def add_task_figures(recipe: Recipe, workspace: Workspace, tables: Tables) -> None:
    """Add the figures of each variant and seed to the run that fine-tuned it: `answer.accuracy`, `caption.cider`.

    Runs stand side by side on MLflow's page; the run of the tables has the figures of all.
    """
    for task, table in tables.items():
        for name, row in table["rows"].items():
            for place, seed in enumerate(recipe.seeds):
                summary = read_json(workspace.finetuned(name, seed) / SUMMARY_FILE)
                found = {f"{task}.{each['name']}": row[each["name"]]["by_seed"][place] for each in table["figures"]}
                figures = {key: value for key, value in found.items() if value is not None}
                if run_id := summary.get(RUN_ID):
                    add_figures(recipe.tracking, run_id, figures)


def describe_tables(tables: Tables) -> list[str]:
    """A line for each variant: the figure that stands for its task, and the difference to the task's first variant."""
    lines = []
    for table in tables.values():
        figure = table["figures"][0]
        for row in table["rows"].values():
            found = row[figure["name"]]
            apart = found.get("difference")
            shown = "" if apart is None else f", {apart['value']:+.3f} to {table['main']}"
            value = formats.interval(found["value"], found["low"], found["high"])
            lines.append(f"{row['label']}: {table['title']}, {figure['title']} {value}{shown}")
    return lines
