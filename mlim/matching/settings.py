"""What a saved matching model needs beside its network, as `serving.json` in its folder."""

from typing import Final

from pydantic import Field, PositiveFloat, PositiveInt

from mlim.config import Config
from mlim.matching.catalog_drift import CatalogProfile
from mlim.pictures.decoding import ImageRules
from mlim.recipe.base import Modality, Scorer
from mlim.stacking.scorers import MATCHER

SETTINGS: Final = "serving.json"
SHARD_FORMAT: Final = "JPEG"
MOST_ROWS: Final = 1024  # of a request; more are rejected, not truncated
MOST_CHARACTERS: Final = 20_000  # of a text, likewise
MODALITIES: Final[tuple[Modality, ...]] = ("both", "text", "image")


class DecisionRule(Config):
    """From the score of a pair to a decision and to a probability, both learned on validation pairs.

    `threshold` is the lowest score of a match; `calibration` is slope and intercept of the score's logit.
    """

    threshold: float
    calibration: tuple[float, float]


class ServingSettings(Config):
    """How images and texts are prepared and scores are read, so that a saved model scores as it was evaluated."""

    modality: Modality
    max_tokens: PositiveInt
    image_size: PositiveInt
    image_formats: tuple[str, ...]
    image_megapixels: PositiveFloat
    jpeg_quality: PositiveInt
    batch_size: PositiveInt
    threshold: float
    calibration: tuple[float, float]
    scorer: Scorer = Field(default=MATCHER, description="what scores a pair that is shown as `modality`")
    matcher_threshold: float | None = Field(
        default=None, description="of the matcher's own scores, where another scorer is used; null: the threshold"
    )
    matcher_calibration: tuple[float, float] | None = Field(default=None, description="likewise")
    other_modalities: dict[Modality, DecisionRule] = Field(
        default={}, description="rules of pairs that are read as another modality; versions of before have none"
    )
    trained_across_families: bool = Field(
        default=True, description="whether it was trained on mismatches of items of two families; true where unknown"
    )
    catalog: CatalogProfile | None = Field(
        default=None, description="what it was trained on, to tell when another catalog is of another kind"
    )
    max_rows: PositiveInt = Field(default=MOST_ROWS, description="of one request")
    max_text_characters: PositiveInt = Field(default=MOST_CHARACTERS, description="of one text")
    clean_texts: bool = Field(default=True, description="read the words alone, as the catalog's texts were read")
    field_labels: dict[str, str] = Field(
        default={}, description="what the catalog's texts call their columns, by name: fields are joined likewise"
    )

    def rule(self, modality: Modality) -> DecisionRule:
        """How pairs that are read as `modality` are decided.

        `threshold` and `calibration` are of what the model was evaluated on. A version without `other_modalities` has
        for other pairs only what the matcher's own scores were given.
        """
        own = DecisionRule(threshold=self.threshold, calibration=self.calibration)
        if modality == self.modality:
            return own
        if modality in self.other_modalities:
            return self.other_modalities[modality]
        threshold = own.threshold if self.matcher_threshold is None else self.matcher_threshold
        return DecisionRule(threshold=threshold, calibration=self.matcher_calibration or own.calibration)

    @property
    def image_rules(self) -> ImageRules:
        """Which images may be opened, and what they become."""
        return ImageRules(self.image_formats, self.image_megapixels, self.image_size, self.jpeg_quality)
