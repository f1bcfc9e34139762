"""What the routes do with a model: read rows, compute them with those of other requests, put the answers in place."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np

from mlim.errors import InputError
from mlim.http_api.batcher import Batcher, Room
from mlim.http_api.options import ApiOptions
from mlim.http_api.pictures import PictureSources
from mlim.http_api.reading import Deadline, Reading, ReadRow, Row, as_row, given_item, items_in, read_rows
from mlim.http_api.schema import (
    EncodeAnswer,
    EncodedItem,
    EncodeRequest,
    ExplainAnswer,
    ExplainRequest,
    ItemIn,
    PairIn,
    Problem,
    RowError,
    ScoreAnswer,
    ScoredPair,
    ScoreRequest,
)
from mlim.matching.item_parts import ItemParts, read_parts
from mlim.matching.items import ItemsInMemory
from mlim.matching.model import MatchingModel
from mlim.matching.model_scorer import ModelScorer
from mlim.recipe.base import Modality

MOST_READERS: Final = 8
MILLISECONDS: Final = 1000

Compute = Callable[[MatchingModel, Modality, Sequence[ReadRow]], Sequence[Any]]


class Decided(NamedTuple):
    """Of one pair."""

    score: float
    probability: float
    match: bool


def score_rows(model: MatchingModel, modality: Modality, rows: Sequence[ReadRow]) -> list[Decided]:
    """Score, probability and decision of each pair that was read, as plain values."""
    scores = ModelScorer(model, modality)([(first, second) for first, second in rows])
    columns = (column.tolist() for column in model.decide(scores, modality))
    return [Decided(*row) for row in zip(*columns, strict=True)]


def encode_rows(model: MatchingModel, modality: Modality, rows: Sequence[ReadRow]) -> list[list[float]]:
    """The vectors of items that were read."""
    source, names = ItemsInMemory(), [str(number) for number in range(len(rows))]
    for name, (shown,) in zip(names, rows, strict=True):
        source.add(name, *shown)
    vectors: list[list[float]] = model.encode_source(source, names, modality).tolist()
    return vectors


class Service:
    """Answers the requests of all routes; lives in one event loop."""

    def __init__(self, model: MatchingModel, options: ApiOptions) -> None:
        self._model, self._options = model, options
        self._pictures = PictureSources(options)
        self._room = Room(options.batches_in_memory * model.settings.batch_size)
        self._readers = ThreadPoolExecutor(min(MOST_READERS, os.cpu_count() or 1), "reader")
        self._thread = ThreadPoolExecutor(1, "model")
        self._batchers: dict[tuple[Compute, Modality], Batcher[ReadRow, Any]] = {}

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Score every pair that can be read; `InputError` when the request as a whole is wrong."""
        modality = self._model.check_modality(request.modality)
        found = await self._computed(request.rows, score_rows, modality)
        results = [_scored(row, value) for row, value in zip(request.rows, found, strict=True)]
        return ScoreAnswer(modality=modality, threshold=self._model.threshold_of(modality), results=results)

    async def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """Encode every item that can be read; `InputError` also for a model that has no vector of one item."""
        self._model.check_reads_alone()
        modality = self._model.check_modality(request.modality)
        found = await self._computed(request.rows, encode_rows, modality)
        results = [_encoded(row, value) for row, value in zip(request.rows, found, strict=True)]
        return EncodeAnswer(modality=modality, width=self._model.item_width, results=results)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Explain one pair; `InputError` when one of its items cannot be read, or one of a reference pair."""
        modality, until = self._model.check_modality(request.modality), Deadline(self._options.seconds)
        pairs = (request.pair, *request.references)
        items = [item for pair in pairs for item in (pair.a, pair.b)]
        async with self._pictures.fetched([] if modality == "text" else items) as pictures:
            how = Reading(modality, self._model.settings, pictures, self._model.decoding_room, until, keep=True)
            return await asyncio.to_thread(self._explained, items, request.regions, how)

    async def _computed(
        self, given: Sequence[PairIn | ItemIn | RowError], compute: Compute, modality: Modality
    ) -> list[Any]:
        """What `compute` gives for every row, or its `RowError`; a batch of rows is in memory at a time."""
        rows, size, until = self._counted(given), self._model.settings.batch_size, Deadline(self._options.seconds)
        batcher, found = self._batcher(compute, modality), list[Any]()
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            wanted = [] if modality == "text" else items_in(part)
            # Pictures are fetched before there is room for the rows: a slow shop keeps nobody else waiting
            async with self._pictures.fetched(wanted) as pictures, self._room.taken(len(part)):
                how = Reading(modality, self._model.settings, pictures, self._model.decoding_room, until)
                with batcher.expecting():
                    loop = asyncio.get_running_loop()
                    read = await loop.run_in_executor(self._readers, read_rows, part, how)
                values = iter(await batcher.run([row for row in read if not isinstance(row, RowError)]))
            found += [row if isinstance(row, RowError) else next(values) for row in read]
        return found

    def _counted(self, rows: Sequence[PairIn | ItemIn | RowError]) -> list[Row | RowError]:
        most = self._model.settings.max_rows
        if not 0 < len(rows) <= most:
            raise InputError(f"the request holds {len(rows):,} rows; send at least one and at most {most:,} at a time")
        return [as_row(row) for row in rows]

    def _batcher(self, compute: Compute, modality: Modality) -> Batcher[ReadRow, Any]:
        key = compute, modality
        if key not in self._batchers:
            self._batchers[key] = Batcher(
                lambda rows: compute(self._model, modality, rows),
                self._model.settings.batch_size,
                self._options.batch_wait_ms / MILLISECONDS,
                self._thread,
            )
        return self._batchers[key]

    def _explained(self, items: Sequence[ItemIn], regions: bool, how: Reading) -> ExplainAnswer:
        """Runs in a thread; `items` are those of the pair and of the reference pairs, one after the other."""
        names = [f"{side} of {pair}" for pair in _pair_names(len(items) // 2) for side in ("a", "b")]
        first, second, *others = [_parts(item, name, how) for item, name in zip(items, names, strict=True)]
        references, modality = list(zip(others[::2], others[1::2], strict=True)), how.modality
        found = self._model.explain_parts((first, second), references, modality, regions=regions, check=how.until.check)
        probability = float(self._model.decide(np.array([found.score]), modality).probability[0])
        return ExplainAnswer(modality=modality, probability=probability, **found.summary)


def _parts(item: ItemIn, name: str, how: Reading) -> ItemParts:
    """One item in parts: a picture is read, decoded and dropped before the next one is read."""
    [parts] = read_parts([given_item(item, name, how)], [name], how.modality, how.settings)
    return parts


def _pair_names(number: int) -> list[str]:
    return ["the pair", *(f"reference {reference}" for reference in range(1, number))]


def _scored(row: PairIn | RowError, value: Any) -> ScoredPair:
    a, b = (None, None) if isinstance(row, RowError) else (row.a.id, row.b.id)
    if isinstance(value, RowError):
        return ScoredPair(a=a, b=b, error=_problem(value))
    return ScoredPair(a=a, b=b, score=value.score, probability=value.probability, match=value.match)


def _encoded(row: ItemIn | RowError, value: Any) -> EncodedItem:
    name = None if isinstance(row, RowError) else row.id
    if isinstance(value, RowError):
        return EncodedItem(id=name, error=_problem(value))
    return EncodedItem(id=name, vector=value)


def _problem(error: RowError) -> Problem:
    return Problem(code=error.code, message=error.message)
