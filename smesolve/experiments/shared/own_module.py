"""A network of the user, given by the name of the function that makes it: package.module:function.

A configuration is data and must not run code, so a name in a file is used only if the user allows it; the command line
enforces this (`smesolve.study.command_arguments`).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from smesolve.errors import SmesolveError, call_of_user, shown

__all__ = ["made_module", "reads", "source_digest"]

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""Name of a function: package.module:function."""


def made_module(name: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the module that a function makes under a seed of torch, whose generator is then restored.

    Args:
        name: name of the function.
        arguments: possible arguments; those that the function declares are passed.
        seed: seed for `torch.manual_seed`.

    Raises:
        SmesolveError: the function does not exist, raises an error, or does not return a module.
    """
    function = _function(name)
    chosen = {key: value for key, value in arguments.items() if key in inspect.signature(function).parameters}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = call_of_user(f"network.module={name!r}", lambda: function(**chosen))
    if not isinstance(module, nn.Module):
        raise SmesolveError(f"network.module={name!r} must return a torch.nn.Module, got {shown(module)}.")
    return module


def reads(name: str, argument: str) -> bool:
    """Return whether a function has an argument of this name."""
    return argument in inspect.signature(_function(name)).parameters


def source_digest(name: str) -> str:
    """Return a digest of the file that defines a function."""
    path = inspect.getsourcefile(inspect.unwrap(_function(name)))
    content = Path(path).read_bytes() if path else b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _function(name: str) -> Callable[..., Any]:
    if not NAME.fullmatch(name):
        raise SmesolveError(
            f"network.module must be package.module:function, such as mypackage.models:make_net, got {shown(name)}."
        )
    place, attribute = name.split(":")
    found = getattr(_imported(name, place), attribute, None)
    if not callable(found):
        raise SmesolveError(
            f"network.module={name!r}: {place} has no function {attribute!r}; name one that returns a torch module."
        )
    try:
        inspect.signature(found)
    except ValueError:
        raise SmesolveError(
            f"network.module={name!r} does not say which arguments it has; name a function written in Python."
        ) from None
    function: Callable[..., Any] = found
    return function


def _imported(name: str, place: str) -> ModuleType:
    """Import a module, also from the working directory, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # permanently, so that worker processes find the module, too
    try:
        return importlib.import_module(place)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise SmesolveError(
            f"network.module={name!r} cannot be imported ({reason}); give its place from the working directory, or "
            "install its package."
        ) from error
