"""What torch keeps once for the whole process, used by one thread at a time.

Three things are not kept for each thread, and go wrong without an error where two threads use them at once:

- `torch.func.jvp` counts its nesting in a variable of its module, and forward derivatives have one dual level;
- `torch.func.functional_call` puts the given parameters into the module itself while it runs;
- `torch.manual_seed` seeds one generator, from which modules draw their initial values.

All three wait for `one_at_a_time`: one lock, as a forward derivative may call a module and a module may take a forward
derivative. A thread that has it may take it again. Everything else of a study, random numbers, noise products and
gradients of `DropoutProblem`, statistics, runs in all threads at once.
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
"""Parts of torch's messages about operations, or functions of a user's, that have a gradient only."""

one_at_a_time = threading.RLock()


def forward_derivative(function: Callable[[Tensor], T], at: Tensor, direction: Tensor) -> tuple[T, T]:
    """Return function(at) and its derivative along a direction of the same shape.

    Where an operation of torch lacks a forward derivative, two pullbacks take its place (`_by_pullbacks`). Also in
    `torch.inference_mode`, where forward derivatives of torch 2.4 are zero.
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
    """Return function(at) and J direction as the pullback of c -> J^T c, which is linear. Cost: some 3 gradients."""
    value, pull = torch.func.vjp(function, at)
    _, forward = torch.func.vjp(lambda cotangents: pull(cotangents)[0], tree_map(torch.zeros_like, value))
    derivative: T = forward(direction)[0]
    return value, derivative


def transposed_derivative(function: Callable[[Tensor], Tensor], at: Tensor, vector: Tensor) -> Tensor:
    """Return the transposed Jacobian of a function (..., D) -> (..., D), row by row, times vectors (..., D)."""
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
        # Rows, then transposed: with out_dims=-1 torch 2.13 gives a constant derivative a shape from nowhere.
        matrix: Tensor = torch.func.vmap(lambda vector: forward_derivative(gradient, at, vector)[1])(vectors).mT
        return matrix


@functools.cache
def load_forward_mode() -> None:
    """Load torch's forward mode, which warns about a deprecation of torch's own: an error under `python -W error`.

    One filter for this message only goes into the list of filters and out again. `warnings.catch_warnings` would put
    back a copy of the whole list, and so undo what another thread changes meanwhile.
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
