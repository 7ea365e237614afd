"""The kind of value that a type hint asks for."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

from smesolve.arguments.kinds import MOST, AnyOf, Argument, Called, Instance, Integer, Items, Mapped, Number

__all__ = ["allows_none", "from_hint"]

EXAMPLES = {
    "Law": "BernoulliMasks(keep_prob)",
    "MaskLaw": "BernoulliMasks(keep_prob)",
    "Problem": "a DropoutProblem",
    "DropoutNetwork": "a TwoLayerNetwork, or a FeatureNetwork of your own layers",
}
"""Of classes that have no objects of their own."""


def _article(kind: type) -> str:
    if (kind.__module__, kind.__name__) == ("torch", "Tensor"):
        return "a tensor"
    name = f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__
    example = f", such as {EXAMPLES[name]}," if name in EXAMPLES else ""
    return f"a{'n' if name[0] in 'AEIOU' else ''} {name}{example}"


_BASIC: dict[Any, Any] = {
    bool: Instance((bool,), "True or False"),
    int: Integer(-MOST),
    float: Number(),
    str: Instance((str,), "a string"),
    np.ndarray: Instance((np.ndarray,), "an array"),
}


def from_hint(hint: Any, meaning: Argument | None) -> Any:
    """The check for a type hint, `meaning` in place of the numbers and tensors in it; None where nothing is asked."""
    if hint is Any or isinstance(hint, TypeVar) or isinstance(meaning, Items):
        return meaning
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [part for part in parts if part is not type(None)]
        if meaning is not None and not any(get_origin(part) in _HOLDERS for part in options):
            return meaning
        inner = [from_hint(part, meaning) for part in options]
        if None in inner:
            return None
        return inner[0] if len(inner) == 1 else AnyOf(tuple(inner))
    if origin is Literal:
        return Instance((str,), " or ".join(map(repr, parts)))
    if origin in (collections.abc.Sequence, list):
        return Items(from_hint(parts[0], meaning), filled=True)
    if origin is tuple:
        if parts[1:] == (...,):
            return Items(from_hint(parts[0], meaning), filled=True)
        same = all(part == parts[0] for part in parts)
        return Items(from_hint(parts[0], meaning) if same else None, size=len(parts))
    if origin in (collections.abc.Mapping, dict):
        return Mapped(from_hint(parts[1], meaning), filled=meaning is not None)
    if origin is collections.abc.Callable or hint is Callable:
        return Called()
    if meaning is not None:
        return meaning
    if hint in _BASIC:
        return _BASIC[hint]
    kind = origin or hint
    if inspect.isclass(kind) and not getattr(kind, "_is_protocol", False):
        return Instance((kind,), _article(kind))
    return None


_HOLDERS = (collections.abc.Sequence, list, tuple, collections.abc.Mapping, dict)


def allows_none(hint: Any) -> bool:
    """Whether None is among what a type hint names."""
    return hint is Any or type(None) in get_args(hint)
