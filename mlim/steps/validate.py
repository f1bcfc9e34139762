"""`mlim validate`: check the ingested items with Great Expectations, quarantine the bad ones, compare with last time.

Expectations of single items send an item to quarantine. Those of the whole table reject the data version, unless a
person accepts what they say (`Acceptance`); then the version is the one that the next delivery is compared with.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
from mlim.quality.chunks import (
    METADATA,
    Chunk,
    chunks_of,
    in_order,
    read_chunk,
    read_values,
    sample_places,
    shard_places,
    threads_for_chunks,
)
from mlim.quality.drift import Divergence
from mlim.quality.languages import check_languages, guess_languages
from mlim.quality.measures import Lines, RowLog, measure
from mlim.quality.outcome import ACCEPTED, ChunkOutcome, OutcomeWriter, Verdict, split_chunk
from mlim.quality.profile import CATEGORY, EDGES, Counts, Profile, compare
from mlim.quality.uses import Uses, count_uses
from mlim.recipe import Recipe, ValidationConfig
from mlim.shards.shard import MANIFEST_FILE, ShardEntry, read_manifest
from mlim.steps.tokenizing import tokenizer_for
from mlim.validation import Finding, JudgedChunk, SuiteCheck, Validation, picture_place
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
# what the suites read of each row
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
    entries: Sequence[ShardEntry]
    uses: Uses
    version: str

    def __len__(self) -> int:
        return sum(entry.items for entry in self.entries)

    @property
    def chunks(self) -> list[Chunk]:
        """The items, some at a time."""
        return list(chunks_of(self.entries, self.recipe.validation.chunk_rows))

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
        return flat | own

    def _max_picture_families(self) -> int:
        """How many families may have one picture: a share of them, but three in the smallest catalog."""
        return max(SHARED_BY_CHANCE, int(self.limits.max_picture_share * self.uses.families))


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
    changed = changed_files(_ingested(workspace), description, catalog)
    if changed:
        terminal.warn(stale_sentence(changed, catalog, workspace.root))
    with atomic_folder(workspace.valid) as folder:
        delivery = _open(recipe, workspace.items, folder)
        terminal.say(f"checking {len(delivery)} items with Great Expectations ...")
        validation = Validation(folder / DATA_DOCS)
        judged = _judge(validation, delivery, description, history, folder)
        validation.write_docs()
        overruled = _overruled(delivery.version, history, judged.complaints, accept)
        closed = bool(judged.complaints) and overruled is None
        summary = {**_summary(delivery, judged, overruled, closed), CHANGED: changed}
        _write(folder, judged, summary, closed)
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


def _open(recipe: Recipe, items: Path, folder: Path) -> _Delivery:
    """Open the items, with temporary files in `folder`.

    `InputError` when the shards are not the manifest's, `DataError` when there are none.
    """
    entries = read_manifest(items)
    if not entries:
        raise DataError(f"{items} holds no items; its {QUARANTINE_FILE} says why each row was quarantined")
    chunks = list(chunks_of(entries, recipe.validation.chunk_rows))
    with TemporaryDirectory(dir=folder) as spill:
        uses = count_uses(items, chunks, Path(spill))
    return _Delivery(recipe, items, entries, uses, sha256_of(items / MANIFEST_FILE))


def _judge(
    validation: Validation, delivery: _Delivery, description: CatalogDescription, history: History, folder: Path
) -> _Judgement:
    """Find out everything; `folder` gets the index and the quarantine on the way."""
    described = description.columns.family is not None
    checks = {name: validation.start(name) for name in (ROWS, KEYS, IMAGES, TEXTS, *([FAMILIES] if described else []))}
    rows = _judge_rows(checks.values(), delivery, folder)
    accepted, frames = rows.verdict.accepted, _frames(delivery, rows.verdict.accepted)
    for name, check in checks.items():
        check.whole(frames[name], delivery.parameters() | {"row_log_items": rows.row_log_items})
    findings = [finding for check in checks.values() for finding in check.findings()]
    if delivery.limits.languages:
        findings += validation.check(LANGUAGES, _languages(delivery, accepted & rows.long), delivery.parameters())
    profile = Profile.of(rows.counts)
    drift_findings, drift = _drift(validation, delivery, description, profile, history)
    findings += drift_findings
    complaints = _complaints(delivery, findings, rows.verdict)
    return _Judgement(rows.verdict, findings, profile, drift, complaints, _tokens(delivery, rows))


@dataclass
class _Rows:
    """What is known of the single items; complete when the last chunk was added.

    `long` (items,): whether the text is long enough to guess its language; `characters` are those of accepted texts.
    """

    verdict: Verdict
    long: NDArray[np.bool_]
    counts: Counts
    characters: int = 0
    row_log_items: int = 0

    def add(self, judged: "_JudgedItems") -> None:
        """Add the next chunk."""
        self.verdict.add(judged.chunk.places, judged.numbers)
        self.long[judged.chunk.places] = judged.long
        self.counts += judged.counts
        self.characters += judged.characters


@dataclass(frozen=True)
class _JudgedItems:
    """A chunk of items, judged; `numbers` (items,): 0, or the number, from 1, of the first rule that rejects one."""

    chunk: Chunk
    suites: Sequence[JudgedChunk]
    numbers: NDArray[np.int16]
    outcome: ChunkOutcome
    counts: Counts
    long: NDArray[np.bool_]
    characters: int


@dataclass(frozen=True)
class _ItemJudge:
    """Runs the expectations of single items; in any thread."""

    delivery: _Delivery
    checks: Sequence[SuiteCheck]
    parameters: Mapping[str, Any]
    numbers: Mapping[str, int]  # of the rules, by their expectation's id
    sampled: NDArray[np.int64]  # places of the pictures that are decoded

    def __call__(self, work: tuple[Chunk, Lines]) -> _JudgedItems:
        """Judge a chunk, given what the row log says of it."""
        chunk, lines = work
        table = read_chunk(self.delivery.folder, chunk, (*METADATA, "image"))
        measures = measure(table, chunk, lines, self.delivery.uses.columns)
        columns = {name: measures.columns[name] for name in ROW_MEASURES}
        columns["picture"] = _picture_places(chunk, self.sampled)
        suites = [check.judge(columns, self.parameters) for check in self.checks]
        numbers = self._first(suites, len(table))
        characters, accepted = measures.columns["text_characters"], numbers == ACCEPTED
        return _JudgedItems(
            chunk=chunk,
            suites=suites,
            numbers=numbers,
            outcome=split_chunk(table, chunk, measures, numbers),
            counts=Counts.of(measures, accepted),
            long=characters >= self.delivery.limits.min_language_characters,
            characters=int(characters[accepted].sum()),
        )

    def _first(self, suites: Sequence[JudgedChunk], items: int) -> NDArray[np.int16]:
        """The first rule that rejects each item."""
        numbers = np.zeros(items, dtype=np.int16)
        for rejection in (found for suite in suites for found in suite.rejected):
            rows = rejection.rows
            numbers[rows[numbers[rows] == ACCEPTED]] = self.numbers[rejection.id]
        return numbers


def _judge_rows(checks: Collection[SuiteCheck], delivery: _Delivery, folder: Path) -> _Rows:
    """Judge the items and write them out, some chunks at a time."""
    parameters, items, log = delivery.parameters(), len(delivery), RowLog(delivery.folder)
    rules = [rule for check in checks for rule in check.rules(parameters)]
    sampled = sample_places(np.ones(items, dtype=bool), delivery.limits.decoded_pictures, delivery.sample_seed)
    numbers = {rule.id: number for number, rule in enumerate(rules, start=1)}
    judge = _ItemJudge(delivery, list(checks), parameters, numbers, sampled)
    rows = _Rows(Verdict.of(items, rules), np.zeros(items, dtype=bool), Counts.nothing())
    chunks, threads = delivery.chunks, threads_for_chunks()
    with (
        ThreadPoolExecutor(threads) as pool,
        ThreadPoolExecutor(1) as reader,
        OutcomeWriter(
            folder / INDEX_FILE, folder / QUARANTINE_FILE, rules, delivery.limits.max_thumbnails, delivery.version
        ) as writer,
    ):
        lines = in_order(reader, lambda chunk: log.take(chunk.stop - chunk.start), chunks, threads)
        for judged in in_order(pool, judge, zip(chunks, lines, strict=True), threads):
            for check, suite in zip(checks, judged.suites, strict=True):
                check.add(suite, parameters)
            rows.add(judged)
            writer.add(judged.outcome)
    rows.row_log_items = log.given + log.count_rest()
    return rows


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
    """What the expectations of the whole table look at: how many items there are, else those that are left over."""
    uses, has_family = delivery.uses.columns, delivery.uses.has_family[accepted]
    copied, family_uses = uses["picture_uses"][accepted] > 1, uses["family_uses"][accepted]
    return {
        ROWS: pd.DataFrame(index=pd.RangeIndex(len(accepted))),
        KEYS: pd.DataFrame(),
        TEXTS: pd.DataFrame(),
        IMAGES: pd.DataFrame({"picture_copied": copied.astype(np.int8)}),
        FAMILIES: pd.DataFrame(
            {
                "has_family": has_family.astype(np.int8),
                "in_varied_family": (family_uses > 1).astype(np.int8),
                "family_uses": family_uses,
            }
        ),
    }


def _languages(delivery: _Delivery, candidates: NDArray[np.bool_]) -> pd.DataFrame:
    """Whether each sampled text is in an expected language (1) or not (0)."""
    places = sample_places(candidates, delivery.limits.language_sample, delivery.sample_seed)
    guessed = guess_languages(read_values(delivery.folder, delivery.entries, places, "text"))
    expected = [int(language in delivery.limits.languages) for language in guessed]
    return pd.DataFrame({"in_language": np.array(expected, dtype=np.int8)})


def _tokens(delivery: _Delivery, rows: _Rows) -> TokenCut | str:
    """How much of a sample of the accepted texts the model will read; in words why that is unknown."""
    accepted, recipe = rows.counts.items, delivery.recipe
    if not accepted:
        return "not measured, no item was accepted"
    fitting = accepted * CHARACTERS_TOKENISED // max(rows.characters, 1)
    places = sample_places(rows.verdict.accepted, min(TEXTS_TOKENISED, max(fitting, 1)), delivery.sample_seed)
    texts = read_values(delivery.folder, delivery.entries, places, "text")
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
    checked, counts, limit = len(verdict.accepted), verdict.counts(), delivery.limits.max_quarantined_share
    rejected = sum(counts.values())
    failed = [finding for finding in findings if not finding.row_level and not finding.success]
    complaints = [
        Complaint(finding.id, finding.complaint(), finding.acceptable)
        for finding in failed
        if rejected < checked or not finding.acceptable
    ]
    if checked and (rejected > limit * checked or rejected == checked):
        sentence = _too_many_rejected(checked, counts, limit)
        complaints.append(Complaint(TOO_MANY_REJECTED, sentence, acceptable=rejected < checked))
    return complaints


def _too_many_rejected(checked: int, counts: Mapping[str, int], limit: float) -> str:
    """A higher limit is no advice where no item is left: none lets that through."""
    rejected, setting = sum(counts.values()), f"validation.{TOO_MANY_REJECTED}"
    found = f"{rejected} of {checked} items were rejected ({describe_reasons(counts)})"
    if rejected == checked:
        return f"{found}: no item is left, whatever {setting} allows; correct the catalog"
    return (
        f"{found}, more than {setting} {limit:g} allows; correct the catalog, or leave these items out with "
        f"--set {setting}={math.ceil(100 * rejected / checked) / 100:g}"
    )


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
    checked = len(judged.verdict.accepted)
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


def _write(folder: Path, judged: _Judgement, summary: dict[str, Any], closed: bool) -> None:
    if closed:  # no later step may take the items
        (folder / INDEX_FILE).unlink()
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
