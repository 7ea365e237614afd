"""The places of the records of a journal, in memory that does not grow with their number.

A study of 10^9 paths has some 10^6 blocks, whose keys take hundreds of bytes each as Python objects. SQLite keeps them
in a temporary file behind a cache of fixed size, and deletes that file itself.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["RecordIndex"]


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
