"""The keys of a settings dataclass, and checks of the types of their values."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args, get_origin, get_type_hints

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown
from smesolve.validation import MOST_ENTRIES

__all__ = ["check_mapping", "check_type", "known_keys", "may_be_string"]


def known_keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """Return the keys of a settings dataclass with their types; nested keys have names such as "data.name"."""
    keys: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        keys[prefix + name] = hint
        if dataclasses.is_dataclass(hint):
            keys |= known_keys(cast(type, hint), f"{prefix}{name}.")
    return keys


def check_mapping(values: Mapping[str, Any], hints: Mapping[str, Any], known: list[str], prefix: str = "") -> None:
    """Refuse keys that are not among `hints`, and values of other types.

    Args:
        values: values from a file or an option.
        hints: types by key.
        known: keys that are suggested in place of an unknown one.
        prefix: prefix of the keys in messages, such as "data.".

    Raises:
        SmesolveError: for the first bad key or value.
    """
    for key, value in values.items():
        if key not in hints and prefix + key in known:
            head, _, tail = key.partition(".")
            raise SmesolveError(f"key {key!r} must be nested in a file, {head}: {{{tail}: ...}}.")
        if key not in hints:
            raise SmesolveError(f"key {prefix + key!r} is unknown; {nearest_name(prefix + key, known)}.")
        check_type(prefix + key, value, hints[key], known)


def check_type(key: str, value: Any, hint: Any, known: Sequence[str] = ()) -> None:
    """Refuse a value that does not have the type of its key. Integers are accepted as numbers, strings are not.

    Args:
        key: name of the key in messages.
        value: value from a file or an option.
        hint: type of the key.
        known: keys of the whole configuration, which are suggested in place of an unknown one in a nested mapping.

    Raises:
        SmesolveError: with the key, the type and the value.
    """
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        nested = known_keys(cast(type, hint), f"{key}.")
        check_mapping(value, get_type_hints(hint), [*nested, *known], f"{key}.")
    elif isinstance(value, list) and (in_list := _list_option(hint)) is not None:
        if len(value) > MOST_ENTRIES:
            raise SmesolveError(f"{key} has {len(value)} entries, more than {MOST_ENTRIES}; give a shorter list.")
        (item,) = get_args(in_list)
        for k, entry in enumerate(value):
            if not _fits(entry, item) or _is_quoted_number(entry, item):
                raise _refusal(f"{key}[{k}]" if _is_endless(entry) else key, f"{shown(entry)} in it", entry, in_list)
    elif not _fits(value, hint):
        raise _refusal(key, shown(value), value, hint)


def _refusal(key: str, got: str, value: Any, hint: Any) -> SmesolveError:
    if _is_endless(value):
        return SmesolveError(f"{key} must be finite, got {value}.")
    strings = may_be_string(hint) or hint == list[str]
    quotes = "; put it into quotes if it is a string" if type(value) in (int, float) and strings else ""
    return SmesolveError(f"{key} must be {_expected(hint)}, got {got}{quotes}.")


def _is_quoted_number(value: Any, hint: Any) -> bool:
    """Return whether a string is an integer in quotes, in a list that may hold integers."""
    return isinstance(value, str) and int in _options(hint) and value.strip().lstrip("+-").isdigit()


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def may_be_string(hint: Any) -> bool:
    """Return whether a type hint allows a string."""
    return str in _options(hint)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the only type."""
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _list_option(hint: Any) -> Any:
    """Return the list type in a hint, or None."""
    return next((option for option in _options(hint) if get_origin(option) is list), None)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value that is not a list has one of the types of a hint."""
    options = _options(hint)
    if isinstance(value, bool):
        return bool in options
    if isinstance(value, int) and float in options:
        return True
    if _is_endless(value):
        return False
    return type(value) in options


def _expected(hint: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    if hint in words:
        return words[hint]
    if isinstance(hint, types.UnionType):
        return _expected(get_args(hint)[0])
    if get_origin(hint) is list:
        examples = {
            int: "integers such as [1, 2]",
            float: "numbers such as [0.1, 0.05]",
            str: "names such as [loss]",
            int | str: "integers and names such as [1, poisson]",
        }
        return f"a list of {examples[get_args(hint)[0]]}"
    return f"a mapping with the keys {', '.join(entry.name for entry in dataclasses.fields(hint))}"
