"""What catalog.yaml says unless the user does, where the columns are known: the embedded catalog and ABO."""

from collections.abc import Mapping
from typing import Any, Final, Literal

Task = Literal["variant", "product"]  # what a match of the embedded catalog means

EMBEDDED_TABLE: Final = "catalog.csv"
EMBEDDED_IMAGES: Final = "images"
ANNOTATION_FOLDER: Final = "annotations"
EMBEDDED_DECIDED_BY: Final = ("pattern", "size")
EMBEDDED_SAME: Final = ("product_type",)
EMBEDDED_LARGEST_FAMILY: Final = 7
EMBEDDED_LABELS: Final[Mapping[str, str | None]] = {
    "title": None,
    "colour": "colour",
    "material": "material",
    "details": None,
}
# The same product: any two of a family match; mismatches are look-alikes of other families, of the same kind.
EMBEDDED_PAIRS: Final[Mapping[Task, Mapping[str, Any]]] = {
    "variant": {"decided_by": list(EMBEDDED_DECIDED_BY), "same": list(EMBEDDED_SAME)},
    "product": {
        "decided_by": list(EMBEDDED_SAME),
        "mismatches_per_match": 1,
        "negatives": {"family": 0, "text": 0.5, "image": 0.5, "same": list(EMBEDDED_SAME)},
    },
}

ABO_KEY, ABO_IMAGE, ABO_FAMILY = "key", "image", "family"  # columns that no field of a listing says as it is
# Labels of the text columns, most informative first. Left out: what names the colour, which decides the pairs (color,
# item_name, item_keywords, product_description).
ABO_LABELS: Final[Mapping[str, str | None]] = {
    "brand": "brand",
    "product_type": "type",
    "model_name": "model",
    "material": "material",
    "fabric_type": "fabric",
    "pattern": "pattern",
    "finish_type": "finish",
    "item_shape": "shape",
    "style": "style",
    "node": "department",
    "item_dimensions": "size",
    "bullet_point": None,
}


def describe_embedded(task: Task = "variant") -> dict[str, Any]:
    """The embedded catalog: where table and pictures are, what the columns mean, how pairs are decided."""
    return {
        "source": "table",
        "table": EMBEDDED_TABLE,
        "images": EMBEDDED_IMAGES,
        "columns": {"id": "item_id", "image": "image", "family": "family", "text": _texts(EMBEDDED_LABELS)},
        "pairs": {**EMBEDDED_PAIRS[task], "max_family_size": EMBEDDED_LARGEST_FAMILY},
    }


def describe_scenes() -> dict[str, Any]:
    """The catalog of scenes: items with a split and a caption, without pairs, and the files of their annotations."""
    return {
        "source": "table",
        "table": EMBEDDED_TABLE,
        "images": EMBEDDED_IMAGES,
        "columns": {"id": "item_id", "image": "image", "split": "split", "text": ["caption"]},
        "pairs": "none",
        "annotations": {"files": annotation_files()},
    }


def annotation_files() -> dict[str, Any]:
    """The files that lie beside a drawn catalog with annotations."""
    vqa = {name: f"{ANNOTATION_FOLDER}/{name}.json" for name in ("questions", "answers", "entailed")}
    return {
        "instances": [f"{ANNOTATION_FOLDER}/instances.json"],
        "captions": [f"{ANNOTATION_FOLDER}/captions.json"],
        "vqa": [vqa],
        "statements": [f"{ANNOTATION_FOLDER}/statements.jsonl"],
    }


def describe_abo() -> dict[str, Any]:
    """ABO: what the columns mean, and which pairs match.

    Two listings of one family match when their standardised colours agree: the same product in another country or
    size. They mismatch when the colour differs. Colours named in different languages are not compared.
    """
    return {
        "columns": {
            "id": ABO_KEY,
            "image": ABO_IMAGE,
            "family": ABO_FAMILY,
            "category": "product_type",
            "text": _texts(ABO_LABELS),
        },
        "pairs": {"decided_by": ["color_standard"], "same": ["color_language"]},
    }


def _texts(labels: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    return [{"column": column, "label": label} for column, label in labels.items()]
