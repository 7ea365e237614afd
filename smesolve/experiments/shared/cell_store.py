"""Results of cells on disk, in the journal of their experiment, each whole or not at all.

A result is stored as JSON, in which numbers keep every bit. Arrays and tables become objects with a reserved key.
Nothing is unpickled.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from smesolve.sampling.journal import Journal

__all__ = ["CellStore"]

ARRAY, TABLE = "__array__", "__table__"
"""Reserved keys."""


class CellStore:
    """Results by the key of their cell.

    Args:
        journal: journal for the results. It belongs to one study, and refuses other studies.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def __contains__(self, key: str) -> bool:
        return _name(key) in self.journal

    def get(self, key: str) -> Any:
        """Return the result of a cell.

        Raises:
            KeyError: the cell has no result yet.
        """
        return decoded(json.loads(self.journal.get(_name(key))["json"].tobytes()))

    def put(self, key: str, result: Any) -> None:
        """Store the result of a cell.

        Raises:
            TypeError: the result contains a type that cannot be stored.
        """
        text = json.dumps(encoded(result)).encode()
        self.journal.put(_name(key), {"json": np.frombuffer(text, dtype=np.uint8)})


def _name(key: str) -> str:
    return f"cell {key}"


def encoded(value: Any) -> Any:
    """Return a value in the types of JSON."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return encoded(value.item())
    if isinstance(value, np.ndarray):
        return {ARRAY: [encoded(entry) for entry in value.ravel().tolist()], "dtype": str(value.dtype)} | {
            "shape": list(value.shape)
        }
    if isinstance(value, pd.DataFrame):
        columns = [[name, str(column.dtype), encoded(column.tolist())] for name, column in value.items()]
        return {TABLE: columns, "rows": len(value)}
    if isinstance(value, (list, tuple)):
        return [encoded(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and not {ARRAY, TABLE} & set(value):
        return {key: encoded(entry) for key, entry in value.items()}
    raise TypeError(
        "the result of a cell must be made of dicts with string keys, lists, strings, numbers, None, numpy arrays and "
        f"pandas tables, got {type(value).__name__}"
    )


def decoded(value: Any) -> Any:
    """Return the value from its form made by `encoded`."""
    if isinstance(value, list):
        return [decoded(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return np.array(value[ARRAY], dtype=value["dtype"]).reshape(value["shape"])
    if TABLE in value:
        columns = {name: pd.Series(decoded(entries), dtype=dtype) for name, dtype, entries in value[TABLE]}
        return pd.DataFrame(columns, index=range(value["rows"]))
    return {key: decoded(entry) for key, entry in value.items()}
