"""Kinds of values that an argument may have."""

from __future__ import annotations

import collections.abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from smesolve.errors import SmesolveError, invalid, shown
from smesolve.rounded_number import as_numbers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "MOST",
    "MOST_ENTRIES",
    "AnyOf",
    "Argument",
    "Called",
    "Instance",
    "Integer",
    "Items",
    "Mapped",
    "Number",
    "Parameters",
    "SymbolOr",
]

Argument = Callable[[str, Any, Mapping[str, Any]], Any]
"""(name, value, all arguments by name) -> the value as the function takes it; raises where it cannot."""

LARGEST = 1e100
"""Numbers and their inverses are not larger, so that products of three of them are floats."""

MOST = 2**53
"""Sizes and counts are not larger: beyond, floats are not exact."""

MOST_ENTRIES = 1000
"""Learning rates, observables or other entries that one study lists, at most: each is work of its own."""


@dataclass(frozen=True)
class Integer:
    """An integer from `least` to `most`."""

    least: int
    remedy: str = ""
    most: int = MOST

    @property
    def words(self) -> str:
        """What it must be."""
        if self.least == -MOST:
            return "an integer"
        return "a positive integer" if self.least == 1 else f"an integer of at least {self.least}"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> int:
        """As a Python integer."""
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if whole and value > self.most:
            raise invalid(name, f"be at most {self.most if self.most < 10**6 else format(self.most, '.0e')}", value)
        if not whole or value < self.least:
            raise invalid(name, f"be {self.words}", value, self.remedy)
        return int(value)


@dataclass(frozen=True)
class Number:
    """A finite number above `low` (or from `low` on, where `closed`) and below `high` (or up to it)."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    """Whether `low` itself is allowed."""
    up_to: bool = False
    """Whether `high` itself is allowed."""
    remedy: str = ""

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> float:
        """As it is, or a `RoundedNumber` where it was given in a lower precision than float64."""
        number = _as_float(value)
        above = self.low <= number if self.closed else self.low < number
        below = number <= self.high if self.up_to else number < self.high
        if not (above and below and math.isfinite(number)):
            must = f"lie in {self._interval}" if math.isfinite(self.high) else f"be {self.words}"
            raise invalid(name, must, value, self.remedy)
        if number and not 1 / LARGEST <= abs(number) <= LARGEST:
            must = f"{'be 0 or ' if self.low < 0 or self.closed else ''}have a size from {1 / LARGEST:g} to {LARGEST:g}"
            raise invalid(name, must, value, "products of others overflow or vanish")
        if isinstance(value, np.floating) and not isinstance(value, float):
            return as_numbers(value.reshape(1))[0]
        return value

    @property
    def words(self) -> str:
        """What it must be."""
        if math.isfinite(self.high):
            return f"a number in {self._interval}"
        if not math.isfinite(self.low):
            return "a finite number"
        if self.closed:
            return f"a number of at least {self.low:g}"
        return f"a number above {self.low:g}" if self.low else "a positive number"

    @property
    def _interval(self) -> str:
        return f"{'[' if self.closed else '('}{self.low:g}, {self.high:g}{']' if self.up_to else ')'}"


def _as_float(value: Any) -> float:
    """NaN for whatever is not a real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class SymbolOr:
    """A number of a kind, or a sympy expression with symbols."""

    number: Number

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As it is; numbers of sympy are checked as numbers."""
        if not hasattr(value, "free_symbols"):
            return self.number(name, value, given)
        if not getattr(value, "is_commutative", False) or not hasattr(value, "is_number"):
            raise invalid(name, f"be {self.number.words} or a sympy expression", value)
        if value.is_number:
            self.number(name, float(value) if value.is_real else math.nan, given)
        return value


# --- tensors of parameters ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """Parameters of a problem, a tensor whose last dimension is D.

    The problem is the argument of that name, the first one of `problems`, or that of `self` or `sde`.

    Args:
        lead: names of the dimensions before D; None for any.
        values: check that all are finite, and hand them on without their graph.
        last: name of the last dimension, where there is no problem.
    """

    lead: tuple[str, ...] | None = ()
    values: bool = True
    last: str = "D"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
        """As it is, or detached."""
        import torch  # here, as configurations and --help do without it

        problem = _problem_of(given)
        dim, dtype, device = (self.last, torch.float64, None) if problem is None else _place(problem)
        lead = ("...",) if self.lead is None else self.lead
        shape = f"({', '.join(map(str, (*lead, dim)))}{',' if not lead else ''})"
        fits = (
            isinstance(value, torch.Tensor) and value.layout == torch.strided and value.ndim > 0 and value.numel() > 0
        )
        fits = fits and (self.lead is None or value.ndim == 1 + len(self.lead))
        fits = fits and (problem is None or value.shape[-1] == dim)
        if not fits:
            what = "one parameter vector" if self.lead == () else "a tensor"
            remedy = "convert it by torch.from_numpy" if isinstance(value, np.ndarray) else ""
            if isinstance(value, torch.Tensor) and value.layout != torch.strided:
                what, remedy = "a strided tensor", "convert it by .to_dense()"
            raise invalid(name, f"be {what} of shape {shape}", value, remedy)
        if value.dtype != dtype and (problem is not None or value.dtype != torch.float32):
            raise invalid(name, f"be {dtype}", value, f"convert it by {name}.to({dtype})")
        if device is not None and value.device.type != device.type:
            raise invalid(name, f"be on {device} as the problem is", value.device, f"move it by {name}.to({device})")
        if value.is_inference():  # of which no derivative can be taken
            value = value.clone()
        if not self.values:
            return value
        if not value.is_meta and not bool(value.isfinite().all()):
            raise SmesolveError(f"{name} has values that are NaN or infinite; start from finite parameters.")
        if not value.is_meta and float(value.abs().max()) > math.sqrt(torch.finfo(value.dtype).max / value.numel()):
            raise SmesolveError(
                f"{name} has values up to {float(value.abs().max()):g}, whose squares overflow in {value.dtype}; start "
                "from smaller parameters."
            )
        return value.detach()


def _problem_of(given: Mapping[str, Any]) -> Any:
    if "problem" in given:
        return given["problem"]
    if "problems" in given:
        return next(iter(given["problems"].values()))
    for owner in ("self", "sde"):
        found = getattr(given.get(owner), "problem", None)
        if found is None and hasattr(given.get(owner), "draw_dim"):
            found = given[owner]
        if found is not None:
            return found
    return None


def _place(problem: Any) -> tuple[int, torch.dtype, torch.device]:
    return problem.dim, problem.dtype, problem.device


# --- from type hints ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """An instance of one of the classes."""

    kinds: tuple[type, ...]
    words: str
    remedy: str = ""

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As it is."""
        if not isinstance(value, self.kinds):
            raise invalid(name, f"be {self.words}", value, self.remedy)
        return value


@dataclass(frozen=True)
class Called:
    """Anything that can be called."""

    words = "a callable"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As it is."""
        if not callable(value):
            raise invalid(name, f"be {self.words}", value)
        return value


@dataclass(frozen=True)
class Items:
    """A sequence, or an array or tensor of one dimension; text is none."""

    item: Argument | None
    filled: bool = False
    """At least one value is needed."""
    size: int | None = None
    """So many values are needed."""
    words = "a sequence, such as a list"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As a list of its items as their kind has them."""
        if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):  # an array, a tensor, a column of a table
            value = as_numbers(value)
        if not isinstance(value, collections.abc.Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
            raise invalid(name, "be a sequence", value, "put it into a list")
        if self.filled and not len(value):
            raise invalid(name, "hold at least one value", value)
        if self.size is not None and len(value) != self.size:
            raise invalid(name, f"hold {self.size} values", value)
        if self.item is None:
            return value
        if isinstance(value, range) and len(value) > 2**20:
            raise invalid(name, f"hold at most {2**20} values", value)
        return [self.item(f"{name}[{k}]", entry, given) for k, entry in enumerate(value)]


@dataclass(frozen=True)
class Mapped:
    """A mapping whose values are of one kind."""

    item: Argument | None
    filled: bool = False
    words = "a mapping"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As a dict of its values as their kind has them."""
        if not isinstance(value, collections.abc.Mapping):
            raise invalid(name, "be a mapping", value, "give a dict")
        if self.filled and not len(value):
            raise invalid(name, "hold at least one entry", value)
        if self.item is None:
            return value
        return {key: self.item(f"{name}[{shown(key)}]", entry, given) for key, entry in value.items()}


@dataclass(frozen=True)
class AnyOf:
    """A value of one of several kinds."""

    options: tuple[Any, ...]

    @property
    def words(self) -> str:
        """What the kinds say, in turn."""
        return " or ".join(option.words.rstrip(",") for option in self.options)

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        """As the first kind that it is one of has it."""
        for option in self.options:
            if _of_kind(option, name, value, given):
                return option(name, value, given)
        raise invalid(name, f"be {self.words}", value)


def _of_kind(option: Argument, name: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Whether a value is of the option's sort; what it holds is checked with the option's own words."""
    shallow = type(option)(None) if isinstance(option, (Items, Mapped)) else option
    try:
        shallow(name, value, given)
    except ValueError:
        return False
    return True
