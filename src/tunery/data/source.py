"""Where the bytes of a data file come from. Readers get UTF-8 whatever the file is: packed, in another encoding, with
the line ends of an old Mac. What is plain UTF-8 already is read as it is, without a cost a line.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from tunery.data import encodings
from tunery.data.encodings import UTF8, Encoding
from tunery.errors import DataError
from tunery.rundir import sha256

RATIO, FREE = 200, 1 << 28
"""A packed file may become this many times its size; below so many bytes, it may become anything."""
GZIP = b"\x1f\x8b"
HEAD = 1 << 16
"""Bytes at the beginning that tell what a file is."""
TURN = 1000  # records that a process takes, before it is the next one's turn
_CHUNK = 1 << 20
_LOOKED_THROUGH = 1 << 30  # bytes in which the first other than ASCII character is looked for
_BROKEN = "\udcff"  # becomes the byte FF, which no UTF-8 text has


def _broken(error: UnicodeError) -> tuple[str, int]:
    """What cannot be decoded is no UTF-8 either: the row is a bad row, at its line."""
    assert isinstance(error, UnicodeDecodeError)
    return _BROKEN, error.end


codecs.register_error("tunery-broken", _broken)


@dataclass(frozen=True, slots=True)
class Share:
    """Records that a process takes: some, then it is the next process's turn."""

    number: int
    of: int

    def has(self, record: int) -> bool:
        return record // TURN % self.of == self.number


@dataclass
class Source:
    """One input file, or a folder of Arrow files, or several files that are read side by side."""

    name: str
    """As the user wrote it: the ``file`` of its rows."""
    place: Path | Callable[[], Path]
    """Where it is, or what fetches it when it is first looked into."""
    told: Encoding | None = None
    """``data.encoding``."""
    kind: str = ""
    """Suffix of the reader, where the name does not tell."""
    sheet: str = ""
    """Of a spreadsheet; the first one if empty."""
    columns: Mapping[str, Source] = field(default_factory=dict)
    """Of a row, if every column is the lines of a file of its own."""
    share: Share | None = None
    """Which records this process takes, where several go through the file: the others come as ``SKIPPED``."""
    notes: list[str] = field(default_factory=list)
    """What readers decided or left out, in words for the user."""

    @cached_property
    def path(self) -> Path:
        return self.place if isinstance(self.place, Path) else self.place()

    @property
    def here(self) -> bool:
        """Whether it can be looked into without being fetched."""
        return isinstance(self.place, Path) or "path" in vars(self)

    @cached_property
    def packed(self) -> bool:
        return not self.path.is_dir() and self._start(2) == GZIP

    @property
    def suffix(self) -> str:
        """Of the name, without that of the packing, in small letters."""
        path = self.path if self.here else Path(self.name)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")

    @cached_property
    def head(self) -> bytes:
        """The first bytes as they are in the (unpacked) file."""
        with self.raw() as stream:
            return stream.read(HEAD)

    @cached_property
    def encoding(self) -> Encoding:
        if self.told is not None:
            return self.told
        return encodings.by_mark(self.head) or encodings.utf16(self.head) or self._detected()

    @cached_property
    def old_mac(self) -> bool:
        """Whether lines end with CR alone."""
        text = self.head.decode(self.encoding.codec, "replace")
        return "\r" in text[:-1] and "\n" not in text

    def say(self, note: str) -> None:
        """Tell something about this file, once."""
        text = f"{self.name}: {note}"
        if text not in self.notes:
            self.notes.append(text)

    def raw(self) -> BinaryIO:
        """Bytes of the file, unpacked."""
        if not self.packed:
            return self.path.open("rb")
        return io.BufferedReader(_Converted(self, None, False), _CHUNK)

    def open(self, keep_cr: bool = False) -> BinaryIO:
        """The text as UTF-8 without a byte order mark.

        What is broken in it becomes bytes that are not UTF-8. ``keep_cr``: leave the line ends of an old Mac alone.
        """
        mac = self.old_mac and not keep_cr
        if self.encoding.codec != "utf-8" or mac:
            return io.BufferedReader(_Converted(self, self.encoding.codec, mac), _CHUNK)
        stream = self.raw()
        if self.head.startswith(codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        return stream

    def local(self) -> Path:
        """A file with the unpacked bytes, for readers that jump about in it."""
        return Path(self._unpacked.name) if self.packed else self.path

    @cached_property
    def _unpacked(self) -> Any:
        spool = tempfile.NamedTemporaryFile(prefix="tunery-", suffix=self.suffix)  # noqa: SIM115
        with self.raw() as stream:
            while chunk := stream.read(_CHUNK):
                spool.write(chunk)
        spool.flush()
        return spool

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file behind it, by its name."""
        if self.columns:
            return {name: value for source in self.columns.values() for name, value in source.hashes().items()}
        if self.path.is_dir():
            digest = hashlib.sha256()
            for path in sorted(self.path.iterdir()):
                if path.is_file():
                    digest.update(f"{path.name}\0{sha256(path)}\n".encode())
            return {self.name: digest.hexdigest()}
        return {self.name: sha256(self.path)}

    def _start(self, size: int) -> bytes:
        with self.path.open("rb") as stream:
            return stream.read(size)

    def _detected(self) -> Encoding:
        sample, read = encodings.Sample(), 0
        with self.raw() as stream:
            while not sample.full and read < _LOOKED_THROUGH and (chunk := stream.read(_CHUNK)):
                read += len(chunk)
                if not chunk.isascii():
                    sample.add(chunk + stream.readline(_CHUNK))  # a character may be cut in two
        return encodings.detect(sample.lines) if sample.lines else UTF8


class _Converted(io.RawIOBase):
    """A file unpacked, in UTF-8 and with LF at the end of lines, piece by piece."""

    def __init__(self, source: Source, codec: str | None, old_mac: bool) -> None:
        self._name = source.name
        self._size = source.path.stat().st_size
        # closed with this object, see close()
        self._raw: Any = gzip.open(source.path) if source.packed else source.path.open("rb")  # noqa: SIM115
        self._packed, self._old_mac = source.packed, old_mac
        self._decoder = codecs.getincrementaldecoder(codec)("tunery-broken") if codec else None
        self._rest = memoryview(b"")
        self._done = self._begun = self._held = False
        self._read = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._done:
            self._rest = memoryview(self._next())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _next(self) -> bytes:
        chunk = self._pull()
        self._done = not chunk
        if self._decoder is not None:
            text = self._decoder.decode(chunk, self._done)
            if text and not self._begun:
                self._begun, text = True, text.removeprefix("\ufeff")
            chunk = text.encode("utf-8", "surrogateescape")
        if self._old_mac:
            # a CR at the end of a piece may be half of CR LF: it waits for the next one
            chunk = b"\r" * self._held + chunk
            self._held = chunk.endswith(b"\r") and not self._done
            chunk = chunk[: len(chunk) - self._held].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _pull(self) -> bytes:
        try:
            chunk: bytes = self._raw.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            if not self._packed or (isinstance(error, OSError) and error.errno):
                raise
            raise DataError(f"the packed file is damaged: {error}", "make or download it again", self._name) from None
        self._read += len(chunk)
        if self._packed and self._read > max(FREE, RATIO * self._size):
            raise DataError(
                f"unpacks to more than {RATIO} times its size: that is no text to learn from",
                f"unpack it and look at it: gunzip -k {os.path.basename(self._name)}",  # noqa: PTH119
                self._name,
            )
        return chunk
