"""Pictures, texts and pairs: from the source of a catalog to the batches of a training."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlim.config import Config
from mlim.recipe.base import Share, share

AUTO: Final = "auto"
FEWEST_TOKENS = 4  # of the longest text
MAX_NEAR_BITS = 4  # beyond, near copies are no longer found fast (mlim.quality.near_duplicates)


class ImageConfig(Config):
    """Pictures as the model sees them (paper section 4.1: 384 x 384, 8 x 8 grid)."""

    size: PositiveInt = Field(default=64, description="side of the square picture, pixels")
    grid: PositiveInt = Field(default=4, description="patches per side; the transformer sees grid * grid vectors")
    jpeg_quality: int = Field(default=92, ge=1, le=100, description="quality of the JPEG bytes inside the shards")


class TextConfig(Config):
    """Texts as the model sees them."""

    max_tokens: Annotated[int, Field(ge=FEWEST_TOKENS)] | Literal["auto"] = Field(
        default=AUTO,
        description="longest text of one item in WordPiece tokens, [CLS]/[SEP] not counted; auto: so many that "
        "kept_share of all tokens of the catalog's texts is read, most_tokens at most",
    )
    kept_share: Share = share(0.999, "with max_tokens auto, the share of the texts' tokens that is read")
    most_tokens: int = Field(default=64, ge=FEWEST_TOKENS, description="with max_tokens auto, its upper bound")
    vocabulary_size: int = Field(
        default=2000, ge=64, description="size of the vocabulary learned from the catalog (random start only)"
    )

    @property
    def limit(self) -> int:
        """The longest text, tokens; with `auto` its upper bound until the texts are known (`with_limit`)."""
        return self.most_tokens if self.max_tokens == AUTO else self.max_tokens


class IngestConfig(Config):
    """From the source to shards."""

    formats: tuple[str, ...] = Field(
        default=("JPEG", "PNG", "WEBP"), min_length=1, description="image formats that may be opened (Pillow's names)"
    )
    max_megapixels: PositiveFloat = Field(default=40, description="a picture with more pixels is not decoded, millions")
    max_picture_mb: PositiveFloat = Field(default=50, description="largest picture file that is read, megabytes")
    max_cell_characters: PositiveInt = Field(default=100_000, description="a row with a longer cell is quarantined")
    rows_per_shard: PositiveInt = Field(default=500, description="most rows of a shard; their number varies below it")
    max_quarantined_share: Share = share(0.2, "stop the run when a larger share of the rows is bad")
    workers: PositiveInt | None = Field(
        default=None, description="processes that decode pictures; null: one for each core"
    )
    decode_seconds: PositiveFloat = Field(
        default=20, description="a picture that takes longer to decode is quarantined"
    )
    decode_memory_mb: PositiveInt = Field(
        default=2000, description="memory that decoding one picture may take, megabytes"
    )
    cluster: str | None = Field(
        default=None, description="a Dask scheduler (`tcp://HOST:PORT`); null: this machine alone"
    )


class DriftConfig(Config):
    """How far a data version may move from the last accepted one: Jensen-Shannon divergences in bits, 0 to 1.

    What two samples of one distribution would differ by is taken off first (`mlim.quality.drift`).
    """

    max_category_divergence: Share = share(0.05, "of the shares of the categories")
    max_text_divergence: Share = share(0.05, "of the lengths of the texts")
    max_image_divergence: Share = share(0.05, "of brightness, contrast and aspect of the pictures, each")


class ValidationConfig(Config):
    """Limits that Great Expectations' suites read (as suite parameters)."""

    min_image_side: PositiveInt = Field(default=32, description="shortest side of a source picture, pixels")
    max_aspect_ratio: float = Field(
        default=5, ge=1, description="longest side of a source picture through its shortest"
    )
    min_contrast: Share = share(0.01, "a picture whose grey levels vary less (standard deviation, white is 1) is blank")
    max_picture_uses: PositiveInt = Field(
        default=100, description="a picture that more items share byte by byte is boilerplate"
    )
    max_picture_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="a picture that items of a larger share of the families share is a placeholder (at least 4)",
    )
    max_copied_share: Share = share(0.5, "largest share of items whose picture is an exact copy of another item's")
    decoded_pictures: NonNegativeInt = Field(
        default=2000, description="stored pictures that are decoded again; all are hashed"
    )
    max_text_characters: PositiveInt = Field(
        default=20_000,
        description="a longer text, HTML left out, is a wrong column and is quarantined; what is within it but beyond "
        "text.max_tokens is cut off",
    )
    max_text_uses: PositiveInt = Field(
        default=1000, description="a text that more items share word for word is boilerplate"
    )
    languages: tuple[str, ...] = Field(
        default=(), description="ISO 639-1 codes of the languages expected; none: not checked"
    )
    min_language_share: Share = share(0.8, "smallest share of the sampled texts in one of the languages")
    language_sample: PositiveInt = Field(default=1000, description="texts whose language is guessed")
    min_language_characters: PositiveInt = Field(
        default=40, description="the language of a shorter text is not guessed"
    )
    min_family_share: Share = share(0.1, "smallest share of items with a family, where the catalog describes families")
    min_varied_share: Share = share(0.05, "smallest share of items that share their family with another item")
    max_family_items: PositiveInt = Field(
        default=1000, description="a larger family is a wrong column, not one product"
    )
    min_label_share: Share = share(0.1, "smallest share of either label among the pairs of a split")
    max_quarantined_share: Share = share(0.2, "stop the run when validation rejects a larger share of the items")
    chunk_rows: PositiveInt = Field(default=200_000, description="items that are judged at a time; bounds the memory")
    max_thumbnails: NonNegativeInt = Field(default=2000, description="quarantined items that keep a thumbnail")
    drift: DriftConfig = DriftConfig()


class PairsConfig(Config):
    """Pairs for fine-tuning (CM task) and the split, safe for families and identical pictures."""

    validation_share: Share = share(0.1, "share of the components that choose the threshold and the best epoch")
    test_share: Share = share(0.25, "share of the components never trained on")
    max_train: PositiveInt = Field(default=30_000, description="pairs to train on")
    max_validation: PositiveInt = Field(default=2000, description="pairs that choose the threshold and the best epoch")
    max_test: PositiveInt = Field(default=10_000, description="pairs that results are reported on")
    near_duplicate_bits: int | None = Field(
        default=2,
        ge=0,
        le=MAX_NEAR_BITS,
        description="pictures whose hashes differ in at most so many of 64 bits stay in one split; null: only copies",
    )
    leak_limit: Share = share(
        0.9, "a trivial rule whose accuracy gain over the majority reaches this share of the rest leaks"
    )
    audit_pairs: PositiveInt = Field(
        default=10_000, description="the leak audit's classifiers learn from at most so many train pairs"
    )

    @model_validator(mode="after")
    def _room_for_training(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, else nothing is left to train on")
        return self


class LoaderConfig(Config):
    """From shards to batches."""

    workers: NonNegativeInt = Field(
        default=0, description="processes that decode; 0: threads of the training process itself"
    )
    batches_ahead: PositiveInt = Field(
        default=2,
        description="batches that are ready or in the making: for each worker, or, with none, how many threads decode",
    )
    image_cache_mb: NonNegativeInt = Field(
        default=256,
        description="megabytes of decoded pictures that each process which decodes keeps for the next epochs; 0: none",
    )
    items: str | None = Field(
        default=None,
        description="where the shards are read from: a folder or an fsspec URL (`s3://BUCKET/FOLDER`, fetched once "
        "into the work folder's cache); null: the work folder's own items",
    )
