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
    "clamp": "clamp",
    "clamp_max": "clamp",
    "clamp_min": "clamp",
    "hardshrink": "hardshrink",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "hardtanh": "hardtanh",
    "leaky_relu": "leaky_relu",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "maximum": "maximum",
    "minimum": "minimum",
    "_prelu_kernel": "prelu",
    "relu": "relu",
    "softshrink": "softshrink",
    "threshold": "threshold",
}
"""Operations whose first derivative jumps, as torch dispatches them, and what their users call them."""


def kinks(problem: Problem, theta: Tensor) -> list[str]:
    """Names of the operations in R_S whose first derivative jumps; theta (D,). Cost: one forward pass.

    A kink that is put together of comparisons (`torch.where`) is not seen.
    """
    with _Operations() as operations:
        problem.loss(theta)
    return sorted({KINKED[name] for name in operations.seen & KINKED.keys()})


class _Operations(TorchDispatchMode):
    """Names of all operations that torch dispatches, whatever they were called by and under any `torch.func`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen.add(func.overloadpacket.__name__.removesuffix("_"))
        return func(*args, **(kwargs or {}))
