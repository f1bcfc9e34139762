"""The matcher behind an MLflow model: base64 pictures and texts in, probability and decision out.

This file is the model's code (MLflow "models from code"): it is stored with every version as text, together with the
whole package, so a version runs with the code that made it. Weights are safetensors and settings JSON: no pickle.
"""

from mlim.processes import wait_briefly

wait_briefly()  # before torch is loaded below: `mlflow models serve` has no other moment for it

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import DEADLINE_EXCEEDED, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from mlim.config import parse
from mlim.data.collate import Pair
from mlim.errors import InputError
from mlim.manifest import ARTIFACT
from mlim.matching.decoding_room import DecodingRoom
from mlim.matching.items import ItemsInMemory, Pixels, blank, fields_of, read_picture, read_text
from mlim.matching.model import MatchingModel
from mlim.matching.settings import ServingSettings
from mlim.pictures.decoding import ImageRules
from mlim.received import UnreadableError, decode_base64
from mlim.recipe.base import Modality
from mlim.stacking.items import UNKNOWN, Columns

if TYPE_CHECKING:
    from fastapi import FastAPI

SIDES = ("a", "b")
SERVING_VARIABLE = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # MLflow's scoring server sets it


class Deadline:
    """When MLflow's scoring server gives a request up and answers 504: work on it ends then too. Never, elsewhere."""

    def __init__(self) -> None:
        served = SERVING_VARIABLE in os.environ
        seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get() if served else float("inf")  # type: ignore[no-untyped-call]
        self._end, self._seconds = time.monotonic() + seconds, seconds

    def check(self) -> None:
        """Refuse the rest of the request when its time is over."""
        if time.monotonic() > self._end:
            sentence = f"the request takes longer than {self._seconds:g} s; send fewer rows at a time"
            raise MlflowException(sentence, error_code=DEADLINE_EXCEEDED)


class MatcherModel(PythonModel):
    """Scores pairs of items given as columns text_a, image_a, text_b, image_b (pictures as base64 of a file's bytes).

    The fields that a text was made from may come along, as JSON objects in fields_a and fields_b: a stack compares
    them. The parameter `modality` chooses what is looked at: both, text or image; columns that are not needed may be
    left out. Every row gives `probability` (calibrated, that the two match) and `match` (the score reaches the
    threshold).
    """

    def load_context(self, context: Any) -> None:
        """Read the model's files; `MlimError` when they were changed since they were registered."""
        self._model = MatchingModel.from_folder(Path(context.artifacts[ARTIFACT]))

    def http_app(self, options: Mapping[str, Any]) -> "FastAPI":
        """The routes that `mlim serve` adds to MLflow's (mlim/scoring_server.py); `InputError` for unknown options."""
        from mlim.http_api.app import build_app  # only here: `mlflow models serve` has no such routes
        from mlim.http_api.options import ApiOptions

        return build_app(self._model, parse(ApiOptions, options, "the options of mlim serve"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A frame with the columns probability and match, one row per row of the input."""
        try:
            return self._predict(model_input, (params or {}).get("modality"))
        except InputError as problem:  # what is wrong with a request: the scoring server answers 400 with this sentence
            raise MlflowException(str(problem), error_code=INVALID_PARAMETER_VALUE) from None

    def _predict(self, frame: pd.DataFrame, modality: str | None) -> pd.DataFrame:
        model, settings = self._model, self._model.settings
        shown = model.check_modality(modality)
        if not 0 < len(frame) <= settings.max_rows:
            raise InputError(
                f"the request holds {len(frame):,} rows; send at least one and at most {settings.max_rows:,} at a time"
            )
        size, deadline = settings.batch_size, Deadline()
        parts = []
        for start in range(0, len(frame), size):
            batch = frame.iloc[start : start + size]
            pairs = [Pair(f"a{row}", f"b{row}", 0) for row in range(len(batch))]
            items = read_request(batch, start, shown, settings, deadline, model.decoding_room)
            parts.append(model.score_source(items, pairs, shown))
        found = model.decide(np.concatenate(parts), shown)
        return pd.DataFrame({"probability": found.probability, "match": found.match})


def read_request(
    frame: pd.DataFrame,
    start: int,
    modality: Modality,
    settings: ServingSettings,
    deadline: Deadline,
    room: DecodingRoom | None = None,
) -> ItemsInMemory:
    """The items of a request: a0, b0 are the two of its first row, which is row `start` of the whole.

    Pictures are decoded one at a time, each when there is `room`, which all requests of a server share.
    `InputError` for what cannot be read, `MlflowException` when the time is over.
    """
    found = ItemsInMemory()
    for side in SIDES:
        texts = _column(frame, f"text_{side}", start, modality != "image")
        images = _column(frame, f"image_{side}", start, modality != "text")
        fields = frame.get(f"fields_{side}", pd.Series([None] * len(frame)))
        for row, (text, image, columns) in enumerate(zip(texts, images, fields, strict=True)):
            deadline.check()
            where = f"row {start + row + 1}"
            words = read_text(text or "", f"{where}, text_{side}", settings)
            rules, place = settings.image_rules, f"{where}, image_{side}"
            picture = blank(settings) if image is None else decode(image, place, rules, room)
            found.add(f"{side}{row}", words, picture, _fields(columns, f"{where}, fields_{side}"))
    return found


def _fields(given: Any, where: str) -> Columns:
    """The fields of an item in a JSON object; nothing where none came along."""
    if not isinstance(given, str):
        return UNKNOWN
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where} is no JSON object; send the fields that the text was made from, or leave it out")
    return fields_of(found, where)


def _column(frame: pd.DataFrame, name: str, start: int, needed: bool) -> Sequence[str | None]:
    """The values of a column; None everywhere when this modality does not look at it."""
    if not needed:
        return [None] * len(frame)
    if name not in frame:
        raise InputError(f"column `{name}` is missing; send it, or choose another `modality`")
    values = list(frame[name])
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"row {start + row + 1}: `{name}` is not a string")
    return values


def decode(text: str, where: str, rules: ImageRules, room: DecodingRoom | None = None) -> Pixels:
    """The picture in a base64 string, as `read_picture` reads it."""
    try:
        data = decode_base64(text)
    except UnreadableError as problem:
        raise InputError(f"{where} {problem}") from None
    return read_picture(data, where, rules, room)


set_model(MatcherModel())
