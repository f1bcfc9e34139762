"""The source that a description names, opened."""

from pathlib import Path

from mlim.catalog.description import CatalogDescription
from mlim.catalog.pictures.anywhere import AnywherePictures
from mlim.catalog.pictures.archives import ArchivePictures, names_archives
from mlim.catalog.pictures.base import PictureStore
from mlim.catalog.pictures.folder import FolderPictures
from mlim.catalog.pictures.web import WebPictures
from mlim.catalog.sources.base import Source
from mlim.catalog.sources.table import TableSource
from mlim.errors import InputError


def open_source(description: CatalogDescription, where: str, cache: Path, max_picture_bytes: int) -> Source:
    """The described source; downloads are kept in the folder `cache`, larger pictures than the limit are not read.

    `InputError` led by `where` when there is nothing to read. A synthetic catalog is drawn first and is a table then.
    """
    if description.source == "abo" and description.abo is not None:
        from mlim.catalog.sources.abo import AboTable

        return AboTable(description.abo, max_picture_bytes)
    if description.source == "huggingface" and description.huggingface is not None:
        from mlim.catalog.sources.huggingface import HuggingFaceRows  # only here: `datasets` takes a second to load

        return HuggingFaceRows(description.huggingface, description.columns.image, max_picture_bytes)
    if description.table is None:
        raise InputError(f"{where}: names no table to read")
    pictures = AnywherePictures(
        WebPictures(description.download, cache, max_picture_bytes),
        _local(description.images, where, max_picture_bytes),
    )
    place, image = description.table, description.columns.image
    return TableSource.open(place, description.encoding, image, pictures, max_picture_bytes)


def _local(images: Path | None, where: str, max_bytes: int) -> PictureStore | None:
    """The folder or archives of `images`; paths are absolute, so that other machines find the same files."""
    if images is None:
        return None
    if names_archives(images):
        archives = ArchivePictures(images.absolute(), max_bytes)
        archives.check()
        return archives
    if not images.is_dir():
        raise InputError(f"{where}: the images folder {images} does not exist; check `images`")
    return FolderPictures(images.absolute(), max_bytes)
