"""Finished blocks on disk, so that an interrupted study can be resumed.

There is one file for all blocks: a study has up to 10^5 blocks, and the order of records is the history of the study.
Each record holds the arrays of a block in numpy's .npz format, without pickle. The first record identifies the study
that the file belongs to.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.sampling.record_file import JournalError, RecordFile
from smesolve.sampling.study_difference import first_difference, with_changes
from smesolve.validation import check_instance, check_mapping, check_optional

__all__ = ["Journal", "JournalError"]

STUDY = "study"
"""Key of the first record."""


class Journal:
    """Results of blocks by key, on disk as soon as `put` returns.

    They survive the end of the process by any signal. A loss of power loses the results that the operating system had
    not yet written to the disk.

    Args:
        path: the file, a pathlib.Path. It is created if it does not exist.
        study: everything that the results depend on, in JSON's types. A file of another study is refused. Default: the
            study of the file.

    Raises:
        JournalError: the file belongs to another study, cannot be opened, or is damaged.
    """

    @entry_point
    def __init__(self, path: Path, study: Mapping[str, Any] | None = None) -> None:
        self.path = check_instance("path", path, Path, "a pathlib.Path")
        self._prefix = ""
        study = check_optional("study", study, _in_json)
        self._records = RecordFile(path)
        try:
            if not len(self._records):
                self._records.append(STUDY, json.dumps(study).encode())
            self.study = _read_study(self._records)
            difference = "" if study is None else first_difference(self.study, study)
            if difference:
                raise JournalError(
                    f"{str(path.parent)!r} holds another study: {difference}; name another --out, or ask for the "
                    "study that it holds."
                )
        except BaseException:
            self._records.close()
            raise

    @classmethod
    def continued(cls, source: Path, path: Path, changes: Mapping[str, Any]) -> None:
        """Write a journal to `path` that begins with all results of the journal at `source`, in one atomic step.

        Args:
            source: a journal, which is not changed.
            path: path of the new journal.
            changes: changed entries of the study. The caller guarantees that its results are valid for the new study.

        Raises:
            JournalError: the journal at `source` is damaged or missing.
        """
        if not check_instance("source", source, Path, "a pathlib.Path").exists():
            raise JournalError(f"{str(source)!r} is missing, so there is nothing to go on from; run the study anew.")
        old, draft = RecordFile(source, read_only=True), path.with_suffix(".copy")
        try:
            with cls(draft, with_changes(_read_study(old), changes)) as new:
                for key in old:
                    if key != STUDY:
                        new._records.append(key, old.content(key))
        finally:
            old.close()
        os.replace(draft, path)

    def part(self, name: str) -> Journal:
        """Return the part of this name in the same file: its keys are others than those of the rest.

        Args:
            name: of the part, such as that of a piece of work whose blocks have the keys of another piece.
        """
        part = copy(self)
        part._prefix = f"{self._prefix}{name}: "
        return part

    def __len__(self) -> int:
        """Number of results in the file."""
        return len(self._records) - 1

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._records

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        self._records.close()

    def get(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of one result by name.

        Raises:
            KeyError: there is no such result.
            JournalError: the journal is closed.
        """
        with np.load(io.BytesIO(self._records.content(self._prefix + key)), allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one result. A key that is there already gets the new result.

        Args:
            key: of the result, any string other than "study", the key of the first record.
            arrays: arrays of numbers or strings by name.

        Raises:
            SmesolveError: the key is "study", or an array holds other objects, which only pickle could write.
            OSError: the result could not be written, for example because the disk is full. The journal stays usable.
            JournalError: the journal is closed, or its file was removed or replaced in the meantime.
        """
        if self._prefix + key == STUDY:
            raise invalid("key", "be another string", key, "it is the key of the study itself")
        self._records.check_in_place()
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:  # as np.savez writes it, which takes some names for its options
            for name, array in arrays.items():
                numbers = np.asanyarray(array)
                if numbers.dtype.hasobject:
                    raise invalid(f"arrays[{name!r}]", "hold numbers or strings", array)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, numbers, allow_pickle=False)
        self._records.append(self._prefix + key, content.getvalue())


def _in_json(name: str, study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study after a round trip through JSON."""
    study = check_mapping(name, study, least=0)
    try:
        return dict(json.loads(json.dumps(study, sort_keys=True)))
    except (TypeError, ValueError, RecursionError) as error:
        raise SmesolveError(
            f"{name} must hold only what JSON has, such as numbers, strings and lists ({error})."
        ) from None


def _read_study(records: RecordFile) -> dict[str, Any]:
    """Return the study of the first record.

    Raises:
        JournalError: there is none.
    """
    if STUDY not in records:
        raise records.damaged(0)
    try:
        study = json.loads(records.content(STUDY))
    except (ValueError, RecursionError):
        raise records.damaged(0) from None
    if study is not None and not isinstance(study, dict):
        raise records.damaged(0)
    return study or {}
