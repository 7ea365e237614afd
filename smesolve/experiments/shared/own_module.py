"""A network of the user's own, by the name of the function that makes it: package.module:function.

A configuration is data and runs no code, so that a name in a file is followed only where the user allows it; the
command line sees to that (`smesolve.study.command_arguments`).
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
"""Of a function: package.module:function."""


def made_module(name: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return what a function makes under torch's seed, given those arguments that it names; its generator is put back.

    Args:
        name: of the function.
        arguments: what it may take.
        seed: for `torch.manual_seed`.

    Raises:
        SmesolveError: there is no such function, or it fails or returns no module.
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
    """Return a module that Python finds, also in the working directory, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # it stays there: processes that share the work find the module, too
    try:
        return importlib.import_module(place)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise SmesolveError(
            f"network.module={name!r} cannot be imported ({reason}); give its place from the working directory, or "
            "install its package."
        ) from error
