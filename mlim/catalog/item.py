"""The one shape every catalog takes after `ingest`: an item is a text and a square picture.

Where an item came from (file, row) stands in the row log, not in the item: a row that moves inside its file does not
change the item's bytes, so its shard is not made again.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

ATTRIBUTE_SEPARATOR = "; "
LABEL_SEPARATOR = ": "

ITEM_SCHEMA: Any = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("family", pa.string()),  # the product that an item is a variation of; null where none is given
        pa.field("category", pa.string()),  # the shop's own grouping, for drift and sampling; null where none is given
        pa.field("text", pa.string(), nullable=False),  # what the model reads (`join_text`)
        pa.field("attributes", pa.string(), nullable=False),  # JSON object: text column -> value, in order
        pa.field("facts", pa.string(), nullable=False),  # JSON object: column that decides pairs -> value
        pa.field("image", pa.binary(), nullable=False),  # JPEG, recipe.image.size square, RGB
        pa.field("image_sha256", pa.string(), nullable=False),  # of the source file's bytes: finds copied photos
        pa.field("image_hash", pa.string(), nullable=False),  # perceptual, 16 hexadecimal digits: finds near copies
        pa.field("image_width", pa.int32(), nullable=False),  # of the source, upright (after EXIF), pixels
        pa.field("image_height", pa.int32(), nullable=False),
        pa.field("image_brightness", pa.float32(), nullable=False),  # mean of the grey levels, [0, 1]
        pa.field("image_contrast", pa.float32(), nullable=False),  # their standard deviation, [0, 0.5]: 0 is blank
    ]
)

FURTHER_FIELDS = (  # of shards whose catalog takes all pictures of a cell
    pa.field("further_images", pa.list_(pa.large_binary()), nullable=False),  # as `image`, in the order of the cell
    pa.field("further_sha256", pa.list_(pa.string()), nullable=False),  # as `image_sha256`
)
ALL_PICTURES_SCHEMA: Any = pa.schema([*ITEM_SCHEMA, *FURTHER_FIELDS])

ROW_LOG_SCHEMA: Any = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),  # the source file, as the catalog names it
        pa.field("row", pa.int64(), nullable=False),  # data row of that file, counted from 1
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.string()),  # null where the row was quarantined
        pa.field("position", pa.int64()),  # of the item in its shard
        pa.field("reason", pa.string()),  # null where the row became an item
    ]
)

QUARANTINE_SCHEMA: Any = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # "ingest", "validate" or "annotate"
        pa.field("reason", pa.string(), nullable=False),  # a stable code, or the expectation's name
        pa.field("detail", pa.string(), nullable=False),  # one sentence for a person
        pa.field("thumbnail", pa.binary()),  # small JPEG; null where the picture cannot be opened
    ]
)


def join_text(values: Sequence[tuple[str | None, str]]) -> str:
    """The text of an item from (label, value) in order: `label: value` or the bare value; empty values are left out."""
    return ATTRIBUTE_SEPARATOR.join(
        [f"{label}{LABEL_SEPARATOR}{value}" if label else value for label, value in values if value]
    )
