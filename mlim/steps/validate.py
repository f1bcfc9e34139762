"""`mlim validate`: check the ingested items with Great Expectations, quarantine the bad ones, compare with last time.

Expectations of single items send an item to quarantine. Those of the whole table reject the data version, unless a
person accepts what they say (`Acceptance`); then the version is the one that the next delivery is compared with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, describe_reasons
from mlim.console import Terminal
from mlim.data.lengths import TokenCut, measure_cut
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, read_json, sha256_of, write_json
from mlim.ingest.freshness import CHANGED, changed_files, stale_sentence
from mlim.quality.acceptance import (
    Acceptance,
    Complaint,
    History,
    Overruled,
    Version,
    history_file,
    overrule,
    read_history,
    write_history,
)
from mlim.quality.drift import Divergence
from mlim.quality.languages import check_languages, guess_languages
from mlim.quality.measures import Chunk, Measures, chunks_of, measure_items, read_values, sample_places, shard_places
from mlim.quality.outcome import Outcome, Verdict, write_outcome
from mlim.quality.profile import CATEGORY, EDGES, Profile, compare
from mlim.recipe import Recipe, ValidationConfig
from mlim.shards.shard import MANIFEST_FILE, read_manifest, verify_shards
from mlim.steps.tokenizing import tokenizer_for
from mlim.validation import Finding, SuiteCheck, Validation, picture_place
from mlim.workspace import INDEX_FILE, Workspace

PROFILE_FILE = "profile.json"
DATA_DOCS = "data_docs"
ROWS, KEYS, IMAGES, TEXTS, FAMILIES, LANGUAGES, DRIFT = (
    "rows",
    "keys",
    "images",
    "texts",
    "families",
    "languages",
    "drift",
)
# what the suites read of each row; whole numbers and fractions are given in the library's fast types
ROW_MEASURES = (
    "in_row_log",
    "id_characters",
    "id_tidy",
    "id_uses",
    "picture_named",
    "image_width",
    "image_height",
    "aspect_ratio",
    "image_contrast",
    "picture_uses",
    "picture_families",
    "text_characters",
    "text_readable",
    "text_uses",
    "family_named",
)
FAST_TYPES: Mapping[str, Any] = {"i": np.int64, "f": np.float64, "b": np.bool_}
SHARED_BY_CHANCE = 3  # families whose items may have one picture in any catalog
SHOWN_FINDINGS = 5
SHOWN_DIVERGENCES = 5
TOO_MANY_REJECTED = "max_quarantined_share"
TEXTS_TOKENISED, CHARACTERS_TOKENISED = 10_000, 10_000_000  # at most: seconds, however large the catalog


@dataclass(frozen=True)
class _Delivery:
    """The items to be judged and where they come from."""

    recipe: Recipe
    folder: Path
    chunks: Sequence[Chunk]
    measures: Measures
    version: str

    @property
    def limits(self) -> ValidationConfig:
        return self.recipe.validation

    @property
    def sample_seed(self) -> int:
        """Samples depend on the data alone: equal data, equal samples."""
        return int(self.version[:16], 16)

    def parameters(self) -> dict[str, Any]:
        """What the suites' `$PARAMETER`s stand for."""
        flat = {name: value for name, value in (*self.limits, *self.limits.drift) if isinstance(value, int | float)}
        own = {"image_size": self.recipe.image.size, "folder": str(self.folder)}
        own |= {"max_picture_families": self._max_picture_families()}
        return flat | own | {"row_log_items": self.measures.row_log_items}

    def _max_picture_families(self) -> int:
        """How many families may have one picture: a share of them, but three in the smallest catalog."""
        uses = self.measures.columns["family_uses"]
        families = round(float((1 / uses[uses > 0]).sum()))
        return max(SHARED_BY_CHANCE, int(self.limits.max_picture_share * families))


@dataclass(frozen=True)
class _Judgement:
    """Everything that was found out about a delivery."""

    verdict: Verdict
    findings: Sequence[Finding]
    profile: Profile
    drift: Mapping[str, Any]
    complaints: Sequence[Complaint]
    tokens: TokenCut | str


def validate(
    recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, accept: Acceptance | None = None
) -> dict[str, Any]:
    """Write index.parquet of the accepted items, quarantine.parquet, profile.json, data_docs/ and summary.json.

    Returns the summary. `DataError` when an expectation of the whole table fails or too many items are rejected, unless
    `accept` overrules it now or a person did so before for this very data version; then everything but the index is
    written, so that the pages show why and no later step takes the items. What single items fail is never overruled.
    """
    description = load_description(catalog)
    check_languages(recipe.validation.languages)
    path = history_file(workspace.root, catalog)
    history = read_history(path)
    delivery = _open(recipe, workspace.items)
    changed = changed_files(_ingested(workspace), description, catalog)
    if changed:
        terminal.warn(stale_sentence(changed, catalog, workspace.root))
    terminal.say(f"checking {len(delivery.measures)} items with Great Expectations ...")
    with atomic_folder(workspace.valid) as folder:
        validation = Validation(folder / DATA_DOCS)
        judged = _judge(validation, delivery, description, history)
        validation.write_docs()
        overruled = _overruled(delivery.version, history, judged.complaints, accept)
        closed = bool(judged.complaints) and overruled is None
        summary = {**_summary(delivery, judged, overruled, closed), CHANGED: changed}
        _write(folder, delivery, judged, summary, closed)
    if not closed:
        write_history(path, _remembered(history, delivery.version, judged.profile, overruled))
    _report(terminal, summary, judged)
    if closed:
        pages = f"see {workspace.valid / DATA_DOCS / 'index.html'}"
        raise DataError("\n".join([*(complaint.sentence for complaint in judged.complaints), pages]))
    return summary


def _ingested(workspace: Workspace) -> Mapping[str, Any]:
    """The summary of ingest; empty for items that somebody else wrote."""
    path = workspace.items / "summary.json"
    return read_json(path) if path.is_file() else {}


def _open(recipe: Recipe, folder: Path) -> _Delivery:
    """Measure the items; `InputError` when the shards are not the manifest's, `DataError` when there are none."""
    entries = read_manifest(folder)
    verify_shards(folder, entries)
    if not entries:
        raise DataError(f"{folder} holds no items; its {QUARANTINE_FILE} says why each row was quarantined")
    chunks = list(chunks_of(entries, recipe.validation.chunk_rows))
    return _Delivery(recipe, folder, chunks, measure_items(folder, chunks), sha256_of(folder / MANIFEST_FILE))


def _judge(
    validation: Validation, delivery: _Delivery, description: CatalogDescription, history: History
) -> _Judgement:
    described = description.columns.family is not None
    checks = {name: validation.start(name) for name in (ROWS, KEYS, IMAGES, TEXTS, *([FAMILIES] if described else []))}
    rejected = _judge_rows(checks, delivery)
    accepted = np.array([identifier is None for identifier in rejected.names])[rejected.codes]
    frames = _frames(delivery, accepted)
    for name, check in checks.items():
        check.whole(frames[name], delivery.parameters())
    findings = [finding for check in checks.values() for finding in check.findings()]
    if delivery.limits.languages:
        findings += validation.check(LANGUAGES, _languages(delivery, accepted), delivery.parameters())
    profile = Profile.of(delivery.measures, accepted)
    drift_findings, drift = _drift(validation, delivery, description, profile, history)
    findings += drift_findings
    by_id = {finding.id: finding for finding in findings}
    verdict = Verdict(rejected.codes, [by_id[identifier] for identifier in rejected.names if identifier is not None])
    complaints = _complaints(delivery, findings, verdict)
    return _Judgement(verdict, findings, profile, drift, complaints, _tokens(delivery, verdict.accepted))


@dataclass(frozen=True)
class _Rejected:
    """For each item the number of the expectation that rejects it; `names` are their ids, None: accepted."""

    codes: NDArray[np.int16]
    names: Sequence[str | None]


def _judge_rows(checks: Mapping[str, SuiteCheck], delivery: _Delivery) -> _Rejected:
    """Run the expectations of single items, a chunk at a time; the first that rejects an item counts."""
    codes = np.zeros(len(delivery.measures), dtype=np.int16)
    names: dict[str | None, int] = {None: 0}
    sampled = sample_places(np.arange(len(codes)), delivery.limits.decoded_pictures, delivery.sample_seed)
    for chunk in delivery.chunks:
        frame, own = _row_frame(delivery, chunk, sampled), codes[chunk.places]
        for check in checks.values():
            for rejection in check.rows(frame, delivery.parameters()):
                number = names.setdefault(rejection.id, len(names))
                own[rejection.rows[own[rejection.rows] == 0]] = number
    return _Rejected(codes, list(names))


def _row_frame(delivery: _Delivery, chunk: Chunk, sampled: NDArray[np.int64]) -> pd.DataFrame:
    columns = {name: delivery.measures.columns[name][chunk.places] for name in ROW_MEASURES}
    frame = {name: values.astype(FAST_TYPES[values.dtype.kind], copy=False) for name, values in columns.items()}
    return pd.DataFrame({**frame, "picture": _picture_places(chunk, sampled)})


def _picture_places(chunk: Chunk, sampled: NDArray[np.int64]) -> NDArray[Any]:
    """Where the sampled pictures of a chunk lie; null for the others, which no expectation then looks at."""
    places = np.full(chunk.stop - chunk.start, None, dtype=object)
    wanted = sampled[(sampled >= chunk.start) & (sampled < chunk.stop)] - chunk.start
    if len(wanted):
        shards, positions = shard_places(chunk)
        for place in wanted.tolist():
            places[place] = picture_place(shards[place].as_py(), positions[place])
    return places


def _frames(delivery: _Delivery, accepted: NDArray[np.bool_]) -> dict[str, pd.DataFrame]:
    """What the expectations of the whole table look at: all items for the row log's count, else those left over."""
    columns = delivery.measures.columns

    def left(name: str) -> NDArray[Any]:
        values: NDArray[Any] = columns[name][accepted]
        return values

    copied, varied = left("picture_uses") > 1, left("family_uses") > 1
    return {
        ROWS: pd.DataFrame({"in_row_log": columns["in_row_log"]}),
        KEYS: pd.DataFrame(),
        TEXTS: pd.DataFrame(),
        IMAGES: pd.DataFrame({"picture_copied": copied.astype(np.int8)}),
        FAMILIES: pd.DataFrame(
            {
                "has_family": left("has_family").astype(np.int8),
                "in_varied_family": varied.astype(np.int8),
                "family_uses": left("family_uses"),
            }
        ),
    }


def _languages(delivery: _Delivery, accepted: NDArray[np.bool_]) -> pd.DataFrame:
    """Whether each sampled text is in an expected language (1) or not (0)."""
    long_enough = delivery.measures.columns["text_characters"] >= delivery.limits.min_language_characters
    candidates = np.flatnonzero(accepted & long_enough)
    places = sample_places(candidates, delivery.limits.language_sample, delivery.sample_seed)
    guessed = guess_languages(read_values(delivery.folder, delivery.chunks, places, "text"))
    expected = [int(language in delivery.limits.languages) for language in guessed]
    return pd.DataFrame({"in_language": np.array(expected, dtype=np.int8)})


def _tokens(delivery: _Delivery, accepted: NDArray[np.bool_]) -> TokenCut | str:
    """How much of a sample of the accepted texts the model will read; in words why that is unknown."""
    candidates, recipe = np.flatnonzero(accepted), delivery.recipe
    if not len(candidates):
        return "not measured, no item was accepted"
    characters = int(delivery.measures.columns["text_characters"][candidates].sum())
    fitting = len(candidates) * CHARACTERS_TOKENISED // max(characters, 1)
    places = sample_places(candidates, min(TEXTS_TOKENISED, max(fitting, 1)), delivery.sample_seed)
    texts = read_values(delivery.folder, delivery.chunks, places, "text")
    try:
        return measure_cut(texts, tokenizer_for(recipe, texts), recipe.text)
    except InputError as error:  # a start that is not there: training will say so, and data are no worse for it
        return f"not measured, {error}"


def _drift(
    validation: Validation, delivery: _Delivery, description: CatalogDescription, profile: Profile, history: History
) -> tuple[list[Finding], dict[str, Any]]:
    """Compare with the last accepted version; the first version has nothing to be compared with."""
    reference = history.reference(delivery.version)
    if reference is None:
        return [], {"reference": None, "divergences": [], "note": "first version: nothing to compare with"}
    category = description.values.of(description.columns.category or "")
    moved = compare(reference.profile, profile, category)
    excess = {f"{name}_divergence": [0.0] for name in (CATEGORY, *EDGES)}
    excess |= {f"{entry.measure}_divergence": [entry.excess] for entry in moved}
    findings = validation.check(DRIFT, pd.DataFrame(excess), delivery.parameters())
    return findings, {
        "reference": reference.data_version,
        "divergences": [asdict(entry) for entry in moved],
        "note": "",
    }


def _complaints(delivery: _Delivery, findings: Sequence[Finding], verdict: Verdict) -> list[Complaint]:
    """Why the version is rejected. When no item is left, what the rest of the table looks like is not worth saying."""
    checked, counts, limit = len(verdict.rejected), verdict.counts(), delivery.limits.max_quarantined_share
    rejected = sum(counts.values())
    failed = [finding for finding in findings if not finding.row_level and not finding.success]
    complaints = [
        Complaint(finding.id, finding.complaint(), finding.acceptable)
        for finding in failed
        if rejected < checked or not finding.acceptable
    ]
    if checked and (rejected > limit * checked or rejected == checked):
        sentence = (
            f"{rejected} of {checked} items were rejected ({describe_reasons(counts)}), more than "
            f"validation.{TOO_MANY_REJECTED} {limit:g} allows; correct the catalog, or leave these items out with "
            f"--set validation.{TOO_MANY_REJECTED}={math.ceil(100 * rejected / checked) / 100:g}"
        )
        complaints.append(Complaint(TOO_MANY_REJECTED, sentence, acceptable=rejected < checked))
    return complaints


def _overruled(
    version: str, history: History, complaints: Sequence[Complaint], accept: Acceptance | None
) -> Overruled | None:
    """What overrules the complaints: the acceptance of now, or an earlier one of this version; None if nothing does."""
    if not complaints or not all(complaint.acceptable for complaint in complaints):
        return None
    return overrule(version, complaints, accept) if accept else history.granted(version, complaints)


def _remembered(history: History, version: str, profile: Profile, overruled: Overruled | None) -> History:
    """The history after this run; an acceptance of an earlier run is in it already."""
    known = history.with_version(Version(data_version=version, profile=profile))
    return known if overruled is None or overruled in history.overruled else known.with_overruled(overruled)


def _summary(delivery: _Delivery, judged: _Judgement, overruled: Overruled | None, closed: bool) -> dict[str, Any]:
    quarantined = judged.verdict.counts()
    checked = len(judged.verdict.rejected)
    return {
        "data_version": delivery.version,
        "checked": checked,
        "accepted": 0 if closed else checked - sum(quarantined.values()),
        "quarantined": quarantined,
        "expectations": [finding.summary() for finding in judged.findings],
        "complaints": [complaint.sentence for complaint in judged.complaints],
        "acceptance": overruled and {"by": overruled.by, "why": overruled.why, "accepted": list(overruled.complaints)},
        "drift": dict(judged.drift),
        "tokens": {"note": judged.tokens} if isinstance(judged.tokens, str) else asdict(judged.tokens),
        "success": not closed,
    }


def _write(folder: Path, delivery: _Delivery, judged: _Judgement, summary: dict[str, Any], closed: bool) -> None:
    index = None if closed else folder / INDEX_FILE
    outcome = Outcome(delivery.folder, folder / QUARANTINE_FILE, index, delivery.limits.max_thumbnails)
    write_outcome(outcome, delivery.chunks, delivery.measures, judged.verdict)
    write_json(folder / PROFILE_FILE, judged.profile.model_dump(mode="json"))
    write_json(folder / "summary.json", summary)


def _report(terminal: Terminal, summary: Mapping[str, Any], judged: _Judgement) -> None:
    quarantined = f"; quarantined: {describe_reasons(summary['quarantined'])}" if summary["quarantined"] else ""
    terminal.say(f"{summary['accepted']} of {summary['checked']} items accepted{quarantined}")
    rowwise = [finding for finding in judged.findings if finding.row_level and finding.unexpected]
    for finding in sorted(rowwise, key=lambda finding: -finding.unexpected)[:SHOWN_FINDINGS]:
        terminal.say(f"  {finding.unexpected} {finding.code}: {finding.problem}")
    terminal.say(f"drift: {_describe_drift(summary['drift'])}")
    if isinstance(judged.tokens, TokenCut) and judged.tokens.warning:
        terminal.warn(judged.tokens.warning)
    else:
        terminal.say(f"texts: {judged.tokens}")
    if acceptance := summary["acceptance"]:
        for sentence in acceptance["accepted"]:
            terminal.warn(f"accepted by {acceptance['by']} ({acceptance['why']}): {sentence}")


def _describe_drift(drift: Mapping[str, Any]) -> str:
    if drift["note"]:
        return str(drift["note"])
    moved = [Divergence(**entry) for entry in drift["divergences"]]
    shown = ", ".join(f"{entry.measure} {entry.excess:.3f}" for entry in moved[:SHOWN_DIVERGENCES])
    return f"{shown} bits beyond chance, against version {drift['reference'][:8]}"
