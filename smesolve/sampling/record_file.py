"""An append-only file of records with checksums.

A record is a head (mark, sizes of key and content, CRC-32 of these), a BLAKE2b digest of key and content, the key, and
the content. Appending is a single write that leaves earlier records untouched. A process that is killed while it writes
leaves an unfinished last record, which the next process cuts off. Any other difference from what was written is damage,
and the file is refused.

SQLite, which serves the index, does not keep these promises for the records. After a kill the newest records are in a
second file, a write-ahead log. The main file, moved or copied without it as a study does with its results, may then
lack even its table, and a stale rollback journal beside a new database of the same name damages the new one. Without a
log every record costs two synchronisations of the disk (4 to 6 ms, where appending takes 0.07 ms), or a loss of power
may damage all records instead of the last ones only. SQLite's own check does not find a flipped bit in a record, so
that the digests would be needed as well. Its locks are not reliable on network folders; appending needs no locks.

The places of the records are kept in memory that does not grow with their number: a study of 10^9 paths has some 10^6
blocks, whose keys take hundreds of bytes each as Python objects. SQLite keeps them in a temporary file behind a cache
of fixed size, and deletes that file itself.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from smesolve.errors import SmesolveError

__all__ = ["HEAD", "JournalError", "RecordFile", "RecordIndex", "is_journal"]


class RecordIndex:
    """Start and size of the content of each record, by its key, in the order of their starts.

    Raises:
        OSError: the folder for temporary files cannot be written to. Every method may raise it.
    """

    def __init__(self) -> None:
        with _refused():
            # An empty name is a temporary file. Journals are used by one thread at a time, which need not be the first.
            self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = OFF")  # nobody reads the file after a crash
            self._database.execute("CREATE TABLE records (key TEXT PRIMARY KEY, start INTEGER, size INTEGER)")

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM records").fetchone()[0])

    def __contains__(self, key: str) -> bool:
        return self._found(key) is not None

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._database.execute("SELECT key FROM records ORDER BY start"):
            yield key

    def __getitem__(self, key: str) -> tuple[int, int]:
        found = self._found(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, place: tuple[int, int]) -> None:
        with _refused():
            self._database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (key, *place))

    def close(self) -> None:
        """Delete the temporary file."""
        self._database.close()

    def _found(self, key: str) -> tuple[int, int] | None:
        with _refused():
            found: tuple[int, int] | None = self._database.execute(
                "SELECT start, size FROM records WHERE key = ?", (key,)
            ).fetchone()
        return found


@contextmanager
def _refused() -> Iterator[None]:
    """Turn an operational error of SQLite into the operating system's error that is behind it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.ENOSPC, f"the folder for temporary files cannot be written to: {error}") from None


FAMILY = b"sme"
MARK = FAMILY + b"2"
HEAD = struct.Struct("<4sIQI")
"""Mark, size of the key and of the content in bytes, CRC-32 of the three. The digit in the mark is the version of the
format, both of the records and of the arrays that a study keeps in them."""

DIGEST = 16
"""Size of a BLAKE2b digest in bytes."""


class JournalError(SmesolveError):
    """A journal that cannot be used."""


class RecordFile:
    """Records by key. Once `append` has returned, a record survives the end of the process by any signal.

    A loss of power loses the records that the operating system had not yet written to the disk. The file is created if
    it does not exist, unless it is only read.

    Raises:
        JournalError: the file cannot be opened, is damaged, or was written by another program.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise JournalError(f"{str(path)!r} is not a file; name another path for the journal.")
        try:
            if path.exists() and not is_journal(path):
                raise self.damaged(0)
            self._file = open(path, "rb" if read_only else "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise JournalError(
                f"{str(path)!r} cannot be opened ({error.strerror}); name a file in a directory that can be written to."
            ) from None
        self._places = RecordIndex()
        """Start and size of the content of each key."""
        try:
            self._end = self._read_index()
            if not read_only:
                self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            self._places.close()
            raise

    def __len__(self) -> int:
        """Number of records."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        """Yield the keys in the order of writing."""
        return iter(self._places)

    def content(self, key: str) -> bytes:
        """Return the content of a record.

        Raises:
            KeyError: there is no such record.
            JournalError: the file is closed.
        """
        self._check_open()
        start, size = self._places[key]
        self._file.seek(start)
        return self._file.read(size)

    def append(self, key: str, content: bytes) -> None:
        """Write one record at the end.

        Raises:
            OSError: the record could not be written, for example because the disk is full. The file stays usable.
        """
        name = key.encode()
        sizes = struct.pack("<4sIQ", MARK, len(name), len(content))
        record = sizes + struct.pack("<I", zlib.crc32(sizes)) + _digest(name, content) + name + content
        try:
            written = 0
            while written < len(record):
                written += self._file.write(record[written:])
            self._places[key] = self._end + len(record) - len(content), len(content)
        except BaseException:
            self._file.truncate(self._end)
            raise
        self._end += len(record)

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        if not self._file.closed:
            if self._file.writable():
                os.fsync(self._file.fileno())
            self._file.close()
            self._places.close()

    def check_in_place(self) -> None:
        """Check that the open file is still the one at `path`; otherwise save its content under a new name.

        Raises:
            JournalError: the file is closed, or was removed, replaced, or written by another program.
        """
        self._check_open()
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno())):
                if os.fstat(self._file.fileno()).st_size != self._end:
                    raise JournalError(f"{str(self.path)!r} was written by another program; keep others away from it.")
                return
        copy, number = self.path, 1
        while os.path.lexists(copy):
            copy, number = self.path.with_name(f"{self.path.name}.{number}"), number + 1
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open(copy, "xb") as file:
                self._file.seek(0)
                shutil.copyfileobj(self._file, file)
            found = f"the finished blocks are in {str(copy)!r} now"
        except OSError as error:
            found = f"the finished blocks could not be written again ({error.strerror})"
        again = "" if copy == self.path else ", move it there,"
        raise JournalError(
            f"{str(self.path)!r} was removed or replaced while it was written; {found}: leave it as it is{again} and "
            "go on from it (on the command line by --resume)."
        )

    def _check_open(self) -> None:
        if self._file.closed:
            raise JournalError(f"{str(self.path)!r} was closed by this program; open the journal again.")

    def damaged(self, offset: int) -> JournalError:
        """Return the error for a file that differs from what was written."""
        return JournalError(
            f"{str(self.path)!r} is damaged at byte {offset}, or was not written by smesolve; restore it from a copy, "
            "or start the study again with --overwrite."
        )

    def _read_index(self) -> int:
        """Check every record and note the place of its content; return the end of the last finished record."""
        size = os.fstat(self._file.fileno()).st_size
        with open(self.path, "rb") as file:
            offset = 0
            while offset < size:
                end = self._read_record(file, offset, size)
                if end is None:
                    break
                offset = end
        return offset

    def _read_record(self, file: BinaryIO, offset: int, size: int) -> int | None:
        """Return the end of the record at `offset`, or None if the file ends before it."""
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        mark, key_size, content_size, check = HEAD.unpack(head)
        if mark != MARK and mark.startswith(FAMILY) and check == zlib.crc32(head[:-4]):
            raise JournalError(
                f"{str(self.path)!r} was written by another version of smesolve, whose results this one cannot go on "
                "from; start the study again with --overwrite."
            )
        if mark != MARK or check != zlib.crc32(head[:-4]):
            raise self.damaged(offset)
        end = int(offset + HEAD.size + DIGEST + key_size + content_size)
        if end > size:
            return None
        digest, name, content = file.read(DIGEST), file.read(key_size), file.read(content_size)
        if digest != _digest(name, content):
            raise self.damaged(offset)
        self._places[name.decode()] = end - content_size, content_size
        return end


def is_journal(path: Path) -> bool:
    """Return whether a file begins as a journal of any version does, or is empty."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return FAMILY.startswith(file.read(len(FAMILY)))


def _digest(name: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(name + content, digest_size=DIGEST).digest()
