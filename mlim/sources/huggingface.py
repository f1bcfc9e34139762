"""Data sets of Hugging Face as a source: saved folders, folders of files, names on the hub.

The library finds, downloads and converts; the rows are then read from its Arrow files, where a picture is known by its
place and never touched before it is decoded. Code that a data set brings with it is never run.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.catalog.description import HuggingFaceSource
from mlim.config import nearest
from mlim.errors import InputError
from mlim.pictures.base import PictureStore
from mlim.pictures.byte_ranges import ByteRangePictures, path_reference, range_reference
from mlim.sources.base import RawRow
from mlim.sources.parquet import is_list
from mlim.sources.text import as_text

ROW = "row"  # the number of the row, from 1: an id for data sets that have none
ROWS_PER_BATCH = 1_000
SAVED_MARKS = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
BYTES, PATH = "bytes", "path"  # the fields of a picture in an Arrow file
MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti", "Mesh")  # features that are no text
NO_TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")


class HuggingFaceRows:
    """The rows of one split (a `Source`); `image_column` holds pictures, their bytes, or paths inside the data set."""

    def __init__(self, settings: HuggingFaceSource, image_column: str, max_picture_bytes: int) -> None:
        self._settings, self._image_column, self._max_picture_bytes = settings, image_column, max_picture_bytes

    def columns(self) -> Sequence[str]:
        """The columns that are text or the picture, and `row`; `InputError` when the data set cannot be opened."""
        features = self._dataset.features
        if self._image_column in features:
            self._check_image_type()
        names = [name for name, kind in features.items() if name == self._image_column or not _is_media(kind)]
        return names if ROW in names else [*names, ROW]

    def rows(self, columns: Sequence[str]) -> Iterator[RawRow]:
        """All rows in order; `InputError` when a file is broken."""
        row = 0
        for number, path in enumerate(self._files):
            for batch, base in _batches(path):
                place = _Place(number, path, base, range(row + 1, row + 1 + batch.num_rows))
                cells = [self._cells(batch, place, name) for name in columns]
                for texts in zip(*cells, strict=True):
                    row += 1
                    yield RawRow(self._name, row, dict(zip(columns, texts, strict=True)))
        if row == 0:
            raise InputError(f"{self._name}: holds no rows; it needs at least one")

    def pictures(self) -> PictureStore:
        """Bytes from their places in the Arrow files; paths only inside the data set's own folders."""
        local = Path(self._settings.dataset)
        folders = (local.absolute(),) if local.is_dir() else _hub_folders(self._settings.dataset)
        return ByteRangePictures(self._files, folders, self._max_picture_bytes)

    def state(self) -> str:
        """The library's fingerprint of the data set, and sizes and times of its Arrow files, hashed."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._files]
        return hashlib.sha256(json.dumps([self._dataset._fingerprint, stats]).encode()).hexdigest()

    def report(self) -> Mapping[str, int]:
        """Nothing: rows are taken as they stand."""
        return {}

    @property
    def _name(self) -> str:
        """`NAME/split`: a folder without the folders above it."""
        local = Path(self._settings.dataset)
        return f"{local.name if local.is_dir() else self._settings.dataset}/{self._settings.split}"

    @cached_property
    def _dataset(self) -> Any:
        return open_dataset(self._settings)

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        """The Arrow files of the split in order; `InputError` where they hold other rows than the split."""
        files = tuple(Path(file["filename"]).absolute() for file in self._dataset.cache_files)
        held = sum(batch.num_rows for path in files for batch, _ in _batches(path))
        if held != self._dataset.num_rows:
            raise InputError(
                f"{self._name}: has {self._dataset.num_rows} rows but its files {held}; name a whole split, or save "
                "the part you want with `save_to_disk` and name that folder"
            )
        local = Path(self._settings.dataset)
        outside = [file for file in files if _is_saved(local) and not file.resolve().is_relative_to(local.resolve())]
        if outside:
            raise InputError(
                f"{local}: its state.json names {outside[0]}, which lies elsewhere; do not trust this folder"
            )
        return files

    def _check_image_type(self) -> None:
        kind = self._dataset.data.schema.field(self._image_column).type
        kind = kind.value_type if is_list(kind) else kind
        if not (_is_bytes(kind) or _is_text(kind) or _is_picture(kind)):
            raise InputError(
                f"{self._name}: the column `{self._image_column}` holds {kind}; columns.image must name one with a "
                "picture, its bytes, or its path in the data set's folder"
            )

    def _cells(self, batch: Any, place: "_Place", column: str) -> list[str]:
        """The column's texts in a batch."""
        if column == self._image_column:
            return _references(batch.column(column), place)
        if column == ROW and ROW not in batch.schema.names:
            return list(map(str, place.rows))
        feature = self._dataset.features[column]
        return [as_text(_named(feature, value)) for value in batch.column(column).to_pylist()]


def open_dataset(settings: HuggingFaceSource) -> Any:
    """The split as the library's `Dataset`; `InputError` in one sentence for all that can be wrong with it."""
    library, local = _library(), Path(settings.dataset)
    if local.is_file():
        raise InputError(f"{local}: is a file; name the folder that holds it, or read it with `source: table`")
    with _quiet(library):
        if _is_saved(local):
            return _open_saved(library, local, settings.split)
        name = settings.dataset
        return _explained(
            name,
            lambda: library.load_dataset(name, settings.config, split=settings.split, revision=settings.revision),
        )


def _library() -> Any:
    for variable in NO_TELEMETRY:
        os.environ.setdefault(variable, "1")  # read by the library as it is imported
    try:
        import datasets
    except ImportError:
        raise InputError(
            "source: huggingface needs the library `datasets`; install it with `pip install 'mlim[huggingface]'`"
        ) from None
    return datasets


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars and no chatter of the library; what it said before is what it says afterwards."""
    import huggingface_hub.utils as hub

    was_shown = [not part.are_progress_bars_disabled() for part in (library, hub)]
    verbosity = library.logging.get_verbosity()
    library.logging.set_verbosity_error()
    for part in (library, hub):
        part.disable_progress_bars()
    try:
        yield
    finally:
        library.logging.set_verbosity(verbosity)
        for part, shown in zip((library, hub), was_shown, strict=True):
            if shown:
                part.enable_progress_bars()


def _is_saved(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in SAVED_MARKS)


def _open_saved(library: Any, folder: Path, split: str) -> Any:
    found = _explained(str(folder), lambda: library.load_from_disk(str(folder)))
    if isinstance(found, library.DatasetDict):
        if split not in found:
            raise InputError(f"{folder}: has no split `{split}`{nearest(split, list(found))}; set huggingface.split")
        return found[split]
    own = str(found.split) if found.split is not None else split
    if own != split:
        raise InputError(f"{folder}: is the split `{own}`, not `{split}`; set huggingface.split to {own}")
    return found


def _explained(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the library lets through whatever its parsers, file systems and clients raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = (
            "check its files and huggingface.config and split"
            if Path(name).is_dir()
            else "check the name (or the folder, if it is one), the network and HF_HUB_OFFLINE; a copy that was saved "
            "with `save_to_disk`, or fetched with `hf download --repo-type dataset`, can be named as a folder"
        )
        raise InputError(f"{name}: cannot be opened as a data set ({reason}); {advice}") from None


def _hub_folders(name: str) -> tuple[Path, ...]:
    """Where the library keeps the files of one data set of the hub, and what it unpacked from archives."""
    from datasets import config
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return kept.absolute(), Path(config.EXTRACTED_DATASETS_PATH).absolute()


def _is_media(feature: Any) -> bool:
    """Whether a feature is, or holds, something to look at or listen to."""
    if isinstance(feature, dict):
        return any(map(_is_media, feature.values()))
    inner = getattr(feature, "feature", None)
    return type(feature).__name__ in MEDIA or (inner is not None and _is_media(inner))


def _named(feature: Any, value: Any) -> Any:
    """The value with the names of its classes; -1 stands for no class."""
    names = getattr(feature, "names", None)
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    inner = getattr(feature, "feature", None)
    return [_named(inner, one) for one in value] if inner is not None and isinstance(value, list) else value


# ---- Arrow files


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_picture(kind: Any) -> bool:
    """Whether a type is `{bytes, path}`, in any order."""
    return bool(pa.types.is_struct(kind)) and {BYTES, PATH} <= {kind.field(i).name for i in range(kind.num_fields)}


def _batches(path: Path) -> Iterator[tuple[Any, int]]:
    """The record batches of an Arrow file in small pieces, each with the address at which the file begins in memory."""
    try:
        with pa.memory_map(str(path)) as source:
            base = source.read_buffer().address
            source.seek(0)
            for batch in pa.ipc.open_stream(source):
                batch.validate(full=True)  # untrusted input: lengths and offsets are checked
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    yield batch.slice(start, ROWS_PER_BATCH), base
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: is a broken Arrow file ({error}); save or fetch the data set again") from None


@dataclass(frozen=True)
class _Place:
    """Where values come from: the file and its number, its first address in memory, the row (from 1) of every value."""

    number: int
    path: Path
    base: int
    rows: Sequence[int]


def _references(array: Any, place: _Place) -> list[str]:
    """Where each value's picture lies: its bytes where there are some, else the path that stands there; "" for none.

    Of a list, a JSON list of the places of its pictures.
    """
    if is_list(array.type):
        return _listed_references(array, place)
    if _is_text(array.type):
        return _path_references(array.to_pylist(), place)
    if _is_bytes(array.type):
        return _range_references(array, _valid(array), place)
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    data, paths = array.field(names.index(BYTES)), array.field(names.index(PATH))
    there = _valid(array)
    ranges = _range_references(data, there & _valid(data), place)
    valid_paths = [path if own else None for own, path in zip(there, paths.to_pylist(), strict=True)]
    return [span or path for span, path in zip(ranges, _path_references(valid_paths, place), strict=True)]


def _listed_references(array: Any, place: _Place) -> list[str]:
    """The elements of all lists lie one behind the other; each has the row of its list."""
    lengths = [length or 0 for length in pc.list_value_length(array).to_pylist()]
    rows = [row for row, length in zip(place.rows, lengths, strict=True) for _ in range(length)]
    elements = iter(_references(array.flatten(), replace(place, rows=rows)))
    return [json.dumps([found for found in islice(elements, length) if found]) for length in lengths]


def _valid(array: Any) -> NDArray[np.bool_]:
    """Which values are not null."""
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _path_references(paths: Sequence[str | None], place: _Place) -> list[str]:
    return [path_reference(row, as_text(path)) if path else "" for row, path in zip(place.rows, paths, strict=True)]


def _range_references(array: Any, there: NDArray[np.bool_], place: _Place) -> list[str]:
    """From the layout of binary arrays (Arrow's columnar format): offsets of n + 1 values, then the bytes."""
    if not there.any():
        return [""] * len(array)
    _, offsets, data = array.buffers()
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    ends = np.frombuffer(offsets, dtype=width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    starts = (0 if data is None else data.address - place.base) + ends
    if starts[0] < 0 or starts[-1] > place.path.stat().st_size:
        raise InputError(
            f"{place.path}: is a compressed Arrow file, of which no part can be read; save it uncompressed"
        )
    ranges = zip(place.rows, there, starts[:-1], np.diff(starts), strict=True)
    return [range_reference(row, place.number, start, length) if own else "" for row, own, start, length in ranges]
