"""The former place of `mlim.pictures.decoding`, for scripts that name it; goes with version 0.2."""

import warnings

from mlim.pictures.decoding import ImageRules, Picture, prepare_picture

__all__ = ["ImageRules", "Picture", "prepare_picture"]

warnings.warn("mlim.catalog.images is mlim.pictures.decoding now", DeprecationWarning, stacklevel=2)
