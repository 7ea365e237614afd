"""Which operations of a loss are not continuously differentiable.

Where the gradient jumps, the theorems of weak order do not speak, an ODE solver of high order crawls (and stands still
where the path slides along a jump), and what is made of derivatives leaves out what happens there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smesolve.problem.problem import Problem

__all__ = ["kinks"]

KINKED = {
    "abs": "abs",
    "adaptive_max_pool2d": "max_pool",
    "adaptive_max_pool3d": "max_pool",
    "amax": "max",
    "amin": "min",
    "aminmax": "max",
    "clamp": "clamp",
    "clamp_max": "clamp",
    "clamp_min": "clamp",
    "cummax": "cummax",
    "cummin": "cummin",
    "fmax": "maximum",
    "fmin": "minimum",
    "hardshrink": "hardshrink",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "hardtanh": "hardtanh",
    "kthvalue": "kthvalue",
    "leaky_relu": "leaky_relu",
    "max": "max",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "maximum": "maximum",
    "median": "median",
    "min": "min",
    "minimum": "minimum",
    "_prelu_kernel": "prelu",
    "relu": "relu",
    "softshrink": "softshrink",
    "sort": "sort",
    "threshold": "threshold",
    "topk": "topk",
}
"""Operations whose first derivative jumps, as torch dispatches them, and what their users call them."""


def kinks(problem: Problem, theta: Tensor) -> list[str]:
    """Return the names of the operations in R_S whose first derivative jumps; theta (D,). Cost: one forward pass.

    A kink that is put together of comparisons (`torch.where`) is not seen.
    """
    with _Operations() as operations:
        problem.loss(theta)
    return sorted(operations.seen)


class _Operations(TorchDispatchMode):
    """Record the operations with kinks that torch dispatches, also under `torch.func`."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # by name: type checkers find no annotations through super()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in KINKED:
            self.seen.add(KINKED[name])
        elif name == "elu" and _elu_jumps(*args[1:]):
            self.seen.add("elu")
        return func(*args, **(kwargs or {}))


def _elu_jumps(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> bool:
    """Return whether the slope of scale alpha (exp(input_scale x) - 1), x < 0, differs at 0 from scale: selu's does."""
    return alpha * input_scale != 1
