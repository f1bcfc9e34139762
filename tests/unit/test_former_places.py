"""What has moved is still found where it was, for a version, and says where it is."""

import importlib
import sys

import pytest

from mlim.pictures import decoding


def test_images_are_prepared_from_where_they_were():
    sys.modules.pop("mlim.catalog.images", None)
    with pytest.warns(DeprecationWarning, match="mlim.pictures.decoding"):
        former = importlib.import_module("mlim.catalog.images")
    assert former.prepare_picture is decoding.prepare_picture
