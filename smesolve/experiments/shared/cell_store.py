"""Results of cells on disk, in the journal of their experiment: each is there whole, or not at all.

A result is stored as JSON, in which numbers keep every bit; arrays and tables stand in it as objects with one reserved
key. Nothing is unpickled.
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
        journal: where the results are kept. It belongs to one study, and refuses those of another one.
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
        """Keep the result of a cell.

        Raises:
            TypeError: the result holds something that a cell must not return.
        """
        text = json.dumps(encoded(result)).encode()
        self.journal.put(_name(key), {"json": np.frombuffer(text, dtype=np.uint8)})


def _name(key: str) -> str:
    return f"cell {key}"


def encoded(value: Any) -> Any:
    """Return a value in JSON's types."""
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
    """Return the value of which `encoded` made this."""
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
