"""The decorator of public functions: hints for unknown argument names, and a plain numerical environment."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np

from smesolve.rounded_number import plain_number

__all__ = ["OTHER_NAMES", "entry_point", "nearest_name", "plain_surroundings", "use_one_thread_if_forked"]

_IMPORTED_IN = os.getpid()
"""The process that imported the package; another one that has this module was forked from it."""

P = ParamSpec("P")
T = TypeVar("T")

OTHER_NAMES: Mapping[str, str] = {
    "T": "horizon",
    "batch": "batch_size",
    "dropout": "keep_prob",
    "epsilon": "lr",
    "learning_rate": "lr",
    "learning_rates": "lrs",
    "lr": "lrs",
    "method": "scheme",
    "n_paths": "paths",
    "num_paths": "paths",
    "p": "keep_prob",
    "y0": "theta0",
}
"""Names that papers and other libraries give to arguments, and their names here."""


def entry_point(function: Callable[P, T]) -> Callable[P, T]:
    """Guard a function, or a constructor, that users call.

    An unknown keyword argument raises a TypeError that suggests the name that was probably meant. The function receives
    Python's numbers in place of numpy's, so that no count overflows in eight bits; numbers of low precision are read as
    `smesolve.rounded_number` says. It runs in `plain_surroundings`. Cost: some microseconds per call.
    """
    signature = inspect.signature(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        unknown = None if takes_any else next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is not None:
            raise TypeError(_unknown_argument(function.__qualname__, unknown, list(signature.parameters)))
        values: Any = (plain_number(value) for value in args)
        named: Any = {name: plain_number(value) for name, value in kwargs.items()}
        with plain_surroundings():
            return function(*values, **named)

    return guarded


def nearest_name(name: str, known: list[str]) -> str:
    """Return a hint, "did you mean 'lrs'", or a list of the known names without a dot where none is close.

    A name that is known elsewhere, such as `keep_prob` for `training.keep_prob`, comes before similar ones.
    """
    last = name.split(".")[-1]
    if OTHER_NAMES.get(last) in known:
        meant = OTHER_NAMES[last]
        return f"did you mean {meant!r}{f', which is 1 - {last}' if meant == 'keep_prob' else ''}"
    last_parts = {nested.split(".")[-1]: nested for nested in reversed(known)}
    if last in last_parts:
        return f"did you mean {last_parts[last]!r}"
    close = difflib.get_close_matches(name, known, n=1) or [
        last_parts[part] for part in difflib.get_close_matches(last, list(last_parts), n=1)
    ]
    if close:
        return f"did you mean {close[0]!r}"
    return f"known are {', '.join(dict.fromkeys(one for one in known if '.' not in one))}"


def _unknown_argument(qualified_name: str, unknown: str, names: list[str]) -> str:
    """Return one sentence that names the function and, where it can be guessed, the argument that was meant."""
    owner, _, name = qualified_name.rpartition(".")
    called = owner if name == "__init__" else name
    names = [name for name in names if name != "self"]
    close = difflib.get_close_matches(unknown, names, n=1)
    meant = OTHER_NAMES.get(unknown)
    if meant == "keep_prob" and meant in names:
        remedy = f"use keep_prob, the probability of keeping: 1 - {unknown}"
    elif meant in names or close:
        remedy = f"use {meant if meant in names else close[0]}"
    else:
        remedy = f"its arguments are {', '.join(names)}"
    return f"{called} has no argument {unknown}; {remedy}."


def use_one_thread_if_forked() -> None:
    """Let torch compute on one thread in a process that was forked (`os.fork`, multiprocessing's "fork").

    The threads of the parent do not exist in the child, and OpenMP would wait for them forever.
    """
    if os.getpid() != _IMPORTED_IN:
        torch = sys.modules.get("torch")
        if torch is not None and torch.get_num_threads() > 1:
            torch.set_num_threads(1)


@contextmanager
def plain_surroundings() -> Iterator[None]:
    """Keep numpy from raising where floats overflow or divide by zero, and let tensors be differentiated.

    A path that diverges, or a quotient 0/0 that means "nothing is known", is not an error here. Tensors made in
    `torch.inference_mode` could not be differentiated.
    """
    use_one_thread_if_forked()
    with ExitStack() as stack:
        if any(kind in ("raise", "call") for kind in np.geterr().values()):
            stack.enter_context(np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"))
        torch = sys.modules.get("torch")  # not imported for this: configurations do without it
        if torch is not None and torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield
