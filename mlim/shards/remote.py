"""Shards in an object store: fetched once, checked, and read from the local disk from then on."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from mlim.errors import InputError, UnavailableError
from mlim.files import atomic_file, sha256_of_bytes
from mlim.shards.shard import MANIFEST_FILE, ShardEntry, Shards, is_intact

FETCHERS = 8
SCHEME = "://"
SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_shards(url: str, cache: Path) -> Shards:
    """The shards behind an fsspec URL (`s3://BUCKET/items`), each under its own hash in `cache`.

    What the cache holds already is verified and not fetched again. `InputError` names what is missing or is not what
    the manifest says; `UnavailableError` when the store cannot be reached.
    """
    store, root = _connect(url)
    manifest = _read(store, f"{root}/{MANIFEST_FILE}", url)
    shards = Shards(cache, _parse(manifest, url), sha256_of_bytes(manifest), by_content=True)
    with ThreadPoolExecutor(FETCHERS) as pool:
        list(pool.map(lambda entry: _fetch(store, f"{root}/{entry.file}", url, entry, shards), shards.entries))
    return shards


def _connect(url: str) -> tuple[Any, str]:
    import fsspec  # only who keeps shards elsewhere needs it

    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec says which package
        raise InputError(
            f"loader.items {url}: {url.partition(SCHEME)[0]}:// addresses need a package that is not installed "
            f"({error}); install it with pip beside mlim, then run the same command again"
        ) from None
    except ValueError as error:
        raise InputError(f"loader.items {url}: cannot be opened ({error})") from None
    return store, root.rstrip("/")


def _read(store: Any, path: str, url: str) -> bytes:
    try:
        data: bytes = store.cat_file(path)
    except FileNotFoundError:
        raise InputError(f"loader.items {url}: has no {MANIFEST_FILE}; give the place of an items folder") from None
    except Exception as error:  # every store's client raises its own kinds
        raise _unreachable(url, error) from error
    return data


def _parse(manifest: bytes, url: str) -> list[ShardEntry]:
    try:
        entries = [ShardEntry(**entry) for entry in json.loads(manifest)]
        safe = all(PurePosixPath(entry.file).name == entry.file and SHA256.fullmatch(entry.sha256) for entry in entries)
    except (ValueError, TypeError):
        safe = False
    if not safe:
        raise InputError(
            f"loader.items {url}: {MANIFEST_FILE} is not a manifest of shards; run `mlim ingest` again there"
        )
    return entries


def _fetch(store: Any, source: str, url: str, entry: ShardEntry, shards: Shards) -> None:
    """Have the shard in the cache: fetched unless it is there and whole."""
    target = shards.folder / shards.stored_name(entry)
    if is_intact(target, entry):
        return
    try:
        with atomic_file(target) as temporary:
            store.get_file(source, str(temporary))
            if not is_intact(temporary, entry):
                raise InputError(f"loader.items {url}: {entry.file} is not what the manifest says; copy it there again")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"loader.items {url}: {entry.file} is missing; copy the whole items folder there") from None
    except Exception as error:  # every store's client raises its own kinds; a full disk ends here too
        raise _unreachable(f"{url}: {entry.file}", error) from error


def _unreachable(what: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"loader.items {what} could not be fetched ({error}); what has arrived is kept, run the same command again"
    )
