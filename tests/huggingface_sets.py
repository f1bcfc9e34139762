"""Small data sets of Hugging Face's library; the test that imports this is skipped without it."""

import io

import pytest
from PIL import Image

from mlim.catalog.description import HuggingFaceSource
from mlim.sources.huggingface import HuggingFaceRows

datasets = pytest.importorskip("datasets", reason="the extra `huggingface` is not installed")
MAX_BYTES = 100_000
FEATURES = datasets.Features(
    {
        "sku": datasets.Value("string"),
        "kind": datasets.ClassLabel(names=["shirt", "skirt"]),
        "price": datasets.Value("float64"),
        "tags": datasets.List(datasets.ClassLabel(names=["new", "sale"])),
        "photo": datasets.Image(),
    }
)


def jpeg(number):
    target = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 90)).save(target, "JPEG")
    return target.getvalue()


def record(number, **changes):
    photo = {"bytes": jpeg(number), "path": f"{number}.jpg"}
    base = {"sku": f"00{number}", "kind": number % 2, "price": number / 2, "tags": [0, 1], "photo": photo}
    return {**base, **changes}


def dataset(*records, features=FEATURES, split=None):
    return datasets.Dataset.from_list(list(records), features=features, split=split)


def opened(place, image="photo", **settings):
    return HuggingFaceRows(HuggingFaceSource(dataset=str(place), **settings), image, MAX_BYTES)


def rows(source, *columns):
    return [tuple(row.cells[name] for name in columns) for row in source.rows(columns)]
