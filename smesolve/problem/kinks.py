"""Operations in a loss whose first derivative jumps.

If the gradient jumps, the theorems of weak order do not apply, ODE solvers of high order take tiny steps (and stop
where the path slides along a jump), and formulas made of derivatives leave out the effect of the jumps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smesolve.problem.problem import Problem

__all__ = ["kinks"]

SAME_NAME = (
    "abs", "clamp", "cummax", "cummin", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "kthvalue",
    "leaky_relu", "max", "maximum", "median", "min", "minimum", "mode", "relu", "softshrink", "sort", "threshold",
    "topk",
)  # fmt: skip
KINKED = {name: name for name in SAME_NAME} | {
    "adaptive_max_pool2d": "max_pool",
    "adaptive_max_pool3d": "max_pool",
    "amax": "max",
    "amin": "min",
    "aminmax": "max",
    "clamp_max": "clamp",
    "clamp_min": "clamp",
    "fmax": "maximum",
    "fmin": "minimum",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "nanmedian": "median",
    "_prelu_kernel": "prelu",
}
"""Operations whose first derivative jumps, as torch dispatches them, and the names by which users know them."""


def kinks(problem: Problem, theta: Tensor) -> list[str]:
    """Return the names of the operations in R_S whose first derivative jumps; theta (D,). Cost: one forward pass.

    A kink that is made of comparisons (`torch.where`) is not found, nor is an operation whose value jumps, such as
    `torch.sign`.
    """
    with _Operations() as operations:
        problem.loss(theta)
    return sorted(operations.seen)


class _Operations(TorchDispatchMode):
    """Records the operations with kinks that torch dispatches, also under `torch.func`."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # by name: type checkers find no annotations through super()
        self.seen: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from loading its compiler, which takes over a second, in order not to compile this mode."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in KINKED:
            self.seen.add(KINKED[name])
        elif name == "elu" and _elu_jumps(*args[1:]):
            self.seen.add("elu")
        elif name == "linalg_vector_norm" and _norm_jumps(*args[1:2]):
            self.seen.add("norm")
        return func(*args, **(kwargs or {}))


def _elu_jumps(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> bool:
    """Return whether the slope of scale alpha (exp(input_scale x) - 1) at x = 0 differs from scale, as in selu."""
    return alpha * input_scale != 1


def _norm_jumps(order: float = 2.0) -> bool:
    """Return whether the p-norm has kinks besides the one at 0, as the sum and the maximum of absolute values have."""
    return order <= 1 or math.isinf(order)
