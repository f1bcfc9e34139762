"""Writing results so that a crash leaves either the old file or the new one, never half of one.

A folder is replaced or removed only when it is mlim's own: when it, or a folder it lies in, carries the marker. Links
are followed to find out where a folder lies, but never to remove anything: a link goes, what it leads to stays.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlim.errors import InputError
from mlim.failures import DISK_TAKES_NO_MORE
from mlim.processes import is_alive

HASH_CHUNK_BYTES = 1 << 20
MARKER = ".mlim-folder"
MARKER_TEXT = "mlim created this folder and replaces and removes its contents. Keep nothing else here.\n"
LEFT_BY_SYSTEMS = frozenset({".gitignore", ".DS_Store", "lost+found"})  # in a folder that is empty to a person
SHOWN_NAMES = 3
UNFINISHED, RETIRED = ".tmp", ".old"  # ends of the names beside a result while it is replaced
IMMOVABLE = (errno.EXDEV, errno.EBUSY)  # a folder of an image's layer on overlayfs; where something is mounted
STAYS = "cannot be replaced, because something is mounted there or it comes with a container's image"
SIGNED_BYTES = 4096  # a file says at its beginning who made it
# OWASP, "CSV Injection"; also after what programs skip, and after apostrophes, so that each text is found again
PLAIN_CELL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:;/()-]*")  # most cells: neither quoted nor a formula
FORMULA = re.compile(r"'*([\t\r\n]|[\s\x00-\x1f\u200b\ufeff]*[=+\-@])")


def check_claim(folder: Path, where: str, known: Collection[str] = ()) -> None:
    """`InputError` led by `where` unless `folder` has the marker, is absent or empty, or holds `known` names only."""
    try:
        if not os.path.lexists(folder) or is_marked(folder):
            return
        folder.stat()
    except OSError as error:
        raise InputError(f"{where}: cannot be used ({error.strerror}); name another folder") from None
    if not folder.is_dir():
        raise InputError(f"{where}: is a file; name a folder")
    if (folder / MARKER).is_symlink():
        raise InputError(f"{where}: its {MARKER} is a link and says nothing about this folder; name another folder")
    foreign = sorted({entry.name for entry in folder.iterdir()} - LEFT_BY_SYSTEMS - set(known))
    if foreign:
        more = ", ..." if len(foreign) > SHOWN_NAMES else ""
        raise InputError(
            f"{where}: holds something that mlim did not make ({', '.join(foreign[:SHOWN_NAMES])}{more}), and mlim "
            f"replaces and removes what lies in its folders; name a new or empty folder, or, if an earlier version of "
            f"mlim made all of it, run `touch {shlex.quote(str(folder / MARKER))}` once"
        )


def claim(folder: Path, where: str, known: Collection[str] = ()) -> None:
    """Make `folder` mlim's own, if need be by making it; `InputError` as `check_claim` has it, before any change."""
    check_claim(folder, where, known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_marked(folder):
            mark(folder)
    except OSError as error:
        raise InputError(f"{where}: results cannot be written there ({error.strerror}); choose another") from None


def is_marked(folder: Path) -> bool:
    """Whether a folder itself carries the marker; a link to that of another folder is none."""
    return (folder / MARKER).is_file() and not (folder / MARKER).is_symlink()


def mark(folder: Path) -> None:
    """Put the marker into a folder that mlim has just made."""
    (folder / MARKER).write_text(MARKER_TEXT, encoding="utf-8")


def is_ours(path: Path) -> bool:
    """Whether `path`, or a folder in which it really lies (links followed), carries the marker."""
    place = path.parent.resolve() / path.name
    return any(is_marked(folder) for folder in (place, *place.parents))


def check_replaceable(path: Path, sign: str) -> None:
    """`InputError` unless a file may be written at `path`: nothing is there, or a file of mlim's, which holds `sign`.

    In a folder of mlim's own every file is.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if not os.path.lexists(path) or is_ours(path):
            return
        with path.open("rb") as source:
            known = sign.encode() in source.read(SIGNED_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be used ({error.strerror}); name another file") from None
    if not known:
        raise InputError(f"{path}: is there already and mlim did not make it; name another file, or move it away")


def remove_folder(path: Path) -> None:
    """Remove a folder, or the link in its place, with all that lies in it; `InputError` when it is not mlim's own."""
    if path.is_symlink() or path.exists():
        _check_ours(path)
        _discard(path)


def _check_ours(path: Path) -> None:
    if not is_ours(path):
        raise InputError(
            f"{path}: really lies in {path.parent.resolve()}, which mlim did not make, so it is not replaced or "
            f"removed; move it away, or run `touch {shlex.quote(str(path.parent.resolve() / MARKER))}` if mlim may"
        )


def _discard(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to it when the block ends well, removed when it does not.

    What a killed process left of it in a folder of mlim's own goes, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    _remove_leftovers(path)
    try:
        with _named_when_full(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named_when_full(path: Path) -> Iterator[None]:
    """Say which result a full disk did not take: libraries report such an error without a name."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_TAKES_NO_MORE and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it replaces `path` when the block ends well.

    `InputError` before anything is written when there is a folder at `path` that is not mlim's own, unless it is empty,
    or where something is mounted.
    """
    if path.is_symlink() or (path.exists() and not _is_empty(path)):
        _check_ours(path)
    if path.is_mount():
        raise InputError(f"{path}: {STAYS}; name a folder inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, retired = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in (UNFINISHED, RETIRED))
    _remove_leftovers(path)
    temporary.mkdir()
    try:
        with _named_when_full(path):
            yield temporary
        try:
            if path.is_symlink() or path.exists():
                _retire(path, retired)
            temporary.replace(path)
        except BaseException:
            _bring_back(retired, path)
            raise
        _discard(retired)
    finally:
        _discard(temporary)


def _retire(path: Path, retired: Path) -> None:
    """Give the earlier result another name; an empty folder that cannot have one goes. `InputError` for other ones."""
    try:
        path.replace(retired)
    except OSError as error:
        if error.errno not in IMMOVABLE:
            raise
        try:
            path.rmdir()
        except OSError:
            raise InputError(f"{path}: {STAYS} ({error.strerror}); name a folder inside it") from None


def restore_folder(path: Path) -> None:
    """Give the earlier result its name `path` back where a process was killed between the renames of `atomic_folder`.

    To be called before a folder is read that another command writes. Nothing happens where something is at `path`, or
    while the process that writes it is alive. `InputError` when the earlier result cannot be renamed.
    """
    if os.path.lexists(path):
        return
    for left in _leftovers(path):
        if left.suffix == RETIRED:
            try:
                _bring_back(left, path)
            except OSError as error:
                raise InputError(
                    f"{path}: was left as {left.name} by a command that was killed, and cannot be renamed "
                    f"({error.strerror}); rename it"
                ) from None


def _bring_back(retired: Path, path: Path) -> None:
    """Give an earlier result its name back, where no later one has it."""
    if os.path.lexists(retired) and not os.path.lexists(path):
        with suppress(FileNotFoundError):  # another process has just done it
            retired.replace(path)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _leftovers(path: Path) -> list[Path]:
    """What processes that are no more (kill -9, power loss) left beside `path` while they wrote it, if it is ours."""
    if not path.parent.is_dir():
        return []
    start = f".{path.name}."
    with os.scandir(path.parent) as entries:  # to a glob, a name with brackets is a pattern
        names = sorted(entry.name for entry in entries if entry.name.startswith(start))
    found = []
    for left in map(path.with_name, names):
        owner = left.name.removeprefix(start).partition(".")[0]
        ended = left.suffix in (UNFINISHED, RETIRED) and owner.isdecimal() and not _is_anothers(int(owner))
        if ended and is_ours(left):
            found.append(left)
    return found


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that are no more left beside `path`, once the earlier result has its name again."""
    restore_folder(path)
    for left in _leftovers(path):
        _discard(left)


def _is_anothers(process: int) -> bool:
    """Whether a process other than this one has this number."""
    return process != os.getpid() and is_alive(process)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically (equal values give equal bytes)."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Mapping[Any, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with the given columns, atomically; missing values (None, NaN) stay empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe in the file; `read_csv` takes it off.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
        target.write(csv_line(columns))
        target.writelines(csv_line([_cell(row.get(column)) for column in columns]) for row in rows)


def csv_cell(value: Any) -> str:
    """One cell as `write_csv` writes it among others, marked and quoted."""
    if isinstance(value, str) and PLAIN_CELL.fullmatch(value):
        return value
    cell = _cell(value)
    return "" if cell == "" else csv_line([cell]).removesuffix("\n")


def csv_line(cells: Sequence[Any]) -> str:
    """One row that ends in a line feed; the writer quotes only those line ends that are its own, so it has both."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if _is_formula(value) else value
    return "" if value is None or value != value else value  # NaN is no number, not even itself


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file that `write_csv` wrote, every cell as a text.

    `InputError` where something else has written it since: it is no UTF-8 text, or a row is shorter or longer than the
    header.
    """
    rows = list[dict[str, str]]()
    with path.open(encoding="utf-8-sig", newline="") as source:  # spreadsheets write a mark
        reader = csv.DictReader(source)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}: the row that ends in line {reader.line_num} has not as many cells as the header; "
                        "write the file again with the command that made it"
                    )
                rows.append({name: plain_cell(cell) for name, cell in row.items()})
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{path}: cannot be read as UTF-8 CSV ({error}); write it again with the command that made it"
            ) from None
    return rows


def plain_cell(cell: str) -> str:
    """The text that `write_csv` was given for this cell."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet might compute a text, full-width signs and all."""
    return FORMULA.match(unicodedata.normalize("NFKC", text)) is not None


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same file under a second name where the file system can, else a copy; for files that nobody writes to."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def check_unlinked(root: Path, path: Path) -> None:
    """`InputError` unless `path` lies below `root` by its name, and nothing on the way from `root` to it is a link."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ("..",)
    if ".." in parts:
        raise InputError(f"{path}: leads out of {root}, so it is left")
    for length in range(1, len(parts) + 1):
        step = root.joinpath(*parts[:length])
        if step.is_symlink():
            raise InputError(f"{step}: is a link, which is not followed, so it is left; put there what it leads to")


def read_plain(root: Path, path: Path, most: int) -> bytes:
    """The bytes of a file in a folder that came from elsewhere.

    `InputError` unless it is a regular file of at most `most` bytes inside `root` that no link leads to. A hard link is
    a regular file and cannot be distinguished from one: what is read must still be of the kind that the caller expects.
    """
    check_unlinked(root, path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), so it is left") from None
    with os.fdopen(descriptor, "rb") as source:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path}: is no regular file, so it is left")
        data = source.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: is larger than {most:,} bytes, so it is left")
    return data
