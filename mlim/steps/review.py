"""`mlim review`: the most useful pairs of a work folder on a page, and the table of what a person answers."""

import getpass
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import pyarrow.parquet as pq
from pydantic import AwareDatetime, Field

from mlim.config import Config, parse
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_file, check_replaceable, plain_cell, read_csv, read_json
from mlim.matching.pairs_table import SIDES
from mlim.matching.review import (
    SCORED_COLUMNS,
    QueuedPair,
    QueueSettings,
    ReviewSession,
    choose_queue,
    contradicting_queue,
    in_utc,
    shortlist,
)
from mlim.matching.scored_table import is_text_table, scored_rows
from mlim.pairs.answers import Answer, AnswerTable, Pair, cell_problem, pair_of, settle
from mlim.report.contact.items import find_items
from mlim.report.review.page import DOWNLOAD_VERSION, SIGN, ReviewPageSettings, render
from mlim.steps.group import CONFLICT_COLUMNS, CONFLICTS_FILE
from mlim.steps.review_server import HOST, build_app, listen, serve
from mlim.workspace import Workspace

SCORES_FILE, SUMMARY_FILE, INDEX_FILE = "scores.parquet", "summary.json", "index.parquet"
TOKEN_BYTES: Final = 24


class ReviewRequest(Config):
    """What is asked about.

    `scores` is a table of scored pairs, None: that of `mlim match` in the work folder; `compare` one of another model's
    scores for the same pairs. `contradictions`: ask about contradicting answers instead.
    """

    scores: Path | None = None
    compare: Path | None = None
    contradictions: bool = False
    queue: QueueSettings = QueueSettings()


class DownloadedAnswer(Config):
    """One answer in a file that the page downloads."""

    item_a: str = Field(min_length=1)
    item_b: str = Field(min_length=1)
    label: Literal["1", "0", "unsure"]
    at: AwareDatetime
    score: str


class Download(Config):
    """A file that the page downloads."""

    version: Literal[1]
    by: str = Field(min_length=1)
    model: str
    answers: tuple[DownloadedAnswer, ...]


def serve_review(
    request: ReviewRequest,
    workspace: Workspace,
    table: AnswerTable,
    by: str | None,
    port: int,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Serve the page on loopback until Ctrl-C; returns counts of the table. `announce` is given the address.

    `by` is who answers, None: the user of this machine. `port` 0 is a free one. `InputError` when there are no scored
    pairs, the table of answers is another one, or the port is taken.
    """
    reviewer = by or _user()
    queue, model = review_queue(request, workspace, table)
    session = ReviewSession(queue, table, reviewer, model)
    page = _page(queue, workspace, reviewer, model, served=True)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with listen(port) as listening:
        there = listening.getsockname()[1]
        announce(f"http://{HOST}:{there}/{token}/")
        with suppress(KeyboardInterrupt):  # how a person ends it
            serve(build_app(session, page, token, there), listening)
    return {"added": session.added, **summary_of(table, len(queue))}


def write_review(
    request: ReviewRequest, workspace: Workspace, table: AnswerTable, by: str | None, out: Path
) -> dict[str, Any]:
    """Write the page as a file that downloads its answers; returns counts. `InputError` as `serve_review`'s."""
    check_replaceable(out, SIGN)
    queue, model = review_queue(request, workspace, table)
    page = _page(queue, workspace, by or "", model, served=False)
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return summary_of(table, len(queue))


def import_answers(path: Path, table: AnswerTable, terminal: Terminal) -> dict[str, Any]:
    """Add the answers of a downloaded file to the table, those that it lacks; returns counts.

    `InputError` before anything is written when it is no such file, pairs an item with itself, which later steps
    refuse, or has a value that a table cannot hold.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--import {path}: cannot be read ({error}); name a file that the page downloaded") from None
    if not isinstance(loaded, dict) or loaded.get("version") != DOWNLOAD_VERSION:
        raise InputError(
            f"--import {path}: is no file of answers (version {DOWNLOAD_VERSION}) that the page downloaded"
        )
    given = parse(Download, loaded, f"--import {path}")
    answers = [
        Answer(*pair_of(one.item_a, one.item_b), one.label, given.by, in_utc(one.at), given.model, one.score)
        for one in given.answers
    ]
    for number, one in enumerate(answers, start=1):
        _check_answer(one, f"--import {path}: answer {number}")
    added = table.add(answers)
    terminal.say(f"{added:,} of {len(answers):,} answers by {given.by} added to {table.path}")
    return {"added": added, "there_already": len(answers) - added, **summary_of(table)}


def _check_answer(answer: Answer, where: str) -> None:
    """`InputError` for one that would spoil the table, or that later steps refuse."""
    problem = cell_problem(answer)
    if problem:
        raise InputError(f"{where}: {problem}; remove the answer from the file")
    if answer.item_a == answer.item_b:
        raise InputError(f"{where} pairs `{answer.item_a}` with itself; remove it")


def review_queue(request: ReviewRequest, workspace: Workspace, table: AnswerTable) -> tuple[list[QueuedPair], str]:
    """The pairs that are asked about, and the SHA-256 of the model that scored them (empty: not known)."""
    answers = table.read()
    scores = request.scores or workspace.scores / SCORES_FILE
    model = _model_of(scores)
    if request.contradictions:
        return _contradicting(answers, workspace, request.queue.pairs), model
    if not scores.is_file():
        raise InputError(f"{scores}: no such table of scored pairs; run `mlim match`, or name one with --scores")
    disputed = _disputes(scores, request.compare, workspace)
    listed = shortlist(_batches(scores), {one.pair for one in answers}, disputed.keys(), request.queue)
    families = _families(workspace, {*listed["item_a"], *listed["item_b"]})
    return choose_queue(listed, families, disputed, request.queue), model


def _contradicting(answers: Sequence[Answer], workspace: Workspace, most: int) -> list[QueuedPair]:
    """At most so many pairs with contradicting answers; not those of items that have left the catalog."""
    asked = contradicting_queue(settle(answers).contradictions)
    there = find_items(workspace, {item for one in asked for item in one.pair})
    known = [one for one in asked if there.keys() >= {*one.pair}]
    if asked and not known:
        raise InputError(f"no pair with contradicting answers is of accepted items in {workspace.root}")
    return known[:most]


def report_contradictions(summary: dict[str, Any], terminal: Terminal) -> None:
    """Warn of answers that cannot all be right."""
    for sentence in summary["contradictions"]:
        terminal.warn(f"contradiction: {sentence}")


def summary_of(table: AnswerTable, queued: int | None = None) -> dict[str, Any]:
    """Counts of the table of answers, its contradictions, and the length of the queue."""
    answers = table.read()
    found = settle(answers)
    labels = list(found.labels.values())
    return {
        "labels": str(table.path),
        "answers": len(answers),
        "match": labels.count("1"),
        "differs": labels.count("0"),
        "unsure": len(found.unsure),
        "contradictions": [one.sentence for one in found.contradictions],
        **({} if queued is None else {"queue": queued}),
    }


def _page(queue: list[QueuedPair], workspace: Workspace, by: str, model: str, *, served: bool) -> str:
    items = find_items(workspace, {item for asked in queue for item in asked.pair})
    return render(queue, items, str(workspace.root), by, model, ReviewPageSettings(), served=served)


def _batches(path: Path) -> Iterator[pd.DataFrame]:
    """A table of scored pairs, a part at a time; `InputError` when it lacks a column or a number cannot be read."""
    for frame in scored_rows(path, SCORED_COLUMNS):
        yield frame.assign(**{side: frame[side].map(plain_cell) for side in SIDES}) if is_text_table(path) else frame


def _conflicts(path: Path) -> dict[Pair, str]:
    """Why pairs that match lie in two groups; `InputError` where the table is not as `mlim group` writes it."""
    rows = read_csv(path)
    if rows and not rows[0].keys() >= {*CONFLICT_COLUMNS}:
        raise InputError(f"{path}: lacks one of the columns {', '.join(CONFLICT_COLUMNS)}; run `mlim group` again")
    return {pair_of(row["item_a"], row["item_b"]): row["reason"] for row in rows}


def _disputes(scores: Path, compare: Path | None, workspace: Workspace) -> dict[Pair, str]:
    """Why pairs are disputed: two models decide differently, or they match and lie in two groups."""
    found = dict[Pair, str]()
    conflicts = workspace.groups / CONFLICTS_FILE
    if conflicts.is_file():
        found |= _conflicts(conflicts)
    if compare is not None:
        if not compare.is_file():
            raise InputError(f"--compare {compare}: no such table of scored pairs; `mlim score` writes one")
        first, second = _decisions(scores), _decisions(compare)
        differing = sorted(pair for pair in first.keys() & second.keys() if first[pair] != second[pair])
        found |= dict.fromkeys(differing, "two models decide differently")
    return found


def _decisions(path: Path) -> dict[Pair, bool]:
    """Whether each scored pair is more probably a match than not."""
    rows = (frame[frame["probability"].notna()] for frame in _batches(path))
    return {
        pair_of(one, other): probability >= 0.5
        for frame in rows
        for one, other, probability in zip(frame["item_a"], frame["item_b"], frame["probability"], strict=True)
    }


def _families(workspace: Workspace, items: set[str]) -> dict[str, str | None]:
    index = workspace.valid / INDEX_FILE
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim validate` first")
    table = pq.read_table(index, columns=["id", "family"], filters=[("id", "in", sorted(items))]) if items else None
    return {} if table is None else dict(zip(*(table[name].to_pylist() for name in ("id", "family")), strict=True))


def _model_of(scores: Path) -> str:
    """The SHA-256 of the model that scored a table, from the summary beside it; empty where there is none."""
    summary = scores.with_name(SUMMARY_FILE)
    if not summary.is_file():
        return ""
    found = read_json(summary)
    return str(found.get("model_sha256") or found.get("model") or "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise InputError("--by: this user has no name on this machine; say who answers with --by NAME") from None
