"""Finished blocks on disk: one file that grows, each record with its checksum.

One file, not one a block: a study has up to 10^5 blocks, appending is a single write that does not touch what is there,
and the order of records is the history of the study. A process that is killed while it writes leaves an unfinished last
record, which the next one cuts off; anything else that is not as it was written is damage and is refused.

A record is: a head (mark, sizes of key and content, a checksum of these), a BLAKE2b digest of key and content, the key,
and the content, arrays in numpy's .npz format (no pickle). The first record says which study the file belongs to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from smesolve.arguments import checked
from smesolve.errors import SmesolveError, shown
from smesolve.sampling.record_index import RecordIndex

__all__ = ["Journal", "JournalError", "first_difference", "is_journal"]

FAMILY = b"sme"
MARK = FAMILY + b"2"
HEAD = struct.Struct("<4sIQI")
"""Mark, bytes of the key, bytes of the content, CRC-32 of the three. The digit of the mark is the version of the
format: that of the records, and of the arrays that a study keeps in them."""

DIGEST = 16
"""Bytes of a BLAKE2b digest."""

STUDY = "study"
"""Key of the first record."""


class JournalError(SmesolveError):
    """A journal that cannot be used; the message is one sentence for the user."""


class Journal:
    """Results of blocks by key, on disk as soon as `put` returns.

    Survives the end of the process by any signal; what the machine itself had not written when it lost power is lost.

    Args:
        path: the file, which is made where there is none.
        study: what the results depend on, in JSON's types; a file of another study is refused. None for whatever the
            file holds.

    Raises:
        JournalError: the file belongs to another study, or is damaged.
    """

    @checked
    def __init__(self, path: Path, study: Mapping[str, Any] | None = None) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_file():
                raise JournalError(f"{str(path)!r} is not a file; name another path for the journal.")
            if path.exists() and not is_journal(path):
                raise self._damaged(0)
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise JournalError(
                f"{str(path)!r} cannot be opened ({error.strerror}); name a file in a directory that can be written to."
            ) from None
        self._places = RecordIndex()
        try:
            self._end = self._read_index()
            self._file.truncate(self._end)
            if self._end == 0:
                self._append(STUDY, json.dumps(study, sort_keys=True).encode())
            self.study = self._read_study()
            if study is not None:
                self._check_study(json.loads(json.dumps(study)))
        except BaseException:
            self._file.close()
            self._places.close()
            raise

    @classmethod
    def continued(cls, source: Path, path: Path, changes: Mapping[str, Any]) -> None:
        """Write a journal to `path` that begins with all results of the one at `source`; it appears whole.

        Args:
            source: a journal; it is left as it is.
            path: of the new one.
            changes: what of the study is new. The caller answers for it that results of the one serve the other.

        Raises:
            JournalError: the journal at `source` is damaged or missing.
        """
        if not source.exists():
            raise JournalError(f"{str(source)!r} is missing, so there is nothing to go on from; run the study anew.")
        old = cls.__new__(cls)
        old.path, old._places = source, RecordIndex()
        with closing(old._places), open(source, "rb", buffering=0) as old._file:  # only to be read
            if not is_journal(source):
                raise old._damaged(0)
            old._read_index()
            copy = path.with_suffix(".copy")
            with cls(copy, _changed(old._read_study(), changes)) as new:
                for key in old._places:
                    if key != STUDY:
                        new._append(key, old._content(key))
        os.replace(copy, path)

    def __len__(self) -> int:
        """Number of results."""
        return len(self._places) - 1

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
            self._places.close()

    def get(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of one result.

        Raises:
            KeyError: there is no such result.
        """
        with np.load(io.BytesIO(self._content(key)), allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one result.

        Raises:
            OSError: it could not be written, for example as the disk is full; the journal stays usable.
            JournalError: the file was removed or replaced in the meantime.
        """
        self._check_in_place()
        content = io.BytesIO()
        save: Any = np.savez  # whose flag has another type than the arrays
        save(content, **arrays)
        self._append(key, content.getvalue())

    def _read_study(self) -> dict[str, Any]:
        """The first record."""
        if STUDY not in self._places:
            raise self._damaged(0)
        try:
            study = json.loads(self._content(STUDY))
        except (ValueError, RecursionError):
            raise self._damaged(0) from None
        if study is not None and not isinstance(study, dict):
            raise self._damaged(0)
        return study or {}

    # --- the file --------------------------------------------------------------------------------------------------

    def _append(self, key: str, content: bytes) -> None:
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

    def _check_in_place(self) -> None:
        """Refuse to write into a file that has lost its name, where nobody would find it, and give its content one."""
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
            f"{str(self.path)!r} was removed or replaced while it was written; {found}: leave it alone{again} and go "
            "on from it (on the command line by --resume)."
        )

    def _content(self, key: str) -> bytes:
        start, size = self._places[key]
        self._file.seek(start)
        return self._file.read(size)

    def _read_index(self) -> int:
        """Check every record and note where each begins; returns where the last one ends that is finished."""
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
        """Where the record at `offset` ends, or None where the file ends first."""
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
            raise self._damaged(offset)
        end = offset + HEAD.size + DIGEST + key_size + content_size
        if end > size:
            return None
        digest, name, content = file.read(DIGEST), file.read(key_size), file.read(content_size)
        if digest != _digest(name, content):
            raise self._damaged(offset)
        self._places[name.decode()] = end - content_size, content_size
        return end

    def _damaged(self, offset: int) -> JournalError:
        return JournalError(
            f"{str(self.path)!r} is damaged at byte {offset}, or was not written by smesolve; restore it from a copy, "
            "or start the study again with --overwrite."
        )

    def _check_study(self, wanted: dict[str, Any]) -> None:
        difference = first_difference(self.study, wanted)
        if difference:
            raise JournalError(
                f"{str(self.path.parent)!r} holds another study: {difference}; name another --out, or ask for the "
                "study that it holds."
            )


def is_journal(path: Path) -> bool:
    """Whether a file begins as a journal of any version does, or is empty."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return FAMILY.startswith(file.read(len(FAMILY)))


def first_difference(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In words, the first entry in which two studies differ; empty where they are the same."""
    old, new = _flat(there), _flat(asked)
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) or (key in old) != (key in new):
            if key == "data":
                return "its data is not what it was: the data, or the initial parameters, have changed since"
            given = [shown(values[key]) if key in values else "nothing" for values in (old, new)]
            return f"its {key} is {given[0]}, but {given[1]} is asked for"
    return ""


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with some replaced."""
    new = dict(values)
    for key, value in changes.items():
        old = new.get(key)
        inside = _changed(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
        new[key] = inside
    return new


def _digest(name: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(name + content, digest_size=DIGEST).digest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as "config.network.width"."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
