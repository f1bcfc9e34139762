"""The room of Great Expectations: runs the committed suites of great_expectations/ over data frames.

The suites are reviewed JSON and only read here; a run leaves the project folder as it was. Besides the library's own
expectations there are two of ours, registered when this module is imported: one decodes the pictures of the shards,
one finds values that appear on more than one side of a split.
"""

import io
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
import pyarrow.parquet as pq
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    ColumnPairMapMetricProvider,
    column_condition_partial,
    column_pair_condition_partial,
)
from great_expectations.expectations.registry import get_expectation_impl
from PIL import Image

from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json

ROOT_VARIABLE = "MLIM_GX_ROOT"
DATA_DOCS_VARIABLE = "MLIM_DATA_DOCS"  # filled into great_expectations.yml
PROJECT_FOLDER = "great_expectations"
PROJECT_FILE = "great_expectations.yml"
PLACE_SEPARATOR = ":"
SHOWN_CHARACTERS = 60
ROW_LEVEL = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)


def project_root() -> Path:
    """The folder of the Great Expectations project; `InputError` says where it was looked for."""
    named = os.environ.get(ROOT_VARIABLE)
    beside_package = Path(__file__).resolve().parent.parent / PROJECT_FOLDER
    candidates = [Path(named)] if named else [Path.cwd() / PROJECT_FOLDER, beside_package]
    for candidate in candidates:
        if (candidate / PROJECT_FILE).is_file():
            return candidate
    raise InputError(
        f"no {PROJECT_FILE} in {' or '.join(map(str, candidates))}; run in the project's folder or set {ROOT_VARIABLE} "
        f"to its {PROJECT_FOLDER}/ folder"
    )


def picture_place(shard: str, position: int) -> str:
    """Where a stored picture lies: the value that `expect_column_values_to_be_shard_pictures` looks at."""
    return f"{shard}{PLACE_SEPARATOR}{position}"


@dataclass(frozen=True)
class Finding:
    """What one expectation found. `unexpected` counts rows; it is 0 or 1 for an expectation of the whole table."""

    suite: str
    expectation: str
    column: str | None
    success: bool
    unexpected: int
    row_level: bool
    observed: Any
    limits: Mapping[str, Any]
    problem: str
    advice: str
    id: str

    def summary(self) -> dict[str, Any]:
        """The finding as one entry of a summary.json."""
        return {
            "suite": self.suite,
            "expectation": self.expectation,
            "column": self.column,
            "success": self.success,
            "unexpected": self.unexpected,
        }

    def complaint(self) -> str:
        """One sentence: what is wrong, which expectation says so, observed against its limits, what to do."""
        name = f"{self.suite}: {self.expectation}" + (f" of {self.column}" if self.column else "")
        limits = ", ".join(f"{key} {value}" for key, value in self.limits.items())
        observed = f"{self.unexpected} rows differ" if self.row_level else f"observed {_shown(self.observed)}"
        return f"{self.problem} ({name}; {observed}{f'; expected {limits}' if limits else ''}); {self.advice}"


class Validation:
    """The committed suites, opened once; `check` runs them, `write_docs` turns what was found into pages."""

    def __init__(self, data_docs: Path) -> None:
        """Open the project; the pages will go to `data_docs`. `InputError` when the project is not found."""
        self._root = project_root()
        # an expectation it does not know is only logged, with a traceback; `check` says it in one sentence
        logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
        self._context = gx.get_context(
            mode="file",
            context_root_dir=self._root,
            runtime_environment={DATA_DOCS_VARIABLE: str(data_docs.absolute())},
        )
        source = self._context.data_sources.get("catalog")
        self._whole = source.get_asset("frame").get_batch_definition("whole")

    def check(self, suite: str, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> list[Finding]:
        """Run a suite over a frame (row labels 0, 1, 2, ...) with the suite parameters; findings in the suite's order.

        `MlimError` when not every committed expectation gave a result: a check that did not run must not pass.
        """
        committed = self._committed(suite)
        definition = gx.ValidationDefinition(name=suite, data=self._whole, suite=self._context.suites.get(suite))
        outcome = definition.run(
            batch_parameters={"dataframe": frame},
            expectation_parameters=dict(parameters),
            result_format="BASIC",
        )
        self._context.validation_definitions.delete(suite)  # `run` kept it (in memory) and would refuse to do so again
        results = {result.expectation_config.id: result for result in outcome.results}
        silent = [entry["type"] for entry in committed if entry["id"] not in results]
        if silent or len(outcome.results) != len(committed):
            raise MlimError(
                f"suite `{suite}` gave {len(outcome.results)} results for {len(committed)} committed expectations "
                f"(none from: {', '.join(silent)}); nothing was accepted"
            )
        return [_finding(suite, results[entry["id"]]) for entry in committed]

    def failing_rows(self, finding: Finding, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> list[int]:
        """The row positions that a row-level expectation refuses, ascending; only this asks for complete results."""
        suite = self._context.suites.get(finding.suite)
        expectation = next(entry for entry in suite.expectations if entry.id == finding.id)
        batch = self._whole.get_batch(batch_parameters={"dataframe": frame})
        result = batch.validate(expectation, result_format="COMPLETE", expectation_parameters=dict(parameters))
        return sorted(int(row) for row in result.result["unexpected_index_list"])

    def write_docs(self) -> None:
        """Build the Data Docs of everything checked so far (index.html and a page for each suite)."""
        self._context.build_data_docs()

    def _committed(self, suite: str) -> list[dict[str, Any]]:
        """The expectations of the reviewed JSON, whatever the library makes of them."""
        path = self._root / "expectations" / f"{suite}.json"
        if not path.is_file():
            raise InputError(f"{path} is missing; restore it from version control")
        entries: list[dict[str, Any]] = read_json(path)["expectations"]
        return entries


def require(findings: Sequence[Finding]) -> None:
    """`DataError` with one sentence for each finding that failed."""
    complaints = [finding.complaint() for finding in findings if not finding.success]
    if complaints:
        raise DataError("\n".join(complaints))


def _finding(suite: str, result: Any) -> Finding:
    config = result.expectation_config
    row_level = issubclass(get_expectation_impl(config.type), ROW_LEVEL)
    if "observed_value" not in result.result and "unexpected_count" not in result.result:
        raise MlimError(f"{suite}: {config.type} could not be evaluated: {_raised(result.exception_info)}")
    return Finding(
        suite=suite,
        expectation=config.type,
        column=_column(config.kwargs),
        success=bool(result.success),
        unexpected=int(result.result["unexpected_count"]) if row_level else int(not result.success),
        row_level=row_level,
        observed=result.result.get("observed_value"),
        limits={key: config.kwargs[key] for key in ("min_value", "max_value") if config.kwargs.get(key) is not None},
        problem=config.meta["problem"],
        advice=config.meta["advice"],
        id=config.id,
    )


def _column(kwargs: Mapping[str, Any]) -> str | None:
    named = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    columns = ", ".join([*named, *kwargs.get("column_list", [])])
    if condition := kwargs.get("row_condition"):
        return f"{columns} where {condition['column']['name']} {condition['operator']} {condition['parameter']}"
    return columns or None


def _raised(info: Mapping[str, Any]) -> str:
    """The message of the exception that an expectation raised; the library nests it under the metric's name."""
    nested = [entry for entry in (info, *info.values()) if isinstance(entry, Mapping)]
    return next((str(entry["exception_message"]) for entry in nested if entry.get("exception_message")), "no result")


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def decodable(places: pd.Series, folder: Path, side: int) -> pd.Series:
    """Whether each place (`picture_place`) holds an RGB JPEG of side x side pixels; one shard in memory at a time."""
    by_shard: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for row, place in places.items():
        shard, _, position = place.rpartition(PLACE_SEPARATOR)
        by_shard[shard].append((row, int(position)))
    decoded: dict[Any, bool] = {}
    for shard, members in by_shard.items():
        pictures = pq.read_table(folder / shard, columns=["image"])["image"]
        decoded |= {row: _is_picture(pictures[position].as_py(), side) for row, position in members}
    return pd.Series(decoded, dtype=bool).reindex(places.index)


def _is_picture(data: bytes, side: int) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.size != (side, side) or picture.mode != "RGB":
                return False
            picture.load()
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken bytes
        return False
    return True


class ColumnValuesShardPicture(ColumnMapMetricProvider):  # type: ignore[misc]
    """The row-wise condition behind `ExpectColumnValuesToBeShardPictures`."""

    condition_metric_name = "column_values.shard_picture"
    condition_value_keys = ("folder", "side")

    @column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column: pd.Series, folder: str, side: int, **kwargs: Any) -> pd.Series:  # noqa: N805
        return decodable(column, Path(folder), side)


class ExpectColumnValuesToBeShardPictures(ColumnMapExpectation):  # type: ignore[misc]
    """Expect every value to be the place of a stored picture that decodes to the recipe's square."""

    folder: Any
    side: Any
    map_metric = "column_values.shard_picture"
    success_keys = ("folder", "side", "mostly")


class ColumnPairValuesOneB(ColumnPairMapMetricProvider):  # type: ignore[misc]
    """The row-wise condition behind `ExpectColumnPairValuesAToHaveOneB`."""

    condition_metric_name = "column_pair_values.a_has_one_b"
    condition_domain_keys = (
        "batch_id",
        "table",
        "column_A",
        "column_B",
        "row_condition",
        "condition_parser",
        "ignore_row_if",
    )
    condition_value_keys = ()

    @column_pair_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **kwargs: Any) -> pd.Series:  # noqa: N803, N805
        return column_B.groupby(column_A).transform("nunique") == 1


class ExpectColumnPairValuesAToHaveOneB(ColumnPairMapExpectation):  # type: ignore[misc]
    """Expect each value of column A to go with exactly one value of column B (no family on both sides of a split)."""

    ignore_row_if: Any = "either_value_is_missing"
    map_metric = "column_pair_values.a_has_one_b"
    success_keys = ("column_A", "column_B", "ignore_row_if", "mostly")
