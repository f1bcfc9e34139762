"""The matcher behind an MLflow model: base64 pictures and texts in, probability and decision out.

This file is the model's code (MLflow "models from code"): it is stored with every version as text, together with the
whole package, so a version runs with the code that made it. Weights are safetensors and settings JSON: no pickle.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import PositiveFloat, PositiveInt

from mlim.catalog.images import ImageRules, prepare_picture, to_rgb
from mlim.catalog.pictures.base import EMPTY_IMAGE
from mlim.catalog.refusal import Refusal
from mlim.config import Config, parse
from mlim.data.collate import Pair, PairCollator
from mlim.data.tokenize import TextTokenizer
from mlim.data.transfer import to_device
from mlim.errors import MlimError
from mlim.evaluation.threshold import Calibration
from mlim.files import read_json, sha256_of, write_json
from mlim.models.matcher import Matcher
from mlim.recipe import Modality

ARTIFACT = "matcher"
SETTINGS = "serving.json"
MANIFEST = "manifest.json"
SHARD_FORMAT = "JPEG"
SIDES = ("a", "b")
MODALITIES = ("both", "text", "image")


class ServingSettings(Config):
    """What a served matcher needs beyond its network: how pictures and texts are prepared, how scores are read."""

    modality: Modality
    max_tokens: PositiveInt
    image_size: PositiveInt
    image_formats: tuple[str, ...]
    image_megapixels: PositiveFloat
    jpeg_quality: PositiveInt
    batch_size: PositiveInt
    threshold: float
    calibration: tuple[float, float]


def seal(folder: Path) -> str:
    """Write the manifest (SHA-256 of every file in `folder`) and give the manifest's own SHA-256."""
    write_json(folder / MANIFEST, _hashes(folder))
    return sha256_of(folder / MANIFEST)


def check_seal(folder: Path) -> None:
    """Raise `MlimError` unless the files in `folder` are exactly those that were sealed."""
    if not (folder / MANIFEST).is_file():
        raise MlimError(f"{folder} has no {MANIFEST}; register the model again")
    sealed, found = read_json(folder / MANIFEST), _hashes(folder)
    changed = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
    if changed:
        raise MlimError(
            f"the files of this model are not those that were registered: {', '.join(changed)} changed in {folder}; "
            "do not use it, fetch it again or register it again"
        )


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


class MatcherModel(PythonModel):
    """Scores pairs of items given as columns text_a, image_a, text_b, image_b (pictures as base64 of a file's bytes).

    The parameter `modality` chooses what is looked at: both, text or image; columns that are not needed may be left
    out. Every row gives `probability` (calibrated, that the two match) and `match` (the score reaches the threshold).
    """

    def load_context(self, context: Any) -> None:
        """Read the model's files; `MlimError` when they were changed since they were registered."""
        folder = Path(context.artifacts[ARTIFACT])
        check_seal(folder)
        self._settings = parse(ServingSettings, read_json(folder / SETTINGS), SETTINGS)
        self._tokenizer = TextTokenizer.from_folder(folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._matcher = Matcher.from_pretrained(folder).to(self._device).eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A frame with the columns probability and match, one row per row of the input."""
        modality = (params or {}).get("modality") or self._settings.modality
        if modality not in MODALITIES:
            _refuse(f"modality `{modality}` is none of {', '.join(MODALITIES)}")
        size = self._settings.batch_size
        parts = [
            self._scores(model_input.iloc[start : start + size], start, modality)
            for start in range(0, len(model_input), size)
        ]
        scores = np.concatenate(parts) if parts else np.empty(0)
        probability = Calibration(*self._settings.calibration).apply(scores)
        return pd.DataFrame({"probability": probability, "match": scores >= self._settings.threshold})

    def _scores(self, frame: pd.DataFrame, start: int, modality: Modality) -> NDArray[np.float64]:
        source = SentItems(frame, start, modality, self._settings)
        collate = PairCollator(source, self._tokenizer, self._settings.max_tokens)
        batch = to_device(collate([Pair(f"a{row}", f"b{row}", 0) for row in range(len(frame))]), self._device)
        shown = batch.with_floats()
        with torch.inference_mode():
            logits = self._matcher(shown.first, shown.second, modality)
        return np.asarray(torch.sigmoid(logits.float()).double().cpu())


class SentItems:
    """The items of a request as an `ItemSource`: a0, b0 are the two of the first row."""

    def __init__(self, frame: pd.DataFrame, start: int, modality: Modality, settings: ServingSettings) -> None:
        self._settings, self._start = settings, start
        self._texts: dict[str, str] = {}
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        blank = np.zeros((settings.image_size, settings.image_size, 3), dtype=np.uint8)
        rules = _rules(settings)
        for side in SIDES:
            texts = self._column(frame, f"text_{side}", modality != "image")
            images = self._column(frame, f"image_{side}", modality != "text")
            for row, (text, image) in enumerate(zip(texts, images, strict=True)):
                self._texts[f"{side}{row}"] = text or ""
                picture = blank if image is None else _decode(image, f"row {start + row + 1}, image_{side}", rules)
                self._pictures[f"{side}{row}"] = picture

    def text(self, item: str) -> str:
        """The text of one item."""
        return self._texts[item]

    def image(self, item: str) -> NDArray[np.uint8]:
        """The picture of one item (size, size, 3)."""
        return self._pictures[item]

    def _column(self, frame: pd.DataFrame, name: str, needed: bool) -> Sequence[str | None]:
        """The values of a column; None everywhere when this modality does not look at it."""
        if not needed:
            return [None] * len(frame)
        if name not in frame:
            _refuse(f"column `{name}` is missing; send it, or choose another `modality`")
        values = list(frame[name])
        for row, value in enumerate(values):
            if not isinstance(value, str):
                _refuse(f"row {self._start + row + 1}: `{name}` is not a string")
        return values


def _rules(settings: ServingSettings) -> ImageRules:
    return ImageRules(settings.image_formats, settings.image_megapixels, settings.image_size, settings.jpeg_quality)


def _decode(text: str, where: str, rules: ImageRules) -> NDArray[np.uint8]:
    """The picture in a base64 string, under the same limits as the catalog's pictures.

    One that has the model's size already (an item's, out of the shards) is taken as it is: encoding it once more would
    make the served scores differ from the evaluated ones.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(f"{where} is not base64")
    if not data:
        _refuse(f"{where} holds 0 bytes ({EMPTY_IMAGE})")
    picture = prepare_picture(data, where, rules)
    if isinstance(picture, Refusal):
        _refuse(f"{picture.detail} ({picture.reason})")
    fits = (picture.width, picture.height) == (rules.size, rules.size)
    with Image.open(io.BytesIO(data if fits else picture.jpeg), formats=[*rules.formats, SHARD_FORMAT]) as square:
        return np.asarray(to_rgb(ImageOps.exif_transpose(square)))


def _refuse(sentence: str) -> NoReturn:
    """Tell the client what is wrong with its request (the scoring server answers 400 with this sentence)."""
    raise MlflowException(sentence, error_code=INVALID_PARAMETER_VALUE)


set_model(MatcherModel())
