"""State that torch keeps once per process, guarded by a lock.

Three things are shared by all threads, and give wrong results without an error if two threads use them at once:

- `torch.func.jvp` counts its nesting in a variable of its module, and forward derivatives have one dual level;
- `torch.func.functional_call` puts the given parameters into the module itself while it runs;
- `torch.manual_seed` seeds one generator, from which modules draw their initial values.

All three wait for one lock, `one_at_a_time`, because a forward derivative may call a module, and a module may take a
forward derivative. The lock is reentrant. Everything else in a study (random numbers, noise products and gradients of a
`DropoutProblem`, statistics) runs in all threads at once.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from smesolve.entry_point import plain_surroundings

__all__ = ["forward_derivative", "hessian", "one_at_a_time", "transposed_derivative"]

T = TypeVar("T")

NO_FORWARD_DERIVATIVE = ("Trying to use forward AD", "must implement the jvp function", "flat_bdims must not be None")
"""Parts of torch's messages about operations, or autograd functions of the user, without a forward derivative."""

one_at_a_time = threading.RLock()


def forward_derivative(function: Callable[[Tensor], T], at: Tensor, direction: Tensor) -> tuple[T, T]:
    """Return function(at) and its derivative along a direction of the same shape.

    If an operation lacks a forward derivative, two pullbacks take its place (`_by_pullbacks`). The result is also right
    in `torch.inference_mode`, where forward derivatives of torch 2.4 would be zero.
    """
    with one_at_a_time, plain_surroundings():
        load_forward_mode()
        # contiguous: forward differentiation refuses tensors that `expand` made
        at, direction = at.contiguous(), direction.contiguous()
        try:
            value, derivative, *_ = torch.func.jvp(function, (at,), (direction,))
        except (RuntimeError, AssertionError) as error:
            if not _lacks_forward_derivative(error):
                raise
            value, derivative = _by_pullbacks(function, at, direction)
        return value, derivative


def _lacks_forward_derivative(error: Exception) -> bool:
    return any(words in str(error) for words in NO_FORWARD_DERIVATIVE)


def _by_pullbacks(function: Callable[[Tensor], T], at: Tensor, direction: Tensor) -> tuple[T, T]:
    """Return function(at) and J direction, by the pullback of the linear map c -> J^T c. Cost: some 3 gradients."""
    value, pull = torch.func.vjp(function, at)
    _, forward = torch.func.vjp(lambda cotangents: pull(cotangents)[0], tree_map(torch.zeros_like, value))
    derivative: T = forward(direction)[0]
    return value, derivative


def transposed_derivative(function: Callable[[Tensor], Tensor], at: Tensor, vector: Tensor) -> Tensor:
    """Return vectors (..., D) times the Jacobian of a function (..., D) -> (..., D) that acts on each row by itself."""
    with plain_surroundings():
        value, pull = torch.func.vjp(function, at)
        pulled: Tensor = pull(vector.expand_as(value))[0]
        return pulled


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the matrix of second derivatives of a function (D,) -> () at one point: (D, D)."""
    # The unit vectors are made here: `torch.func.hessian` of torch 2.4 makes them on torch's default device.
    vectors = torch.eye(at.shape[0], dtype=at.dtype, device=at.device)
    gradient = torch.func.grad(function)
    with one_at_a_time, plain_surroundings():
        load_forward_mode()
        # Rows, then transposed: with out_dims=-1 torch 2.13 gives a constant derivative a wrong shape.
        matrix: Tensor = torch.func.vmap(lambda vector: forward_derivative(gradient, at, vector)[1])(vectors).mT
        return matrix


@functools.cache
def load_forward_mode() -> None:
    """Load torch's forward mode without its deprecation warning, which would be an error under `python -W error`.

    A filter for this message is added to the list of filters and removed again. `warnings.catch_warnings` would restore
    a copy of the whole list, and so undo what another thread changes in the meantime.
    """
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    filters: Any = warnings.filters
    added = filters[0]
    try:
        with torch.inference_mode(False), forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1, device="cpu"), torch.ones(1, device="cpu"))
    finally:
        if added in warnings.filters:  # unless another thread has put back a list without it
            filters.remove(added)
