"""Checks in front of functions, of constructors, and of the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints, overload

from smesolve.arguments.hints import allows_none, from_hint
from smesolve.arguments.kinds import Argument, Items
from smesolve.arguments.meanings import MAY_BE_EMPTY, MEANINGS
from smesolve.entry_point import _unknown_argument, plain_surroundings

__all__ = ["check_fields", "checked"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def checked(function: F) -> F: ...
@overload
def checked(**meanings: Argument | None) -> Callable[[F], F]: ...


def checked(function: Any = None, **meanings: Argument | None) -> Any:
    """Guard a function, a method, or the constructor of a class.

    Args:
        function: what is guarded.
        meanings: of arguments that do not have here what their name means elsewhere; None for the type hint alone.

    Raises:
        SmesolveError: by the guarded function, for the first argument that is not what it must be.
    """
    if function is None:
        return functools.partial(_guard, meanings)
    return _guard({}, function)


def _guard(meanings: Mapping[str, Argument | None], function: Any) -> Any:
    if inspect.isclass(function):
        setattr(function, "__init__", _guard(meanings, function.__init__))  # noqa: B010 (a type checker asks for it)
        return function
    signature = inspect.signature(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @functools.cache
    def checks() -> dict[str, tuple[Argument, bool]]:
        """On the first call, as type hints may name what is defined further down."""
        return _checks(get_type_hints(inspect.unwrap(function)), meanings)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        unknown = None if takes_any else next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is not None:
            raise TypeError(_unknown_argument(function.__qualname__, unknown, list(signature.parameters)))
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        with plain_surroundings():
            for name, (check, optional) in checks().items():
                if name in given and not (optional and given[name] is None):
                    given[name] = check(name, given[name], given)
            return function(*bound.args, **bound.kwargs)

    return guarded


def _checks(hints: Mapping[str, Any], meanings: Mapping[str, Argument | None]) -> dict[str, tuple[Argument, bool]]:
    """By name, the check and whether None is allowed."""
    found = {}
    for name, hint in hints.items():
        check = from_hint(hint, {**MEANINGS, **meanings}.get(name))
        if name in MAY_BE_EMPTY and isinstance(check, Items):
            check = dataclasses.replace(check, filled=False)
        if name != "return" and check is not None:
            found[name] = check, allows_none(hint)
    return found


def check_fields(instance: Any, prefix: str = "", **meanings: Argument | None) -> None:
    """Check the fields of a dataclass as `checked` does arguments, under the names prefix + field.

    A list that is empty unless given may be empty.

    Raises:
        SmesolveError: for the first field that is not what it must be.
    """
    values = vars(instance)
    empty = {field.name for field in dataclasses.fields(instance) if values[field.name] == [] and not _filled(field)}
    for name, (check, optional) in _checks(get_type_hints(type(instance)), meanings).items():
        if not (optional and values[name] is None) and name not in empty:
            check(prefix + name, values[name], values)


def _filled(field: dataclasses.Field[Any]) -> bool:
    """Whether the default of a list is not empty."""
    return field.default_factory is dataclasses.MISSING or bool(field.default_factory())
