"""How much of a catalog the contact sheet shows."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mlim.config import Config
from mlim.recipe.data import IngestConfig


class ContactSettings(Config):
    """Everything is drawn with `seed`: the same catalog gives the same page."""

    seed: NonNegativeInt = 0
    items: PositiveInt = Field(default=48, description="sampled items, evenly over categories and shards")
    largest_families: NonNegativeInt = Field(default=3, description="families shown because they are the largest")
    random_families: NonNegativeInt = Field(default=5, description="families of more than one item, drawn at random")
    family_members: PositiveInt = Field(default=12, description="most members shown of a family")
    kinds: PositiveInt = Field(default=12, description="kinds of variation shown with examples, most frequent first")
    pairs_per_kind: PositiveInt = Field(default=6, description="pairs shown of each kind and label")
    reasons: PositiveInt = Field(default=16, description="reasons for quarantine shown with examples, frequent first")
    rows_per_reason: PositiveInt = Field(default=6, description="quarantined rows shown of each reason")
    categories: PositiveInt = Field(default=20, description="categories with a bar of their own")
    characters: PositiveInt = Field(default=280, description="a longer text is cut where it is shown")
    thumbnail_side: PositiveInt = Field(default=128, description="longer side of a picture on the page, pixels")
    thumbnail_quality: int = Field(default=72, ge=1, le=95, description="JPEG quality of the pictures on the page")
    max_megabytes: PositiveFloat = Field(default=7.0, description="pictures beyond this size of the page are left out")
    distinct_limit: PositiveInt = Field(default=100_000, description="different values of a column are counted to here")
    formats: tuple[str, ...] = Field(default=("JPEG", "PNG", "WEBP"), description="opened in a source (Pillow's names)")
    max_megapixels: PositiveFloat = Field(default=40.0, description="largest picture of a source that is opened")
    max_picture_mb: PositiveFloat = Field(default=50.0, description="largest picture file of a source that is read")
    max_cell_characters: PositiveInt = Field(default=100_000, description="as ingest.max_cell_characters")
    decode_seconds: PositiveFloat = Field(default=20.0, description="as ingest.decode_seconds")
    decode_memory_mb: PositiveInt = Field(default=2000, description="as ingest.decode_memory_mb")
    worrying_share: float = Field(default=0.05, ge=0, le=1, description="a problem of more items than this is stressed")
    blank_contrast: float = Field(default=0.02, ge=0, le=0.5, description="a picture with less contrast looks blank")
    short_text: NonNegativeInt = Field(default=10, description="a text with fewer characters says little")
    long_side_ratio: PositiveFloat = Field(default=3.0, description="a longer picture is badly squashed to a square")


def settings_for(ingest: IngestConfig, **changes: int) -> ContactSettings:
    """Settings that open a source's pictures under the limits of ingest; `changes` to other fields."""
    return ContactSettings(
        formats=ingest.formats,
        max_megapixels=ingest.max_megapixels,
        max_picture_mb=ingest.max_picture_mb,
        max_cell_characters=ingest.max_cell_characters,
        decode_seconds=ingest.decode_seconds,
        decode_memory_mb=ingest.decode_memory_mb,
        **changes,
    )
