"""Text files as streams of lines: plain or gzipped, in any encoding, and counted a second time from their bytes."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from mlim.errors import InputError, MlimError

GZIP: Final = ".gz"
UTF8: Final = "utf-8"
UTF8_WITH_OR_WITHOUT_MARK: Final = "utf-8-sig"
WIDE_ENCODINGS: Final = ("utf-16", "utf-32")
WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
LONGEST_LINE: Final = 1 << 27  # characters: a gzip file of a megabyte can hold a line that fills the memory
BYTES_COUNTED: Final = 1 << 20  # at a time, when the lines are counted
KEEP_BYTES: Final = "surrogateescape"  # bytes that the encoding lacks become lone surrogates


@dataclass(frozen=True)
class TextFile:
    """A text file that may be gzipped."""

    path: Path
    encoding: str

    def open_bytes(self) -> Any:
        """The file's bytes, unpacked."""
        opener: Callable[..., Any] = gzip.open if self.path.suffix.lower() == GZIP else open
        return opener(self.path, "rb")

    @contextmanager
    def open_lines(self) -> Iterator[Iterator[str]]:
        """The lines with their ends; bytes that the encoding lacks become lone surrogates."""
        with self.open_bytes() as source:
            buffered = io.BufferedReader(source)
            with self._as_text(buffered, self._codec(buffered.peek(2)[:2])) as text:
                yield self._bounded(text)

    def check_count(self, read: int) -> None:
        """`MlimError` unless the file holds as many lines as were read."""
        held = self._count()
        if held != read:
            raise MlimError(
                f"{self.path}: holds {held} lines, but {read} were read; run it again when the file is complete, and "
                "please report this if it stays"
            )

    def _count(self) -> int:
        """The lines, counted from the bytes by none of the code that makes records of them."""
        lines, last = 0, "\n"
        with self.open_bytes() as source:
            data = source.read(BYTES_COUNTED)
            decoder = codecs.getincrementaldecoder(self._codec(data[:2]))(KEEP_BYTES)
            newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
            while data:
                text = newlines.decode(data)
                lines, last = lines + text.count("\n"), text[-1:] or last
                data = source.read(BYTES_COUNTED)
        text = newlines.decode(b"", final=True)
        return lines + text.count("\n") + ((text[-1:] or last) != "\n")

    def _codec(self, start: bytes) -> str:
        """The codec for a file that starts so; `InputError` when there is none of that name, or the start is UTF-16."""
        try:
            codec = codecs.lookup(self.encoding).name
        except (LookupError, ValueError):  # the latter for a name with a NUL
            raise InputError(
                f"{self.path}: there is no encoding `{self.encoding}`; most tables are {UTF8} or windows-1252"
            ) from None
        if start in WIDE_MARKS and not codec.startswith(WIDE_ENCODINGS):
            raise InputError(f"{self.path}: is UTF-16 text; save it as UTF-8 or say `encoding: utf-16` in catalog.yaml")
        return UTF8_WITH_OR_WITHOUT_MARK if codec == UTF8 else codec

    def _as_text(self, source: io.BufferedReader, codec: str) -> TextIO:
        try:
            return io.TextIOWrapper(source, codec, errors=KEEP_BYTES, newline="")
        except LookupError:  # Python's codecs are not all of text: `hex`, `zlib`
            raise InputError(
                f"{self.path}: `{self.encoding}` is no encoding of text; name another `encoding`"
            ) from None

    def _bounded(self, text: TextIO) -> Iterator[str]:
        """The lines with their ends; `InputError` at one that is too long to be a line of a table."""
        for number, line in enumerate(iter(partial(text.readline, LONGEST_LINE), ""), start=1):
            if len(line) == LONGEST_LINE:
                raise InputError(
                    f"{self.path}: line {number} has more than {LONGEST_LINE} characters; that is no table"
                )
            yield line


@contextmanager
def text_errors(path: Path, encoding: str) -> Iterator[None]:
    """What goes wrong while a text is decoded or unpacked, as an `InputError` of one sentence."""
    try:
        yield
    except UnicodeError as error:
        problem = f"{path}: cannot be read as {encoding} text ({error}); name another `encoding`"
        raise InputError(problem) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: is a broken gzip file ({error}); make or fetch it again") from None
