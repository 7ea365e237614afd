"""Studies as nested mappings: the first difference of two studies, and a study with some values replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smesolve.errors import shown

__all__ = ["first_difference", "with_changes"]


def first_difference(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return the first entry in which two studies differ, in words, or "" if they are the same."""
    old, new = _flat(there), _flat(asked)
    for key in sorted({*old, *new}):
        if (key in old) != (key in new) or not _equal(old[key], new[key]):
            if key == "data":
                return "its data is not what it was: the data, or the initial parameters, have changed since"
            if key == "kernels":
                return (
                    f"its numbers were computed by the kernels {old.get(key)}, but {new.get(key)} are in use; set the "
                    f"environment variable SMESOLVE_KERNELS to {old.get(key)} where these are installed"
                )
            given = [shown(values[key]) if key in values else "nothing" for values in (old, new)]
            return f"its {key} is {given[0]}, but {given[1]} is asked for"
    return ""


def with_changes(study: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with some of its nested values replaced."""
    new = dict(study)
    for key, value in changes.items():
        old = new.get(key)
        inside = with_changes(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
        new[key] = inside
    return new


def _equal(value: Any, other: Any) -> bool:
    """Return whether two values of a study are equal. NaN equals itself here."""
    return bool(value == other) or repr(value) == repr(other)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys as "config.network.width"."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
