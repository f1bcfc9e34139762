"""Great Expectations: runs the committed suites of great_expectations/ over data frames, or over columns of numpy.

The suites are reviewed JSON and only read here; a run leaves the project folder as it was. A table of any size goes
through a suite in chunks (`SuiteCheck`): expectations of single rows judge each chunk, expectations of the whole table
judge one compact frame, and the pages show one result for each. Where a chunk comes as columns, numpy finds the rows
that an expectation rejects (`mlim.quality.conditions`), and the library judges a few witnesses of each chunk; that both
agree is required. Besides the library's own expectations there are two of ours, registered when this module is
imported: one decodes the pictures of the shards, one finds values that appear on more than one side of a split.
"""

import io
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)
from great_expectations.execution_engine import PandasExecutionEngine, pandas_execution_engine
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    ColumnPairMapMetricProvider,
    column_condition_partial,
    column_pair_condition_partial,
)
from great_expectations.expectations.registry import get_expectation_impl, get_metric_kwargs
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.validator import Validator
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from PIL import Image

from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json
from mlim.quality.conditions import Columns, ColumnsVerdict, Condition, condition_of, judge_columns
from mlim.shards.shard import read_shard

ROOT_VARIABLE = "MLIM_GX_ROOT"
DATA_DOCS_VARIABLE = "MLIM_DATA_DOCS"  # filled into great_expectations.yml
PROJECT_FOLDER = "great_expectations"
PACKAGED_FOLDER = "suites"  # where a wheel has the same folder (pyproject.toml)
PROJECT_FILE = "great_expectations.yml"
PLACE_SEPARATOR = ":"
SHOWN_CHARACTERS = 60
SHOWN_VALUES = 20  # of those that failed, on the pages
PERCENT = 100.0
STATIC_FOLDER = "static"  # of the library's pages
ROW_LEVEL = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
COUNTS = ("element_count", "unexpected_count", "missing_count")
CONDENSED: Mapping[str, Callable[[pd.Series], Any]] = {
    "expect_column_mean_to_be_between": pd.Series.mean,
    "expect_column_max_to_be_between": pd.Series.max,
}
SHARD_PICTURES = "expect_column_values_to_be_shard_pictures"
FAST_TYPES: Mapping[str, Any] = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_, "O": np.object_}
LIBRARY = Lock()  # which is not made for several threads
LIMITS = ("value", "min_value", "max_value")
pandas_execution_engine.HASH_THRESHOLD = 0  # bytes; a larger frame gets no fingerprint, which nothing here reads


def project_root() -> Path:
    """The folder of the Great Expectations project: the current folder's own, else the one that came with mlim.

    A project that was not made for mlim (it does not read MLIM_DATA_DOCS) is passed over; MLIM_GX_ROOT names one
    outright. `InputError` says where it was looked for.
    """
    named = os.environ.get(ROOT_VARIABLE)
    package = Path(__file__).resolve().parent
    bundled = [package / PACKAGED_FOLDER, package.parent / PROJECT_FOLDER]  # in a wheel, in a checkout
    candidates = [Path(named)] if named else [Path.cwd() / PROJECT_FOLDER, *bundled]
    for candidate in candidates:
        file = candidate / PROJECT_FILE
        if file.is_file() and DATA_DOCS_VARIABLE in file.read_text(encoding="utf-8"):
            return candidate
    raise InputError(
        f"no {PROJECT_FILE} of mlim in {' or '.join(map(str, candidates))}; set {ROOT_VARIABLE} to the "
        f"{PROJECT_FOLDER}/ folder of a checkout, or install mlim again"
    )


def picture_place(shard: str, position: int) -> str:
    """Where a stored picture lies: the value that `expect_column_values_to_be_shard_pictures` looks at."""
    return f"{shard}{PLACE_SEPARATOR}{position}"


@dataclass(frozen=True)
class Finding:
    """What one expectation found. `unexpected` counts rows; it is 0 or 1 for an expectation of the whole table.

    `code` is a stable short name; `shows` names the column whose value explains a rejected row; `acceptable` says
    whether a person may overrule the expectation; one that is not `critical` is reported and stops nothing.
    """

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
    code: str
    shows: str | None
    acceptable: bool
    critical: bool

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
        limits = ", ".join(f"{key} {_formatted(value)}" for key, value in self.limits.items())
        observed = f"{self.unexpected} rows differ" if self.row_level else f"observed {_formatted(self.observed)}"
        return f"{self.problem} ({name}; {observed}{f'; expected {limits}' if limits else ''}); {self.advice}"


@dataclass(frozen=True)
class Rule:
    """What rejects a row, in words for a person, as `Finding` has it; known before anything is judged."""

    id: str
    code: str
    problem: str
    advice: str
    shows: str | None


@dataclass(frozen=True)
class RejectedRows:
    """The rows of a chunk, by position, that one expectation rejects."""

    id: str
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class JudgedChunk:
    """What a suite says of a chunk: its rejected rows in the suite's order; `SuiteCheck.add` keeps the rest."""

    rejected: Sequence[RejectedRows]
    columns: ColumnsVerdict | None
    results: Sequence[Any]  # of the library, about the whole chunk


class SuiteCheck:
    """One suite over a table in chunks: judge and `add` each, `whole` once for the table, then `findings`."""

    def __init__(self, context: Any, data: Any, committed: Sequence[Mapping[str, Any]], suite: Any) -> None:
        """Prefer `Validation.start`; `committed` is the reviewed JSON, `suite` what the library made of it."""
        self._context, self._data, self._committed, self._name = context, data, committed, suite.name
        known = suite.expectation_configurations
        self._parts = {
            level: [entry for entry in known if _is_row_level(entry.type) is level] for level in (True, False)
        }
        self._results: dict[str, list[Any]] = defaultdict(list)
        self._verdicts: list[ColumnsVerdict] = []
        self._parameters: Mapping[str, Any] = {}

    def rules(self, parameters: Mapping[str, Any]) -> list[Rule]:
        """What can reject a row, in the suite's order."""
        return [_rule(config, parameters) for config in self._parts[True]]

    def rows(self, chunk: pd.DataFrame, parameters: Mapping[str, Any]) -> Sequence[RejectedRows]:
        """Judge the rows of a chunk (labels 0, 1, 2, ...) with the library; what is rejected, in the suite's order."""
        judged = self._by_library(chunk, self._parts[True], parameters)
        self.add(judged, parameters)
        return judged.rejected

    def judge(self, columns: Columns, parameters: Mapping[str, Any]) -> JudgedChunk:
        """Judge the rows of a chunk of columns with numpy, in any thread; the library judges what has no condition."""
        conditions = self._conditions(columns, parameters)
        verdict = judge_columns(conditions, columns)
        left = [config for config in self._parts[True] if config.id not in conditions]
        others = self._by_library(_frame(columns), left, parameters) if left else JudgedChunk([], None, [])
        rows = {identifier: found.rejected for identifier, found in verdict.counted.items()}
        rows |= {found.id: found.rows for found in others.rejected}
        rejected = [RejectedRows(entry["id"], rows[entry["id"]]) for entry in self._committed if entry["id"] in rows]
        return JudgedChunk([found for found in rejected if len(found.rows)], verdict, others.results)

    def add(self, judged: JudgedChunk, parameters: Mapping[str, Any]) -> None:
        """Keep what was found out about the next chunk."""
        self._parameters = parameters
        if judged.columns is not None:
            self._verdicts.append(judged.columns)
        self._remember(judged.results)

    def whole(self, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> None:
        """Judge the table with the expectations that are not about single rows."""
        self._parameters = parameters
        if part := self._parts[False]:
            self._remember(self._run(self._batch(_condensed(frame, part)), part, parameters))

    def findings(self) -> list[Finding]:
        """One finding for each expectation, in the suite's order; the pages will show them.

        `MlimError` when not every committed expectation gave a result: a check that did not run must not pass.
        """
        self._hear_witnesses()
        silent = [entry["type"] for entry in self._committed if entry["id"] not in self._results]
        if silent or len(self._results) != len(self._committed):
            raise MlimError(
                f"suite `{self._name}` gave {len(self._results)} results for {len(self._committed)} committed "
                f"expectations (none from: {', '.join(silent)}); nothing was accepted"
            )
        merged = [_merged(self._results[entry["id"]]) for entry in self._committed]
        self._keep(merged)
        return [_finding(self._name, result, self._parameters) for result in merged]

    def _conditions(self, columns: Columns, parameters: Mapping[str, Any]) -> dict[str, tuple[str, Condition]]:
        """The conditions that numpy can judge, with their columns, by the expectation's id."""
        found = {}
        for config in self._parts[True]:
            kwargs, name = _filled_in(config.kwargs, parameters), config.kwargs.get("column")
            condition = _condition(config.type, kwargs, columns[name].dtype.kind) if name in columns else None
            if condition is not None:
                found[config.id] = (name, condition)
        return found

    def _by_library(self, chunk: pd.DataFrame, part: Sequence[Any], parameters: Mapping[str, Any]) -> JudgedChunk:
        """What the library says of the rows of a chunk.

        Results stay BASIC (a count and some examples); the rows come from the condition itself, and only where an
        expectation failed: asking the library to list millions of bad rows takes minutes.
        """
        if not part:
            return JudgedChunk([], None, [])
        with LIBRARY:
            batch = self._batch(chunk)
            results = self._run(batch, part, parameters)
            failed = [result.expectation_config for result in results if not result.success]
            rejected = [RejectedRows(config.id, self._rejected(batch, config)) for config in failed]
        return JudgedChunk(rejected, None, results)

    def _hear_witnesses(self) -> None:
        """Let the library judge the witnesses of all chunks; `MlimError` when it rejects others than numpy did."""
        verdicts, self._verdicts = self._verdicts, []
        part = [config for config in self._parts[True] if verdicts and config.id in verdicts[0].counted]
        if not part:
            return
        names = verdicts[0].witnesses
        frame = _frame({name: np.concatenate([verdict.witnesses[name] for verdict in verdicts]) for name in names})
        judged = self._by_library(frame, part, self._parameters)
        rejected = {found.id: found.rows.tolist() for found in judged.rejected}
        for result in judged.results:
            config = result.expectation_config
            expected = np.flatnonzero(np.concatenate([verdict.expected[config.id] for verdict in verdicts]))
            if rejected.get(config.id, []) != expected.tolist():
                raise MlimError(
                    f"{self._name}: {config.type} of {_column(config.kwargs)} rejects other rows than mlim found; "
                    "nothing was accepted: please report it"
                )
            _set_counts(result, _counts(config.id, verdicts))
        self._remember(judged.results)

    def _batch(self, frame: pd.DataFrame) -> Any:
        return self._data.get_batch(batch_parameters={"dataframe": frame})

    def _run(self, batch: Any, configs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        part = gx.ExpectationSuite(name=self._name, expectations=list(configs))
        done = batch.validate(part, result_format="BASIC", expectation_parameters=dict(parameters))
        by_id = {result.expectation_config.id: result for result in done.results}
        found = [by_id[entry["id"]] for entry in self._committed if entry["id"] in by_id]
        for result in found:
            _require_result(self._name, result)
        return found

    def _remember(self, results: Sequence[Any]) -> None:
        for result in results:
            self._results[result.expectation_config.id].append(result)

    def _rejected(self, batch: Any, config: Any) -> NDArray[np.int64]:
        metric = f"{get_expectation_impl(config.type).map_metric}.condition"
        named = get_metric_kwargs(metric, config)
        condition = MetricConfiguration(metric, named["metric_domain_kwargs"], named["metric_value_kwargs"])
        engine = Validator(batch.data.execution_engine, batches=[batch], data_context=self._context)
        rejected = engine.get_metric(condition)[0]
        return np.sort(rejected.index.to_numpy()[rejected.to_numpy(dtype=bool)])

    def _keep(self, results: Sequence[Any]) -> None:
        """Put the results where the pages are built from."""
        successful = sum(bool(result.success) for result in results)
        run = RunIdentifier(run_time=datetime.now(UTC))
        suite = ExpectationSuiteValidationResult(
            results=list(results),
            success=successful == len(results),
            suite_name=self._name,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": successful,
                "unsuccessful_expectations": len(results) - successful,
                "success_percent": PERCENT * successful / max(len(results), 1),
            },
            meta={"run_id": run, "validation_time": run.run_time, "great_expectations_version": gx.__version__},
        )
        key = ValidationResultIdentifier(ExpectationSuiteIdentifier(self._name), run, batch_identifier=self._name)
        self._context.validation_results_store.set(key, suite)


class Validation:
    """The committed suites, opened once; `start` and `check` run them, `write_docs` makes pages of what was found."""

    def __init__(self, data_docs: Path) -> None:
        """Open the project; the pages will go to `data_docs`. `InputError` when the project is not found."""
        self._root, self._data_docs = project_root(), data_docs.absolute()
        # an expectation it does not know is only logged, with a traceback; `findings` says it in one sentence
        logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
        self._context = gx.get_context(
            mode="file",
            context_root_dir=self._root,
            runtime_environment={DATA_DOCS_VARIABLE: str(self._data_docs)},
        )
        source = self._context.data_sources.get("catalog")
        self._whole = source.get_asset("frame").get_batch_definition("whole")

    def start(self, suite: str) -> SuiteCheck:
        """Begin to check a table that comes in chunks."""
        committed = self._committed(suite)
        return SuiteCheck(self._context, self._whole, committed, self._context.suites.get(suite))

    def check(self, suite: str, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> list[Finding]:
        """Run a suite over a frame (row labels 0, 1, 2, ...) with the suite parameters; findings in the suite's order.

        `MlimError` when not every committed expectation gave a result: a check that did not run must not pass.
        """
        check = self.start(suite)
        check.rows(frame, parameters)
        check.whole(frame, parameters)
        return check.findings()

    def write_docs(self) -> None:
        """Build the Data Docs of everything checked so far (index.html and a page for each suite).

        They load nothing (`mlim.data_docs`), so the fonts and logos that the library lays beside them are removed.
        """
        self._context.build_data_docs()
        shutil.rmtree(self._data_docs / STATIC_FOLDER, ignore_errors=True)

    def _committed(self, suite: str) -> list[dict[str, Any]]:
        """The expectations of the reviewed JSON, whatever the library makes of them."""
        path = self._root / "expectations" / f"{suite}.json"
        if not path.is_file():
            raise InputError(f"{path} is missing; restore it from version control")
        entries: list[dict[str, Any]] = read_json(path)["expectations"]
        return entries


def require(findings: Sequence[Finding]) -> None:
    """`DataError` with one sentence for each critical finding that failed."""
    complaints = [finding.complaint() for finding in findings if finding.critical and not finding.success]
    if complaints:
        raise DataError("\n".join(complaints))


def _is_row_level(expectation: str) -> bool:
    return issubclass(get_expectation_impl(expectation), ROW_LEVEL)


def _require_result(suite: str, result: Any) -> None:
    """`MlimError` when the expectation could not be evaluated (an exception is only noted by the library)."""
    if "observed_value" not in result.result and "unexpected_count" not in result.result:
        kind = result.expectation_config.type
        raise MlimError(f"{suite}: {kind} could not be evaluated: {_raised(result.exception_info)}")


def _merged(results: Sequence[Any]) -> Any:
    """The results of one expectation over all chunks as one: counts added up, the first examples kept."""
    first = results[0]
    if len(results) > 1:
        examples = [value for result in results for value in result.result.get("partial_unexpected_list", ())]
        first.success = all(result.success for result in results)
        first.result["partial_unexpected_list"] = examples[:SHOWN_VALUES]
        _set_counts(first, {key: sum(result.result[key] for result in results) for key in COUNTS})
    return first


def _counts(identifier: str, verdicts: Sequence[ColumnsVerdict]) -> dict[str, int]:
    """What one expectation counts over all chunks."""
    rows, counted = sum(verdict.rows for verdict in verdicts), [verdict.counted[identifier] for verdict in verdicts]
    missing = rows - sum(found.present for found in counted)
    return dict(zip(COUNTS, (rows, sum(len(found.rejected) for found in counted), missing), strict=True))


def _set_counts(result: Any, counts: Mapping[str, int]) -> None:
    """Give the result of an expectation the counts of more rows than it saw."""
    present = counts["element_count"] - counts["missing_count"]
    result.result |= {
        **counts,
        "missing_percent": _percent(counts["missing_count"], counts["element_count"]),
        "unexpected_percent": _percent(counts["unexpected_count"], present),
        "unexpected_percent_nonmissing": _percent(counts["unexpected_count"], present),
        "unexpected_percent_total": _percent(counts["unexpected_count"], counts["element_count"]),
    }


def _percent(part: int, whole: int) -> float | None:
    return part / whole * PERCENT if whole else None


def _condensed(frame: pd.DataFrame, configs: Sequence[Any]) -> pd.DataFrame:
    """One row instead of the table, where means and maxima are all that is asked: the library would copy the table."""
    asked = {(config.kwargs.get("column"), config.type) for config in configs}
    columns = {name for name, _ in asked}
    plain = all(kind in CONDENSED and name in frame and is_numeric_dtype(frame[name]) for name, kind in asked)
    if not plain or len(columns) < len(asked) or frame.empty or any("row_condition" in c.kwargs for c in configs):
        return frame
    return pd.DataFrame({name: [CONDENSED[kind](frame[name])] for name, kind in asked})


def _frame(columns: Columns) -> pd.DataFrame:
    """A data frame with the types that the library is fast with."""
    kinds = {name: FAST_TYPES[values.dtype.kind] for name, values in columns.items()}
    return pd.DataFrame({name: values.astype(kinds[name], copy=False) for name, values in columns.items()})


def _filled_in(kwargs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an expectation, with values for the suite's `$PARAMETER`s."""
    return {
        name: parameters[value["$PARAMETER"]] if isinstance(value, Mapping) and "$PARAMETER" in value else value
        for name, value in kwargs.items()
    }


def _condition(expectation: str, kwargs: Mapping[str, Any], kind: str) -> Condition | None:
    if expectation == SHARD_PICTURES and kwargs.keys() == {"column", "folder", "side"}:
        return lambda places: ~decodable(pd.Series(places), Path(kwargs["folder"]), kwargs["side"]).to_numpy()
    return condition_of(expectation, kwargs, kind)


def _rule(config: Any, parameters: Mapping[str, Any]) -> Rule:
    return Rule(
        id=config.id,
        code=config.meta.get("code", config.type),
        problem=config.meta["problem"].format_map(parameters),
        advice=config.meta["advice"],
        shows=config.meta.get("shows", config.kwargs.get("column")),
    )


def _finding(suite: str, result: Any, parameters: Mapping[str, Any]) -> Finding:
    """The result as a finding; what the problem has in {braces} are parameters too."""
    config, row_level = result.expectation_config, _is_row_level(result.expectation_config.type)
    return Finding(
        suite=suite,
        expectation=config.type,
        column=_column(config.kwargs),
        success=bool(result.success),
        unexpected=int(result.result["unexpected_count"]) if row_level else int(not result.success),
        row_level=row_level,
        observed=result.result.get("observed_value"),
        limits=_limits(config.kwargs),
        problem=config.meta["problem"].format_map(parameters),
        advice=config.meta["advice"],
        id=config.id,
        code=config.meta.get("code", config.type),
        shows=config.meta.get("shows", config.kwargs.get("column")),
        acceptable=config.meta.get("acceptable", True),
        critical=config.severity == FailureSeverity.CRITICAL,
    )


def _limits(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    limits = {key: kwargs[key] for key in LIMITS if kwargs.get(key) is not None}
    if kwargs.get("strict_max"):
        limits["less than"] = limits.pop("max_value")
    return limits


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


def _formatted(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def decodable(places: pd.Series, folder: Path, side: int) -> pd.Series:
    """Whether each place (`picture_place`) holds an RGB JPEG of side x side pixels; read through a memory map."""
    by_shard: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for row, place in places.items():
        shard, _, position = place.rpartition(PLACE_SEPARATOR)
        by_shard[shard].append((row, int(position)))
    decoded: dict[Any, bool] = {}
    for shard, members in by_shard.items():
        pictures = read_shard(folder / shard, ["image"])["image"]
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
