"""The source that a description names, opened."""

from pathlib import Path

from mlim.catalog.description import CatalogDescription
from mlim.catalog.headers import filled_headers
from mlim.errors import InputError
from mlim.pictures.archives import ArchivePictures, names_archives
from mlim.pictures.base import PictureStore
from mlim.pictures.folder import FolderPictures
from mlim.pictures.router import PictureRouter
from mlim.pictures.web import WebPictures
from mlim.sources.base import Source
from mlim.sources.table import TableSource, table_files


def open_source(description: CatalogDescription, where: str, cache: Path, max_picture_bytes: int) -> Source:
    """The described source; downloads are kept in the folder `cache`, larger pictures than the limit are not read.

    `InputError` led by `where` when there is nothing to read. A synthetic catalog is drawn first and is a table then.
    """
    if description.source == "abo" and description.abo is not None:
        from mlim.sources.abo import AboTable

        return AboTable(description.abo, max_picture_bytes)
    if description.source == "huggingface" and description.huggingface is not None:
        from mlim.sources.huggingface import HuggingFaceRows  # only here: `datasets` takes a second to load

        return HuggingFaceRows(description.huggingface, description.columns.image.column, max_picture_bytes)
    if description.table is None:
        raise InputError(f"{where}: names no table to read")
    filled_headers(description.download.headers)  # a variable that is not set is reported before any work
    pictures = PictureRouter(
        WebPictures(description.download, cache, max_picture_bytes),
        _local(description, where, max_picture_bytes),
    )
    return TableSource.open(
        description.table,
        description.encoding,
        description.columns.image.column,
        pictures,
        max_picture_bytes,
        description.delimiter,
        every_picture=description.columns.image.choose == "all",
    )


def _local(description: CatalogDescription, where: str, max_bytes: int) -> PictureStore | None:
    """The folder or archives of `images`; paths are absolute, so that other machines find the same files.

    None where there are none: none named, or those named are missing and not needed, as the table holds the pictures.
    """
    images = description.images
    if images is None or (not images.exists() and _holds_pictures(description)):
        return None
    if names_archives(images):
        archives = ArchivePictures(images.absolute(), max_bytes)
        archives.check()
        return archives
    if not images.is_dir():
        raise InputError(f"{where}: the images folder {images} does not exist; check `images`")
    return FolderPictures(images.absolute(), max_bytes)


def _holds_pictures(description: CatalogDescription) -> bool:
    """Whether the image column is bytes in every file of the table."""
    if description.table is None:
        return False
    files = table_files(description.table, description.encoding, description.delimiter)
    return all(description.columns.image.column in file.picture_columns() for file in files)
