"""Operations in a loss or an observable whose value or first derivative jumps.

If the gradient jumps, the theorems of weak order do not apply, ODE solvers of high order take tiny steps (and stop
where the path slides along a jump), and formulas made of derivatives leave out the effect of the jumps. Where a value
jumps, torch's derivative leaves out the jump itself, and with it a part of the change of the mean.

Operations with kinks and jumps of their own are known by name. Others switch: a comparison, or an index such as that of
`torch.argmax`, chooses between values (`torch.where`). The two values may join smoothly, at a kink, or at a jump. This
is decided at a switch itself: two parameters between which it happens are brought together by bisection until they are
equal up to rounding. A value, or a gradient, that still differs between them jumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smesolve.problem.problem import Problem
from smesolve.problem.reverse_derivative import value_and_gradient

__all__ = ["jumps", "kinks"]

KINKED = {
    name: name
    for name in (
        "abs", "clamp", "cummax", "cummin", "hardsigmoid", "hardswish", "hardtanh", "kthvalue", "leaky_relu", "max",
        "maximum", "median", "min", "minimum", "mode", "relu", "softshrink", "sort", "threshold", "topk",
    )
}  # fmt: skip
KINKED |= {
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

JUMPING = {
    name: name
    for name in (
        "ceil", "floor", "floor_divide", "fmod", "frac", "hardshrink", "heaviside", "remainder", "round", "sign",
        "trunc",
    )
}  # fmt: skip
JUMPING |= {"fix": "trunc", "sgn": "sign"}
"""Operations whose value jumps, in the same way."""

REACH, POINTS = 1.0, 17
"""Switches are looked for at this number of points of a line through the parameters, whose ends are farther away by
this factor than the parameters are large."""

ROUNDING = 1e3
"""Differences between two parameters that are equal up to rounding, in units of eps, which are not taken for jumps."""


def kinks(problem: Problem, theta: Tensor) -> list[str]:
    """Return the names of the operations in R_S at which the gradient jumps; theta (D,).

    Cost: one forward pass, and some 60 of them for each operation that switches between values.
    """
    found = _Found.of(problem.loss, theta)
    return sorted(found.kinks | found.jumps)


def jumps(function: Callable[[Tensor], Tensor], theta: Tensor) -> list[str]:
    """Return the names of the operations at which the value of a function (..., D) -> (...,) jumps; theta (D,).

    The cost is that of `kinks`.
    """
    return sorted(_Found.of(function, theta).jumps)


class _Found(NamedTuple):
    """Names of operations whose first derivative jumps, and of operations whose value does."""

    kinks: set[str]
    jumps: set[str]

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], theta: Tensor) -> _Found:
        """Return what a function has at or near theta."""
        seen = _Operations.of(function, theta)
        found = cls(set(seen.kinks), set(seen.jumps))
        if seen.switches:
            for name, before, after in _switches(function, theta):
                value, slope = _change(function, before, after)
                if value:
                    found.jumps.add(name)
                elif slope and not seen.kinks:  # else it may happen at one of those, as h > 0 does at relu's
                    found.kinks.add(name)
        return found


def _switches(function: Callable[[Tensor], Tensor], theta: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Return the operations that switch along a line through theta, each with parameters (D,) on both of its sides."""
    numbers = torch.sin(torch.arange(1.0, theta.numel() + 1, dtype=torch.float64, device="cpu"))
    direction = numbers.to(theta) * REACH * (1 + theta.abs().max())

    def pattern(position: float) -> list[tuple[str, Tensor]]:
        return _Operations.of(function, theta + position * direction).switches

    places = torch.linspace(-1, 1, POINTS, dtype=torch.float64, device="cpu").tolist()
    patterns, found = [pattern(place) for place in places], []
    for index, (name, _) in enumerate(patterns[0]):
        changes = [_differ(*pair, index) for pair in pairwise(patterns)]
        if True in changes:
            first = changes.index(True)
            left, right, reference = places[first], places[first + 1], patterns[first]
            while left < (middle := (left + right) / 2) < right:
                if _differ(reference, pattern(middle), index):
                    right = middle
                else:
                    left = middle
            found.append((name, theta + left * direction, theta + right * direction))
    return found


def _differ(one: Sequence[tuple[str, Tensor]], other: Sequence[tuple[str, Tensor]], index: int) -> bool:
    """Return whether the switch of this index is not the same in both passes."""
    return index >= len(other) or one[index][0] != other[index][0] or not torch.equal(one[index][1], other[index][1])


def _change(function: Callable[[Tensor], Tensor], before: Tensor, after: Tensor) -> tuple[bool, bool]:
    """Return whether value and gradient of a function differ between parameters that are equal up to rounding."""
    eps = torch.finfo(before.dtype).eps
    slope, value = (torch.stack(pair) for pair in zip(*(_slope(function, at) for at in (before, after)), strict=True))
    moved = (slope.abs() * (after - before).abs()).sum(-1).max()
    jump = (value[1] - value[0]).abs() > ROUNDING * (eps * value.abs().max() + moved)
    return bool(jump), bool((slope[1] - slope[0]).abs().max() > eps**0.5 * slope.abs().max())


def _slope(function: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
    value, slope = value_and_gradient(function, theta)
    return slope.nan_to_num(), value


class _Operations(TorchDispatchMode):
    """Records the operations on parameters that torch dispatches, also under `torch.func`."""

    def __init__(self, theta: Tensor) -> None:
        TorchDispatchMode.__init__(self)  # by name: type checkers find no annotations through super()
        self.kinks: set[str] = set()
        self.jumps: set[str] = set()
        self._made: dict[int, tuple[str, Tensor]] = {}
        self._origins: dict[int, frozenset[int]] = {}  # of integers and truth values in those in `_made`
        self._used: set[int] = set()
        # Storages, because a view of a tensor depends on what is written into the tensor; kept, so that their
        # addresses are not used again.
        self._dependent = {_address(theta): theta}

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], theta: Tensor) -> _Operations:
        """Return the operations of a function of parameters (D,)."""
        theta = theta.detach().clone()
        operations = cls(theta)
        with operations:
            function(theta)
        return operations

    @property
    def switches(self) -> list[tuple[str, Tensor]]:
        """Integers and truth values that are made of parameters and that numbers depend on, with the operation."""
        return [switch for address, switch in self._made.items() if address in self._used]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from loading its compiler, which takes about a second, in order not to compile this mode."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [part for part in tree_leaves((args, kwargs or {})) if isinstance(part, Tensor)]
        dependent = [part for part in given if _address(part) in self._dependent]
        if not dependent:
            return result
        name = func.overloadpacket.__name__.removesuffix("_")
        self._note(name, args, kwargs or {})
        origins = frozenset().union(*(self._origins.get(_address(part), frozenset()) for part in dependent))
        from_numbers = any(part.is_floating_point() for part in dependent)
        for part in tree_leaves(result):
            if not isinstance(part, Tensor):
                continue
            address = _address(part)
            self._dependent[address] = part
            if part.is_floating_point():
                self._used |= origins
            elif from_numbers:
                self._made[address] = name, part
                self._origins[address] = origins | {address}
            else:
                self._origins[address] = origins
        return result

    def _note(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note what the name of an operation says."""
        if name in JUMPING:
            self.jumps.add(JUMPING[name])
        elif name == "div" and kwargs.get("rounding_mode") is not None:
            self.jumps.add("floor_divide")
        elif name == "threshold" and args[1] != args[2]:
            self.jumps.add(name)
        elif name in KINKED:
            self.kinks.add(KINKED[name])
        elif name == "elu" and _elu_jumps(*args[1:]):
            self.kinks.add("elu")
        elif name == "linalg_vector_norm" and _norm_jumps(*args[1:2]):
            self.kinks.add("norm")


def _address(tensor: Tensor) -> int:
    """Return what is the same for tensors with the same memory; sparse ones have none of their own."""
    return int(tensor.untyped_storage()._cdata) if torch._C._has_storage(tensor) else id(tensor)


def _elu_jumps(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> bool:
    """Return whether the slope of scale alpha (exp(input_scale x) - 1) at x = 0 differs from scale, as in selu."""
    return alpha * input_scale != 1


def _norm_jumps(order: float = 2.0) -> bool:
    """Return whether the p-norm has kinks besides the one at 0, as the sum and the maximum of absolute values have."""
    return order <= 1 or math.isinf(order)
