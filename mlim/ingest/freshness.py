"""Whether a catalog is still what `mlim ingest` read: its description, and the files that hold its rows."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mlim.catalog.description import CatalogDescription
from mlim.errors import InputError
from mlim.sources.abo import listing_files
from mlim.sources.table import table_files

READ_FILES: Final = "read_files"  # in the summary of ingest: file -> digest
AGAIN: Final = ("ingest", "validate")
CHANGED: Final = "changed_since_ingest"  # in the summary of validation: files
PLACES: Final = ("table", "images", "download")  # where things are changes nothing that is ingested,
LATER: Final = ("pairs", "matching", "annotations", "ceilings")  # nor does what later steps read
PART_BYTES: Final = 1 << 20
WHOLE_BYTES: Final = 256 << 20  # of a larger file the size and the first and last megabyte count


def read_files(description: CatalogDescription, catalog: Path) -> dict[str, str]:
    """A digest of each file that holds rows, and of what the description says of them; files not there are left out.

    Pictures do not count: they may be elsewhere, and many.
    """
    found = {catalog.name: _described(description)}
    found |= {name: _digest(path) for name, path in _row_files(description) if path.is_file()}
    return found


def changed_files(summary: Mapping[str, Any], description: CatalogDescription, catalog: Path) -> list[str]:
    """The names of files that are there and were not read as they are now by the ingest with this `summary`.

    Files whose rows were read and that are no longer beside others that are there count too. Empty where the summary
    does not tell, or is of another catalog.
    """
    before = summary.get(READ_FILES)
    if before is None or catalog.name not in before:
        return []
    now = read_files(description, catalog)
    gone = [name for name in before if name not in now] if len(now) > 1 else []
    return sorted([*(name for name, digest in now.items() if before.get(name) != digest), *gone])


def stale_sentence(changed: list[str], catalog: Path, work: Path) -> str:
    """What to say of the items in the folder `work` that are older than the catalog."""
    commands = (shlex.join(["mlim", step, "--catalog", str(catalog), "--work", str(work)]) for step in AGAIN)
    return (
        f"the items are older than the catalog: since `mlim ingest`, {', '.join(changed)} changed; run "
        f"{' and '.join(f'`{command}`' for command in commands)} with the same --recipe, or choose another --work"
    )


def _described(description: CatalogDescription) -> str:
    """A digest of what ingest does with a row; how pairs are made of the columns that it keeps does not matter."""
    told = description.model_dump(mode="json", exclude={**dict.fromkeys((*PLACES, *LATER), True), "abo": {"folder"}})
    told["needed"] = sorted(description.needed_columns)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _row_files(description: CatalogDescription) -> Iterator[tuple[str, Path]]:
    """The files that hold rows, by names that tell them apart: two files of a pattern may have one name."""
    try:
        if description.source == "table" and description.table is not None:
            files = table_files(description.table, description.encoding, description.delimiter)
            yield from ((file.name, file.path) for file in files)
        elif description.source == "abo" and description.abo is not None:
            yield from ((path.name, path) for path in listing_files(description.abo.folder))
    except (InputError, OSError):  # who reads the rows says what is wrong
        return


def _digest(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            while part := file.read(PART_BYTES):
                digest.update(part)
        else:
            digest.update(f"{size} ".encode() + file.read(PART_BYTES))
            file.seek(-PART_BYTES, 2)
            digest.update(file.read(PART_BYTES))
    return digest.hexdigest()
