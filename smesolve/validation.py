"""Validators: each checks one argument and returns it in the form that the calling function uses.

Public functions call them first, before anything is computed. Every validator takes the argument's name and its value
and raises `SmesolveError` with one sentence that names the argument, says what it must be, and shows what was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from smesolve.errors import SmesolveError, invalid, shown
from smesolve.rounded_number import as_numbers, is_real, plain_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from smesolve.problem.problem import Problem

__all__ = [
    "LARGEST_INTEGER",
    "LARGEST_NUMBER",
    "LONGEST_RANGE",
    "MOST_ENTRIES",
    "check_callable",
    "check_choice",
    "check_device",
    "check_diffusion_order",
    "check_dtype",
    "check_expression",
    "check_flag",
    "check_instance",
    "check_integer",
    "check_keep_prob",
    "check_list",
    "check_mapping",
    "check_not_negative",
    "check_number",
    "check_observable",
    "check_observables",
    "check_optional",
    "check_parameters",
    "check_positive",
    "check_problem",
    "check_seed",
    "check_tensor",
    "check_tolerance",
    "check_weak_order",
    "check_workers",
]

T = TypeVar("T")

LARGEST_NUMBER = 1e100
"""Largest number, and largest inverse of a number, so that products of three of them are floats."""

LARGEST_INTEGER = 2**53
"""Largest size or count: beyond it, floats are not exact."""

LONGEST_RANGE, MOST_ENTRIES = 2**20, 1000
"""Most values of a `range`, and most learning rates, observables or other entries of a list of a study."""

# --- numbers ---------------------------------------------------------------------------------------------------------


def check_integer(name: str, value: Any, least: int = 1, most: int = LARGEST_INTEGER, remedy: str = "") -> int:
    """Return an integer from `least` to `most`."""
    whole = is_real(value) and isinstance(value, (int, np.integer))
    if whole and value > most:
        raise invalid(name, f"be at most {most}", value, remedy)
    if not whole or value < least:
        if least == -LARGEST_INTEGER:
            must = "an integer"
        else:
            must = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise invalid(name, f"be {must}", value, remedy)
    return int(value)


def check_seed(name: str, value: Any) -> int:
    """Return a root seed, an integer from 0 to 2^64 - 1."""
    return check_integer(name, value, 0, 2**64 - 1)


def check_workers(name: str, value: Any) -> int | None:
    """Return a number of processes, or None for the calling process."""
    return None if value is None else check_integer(name, value, 1, 2**12, "leave it out to run in this process")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_allowed: bool = False,
    high_allowed: bool = False,
    remedy: str = "",
) -> float:
    """Return a finite number between `low` and `high`; the ends belong to the interval where they are allowed.

    A number given in a lower precision than float64 is returned as a `RoundedNumber`.
    """
    number = _as_float(value)
    above = low <= number if low_allowed else low < number
    below = number <= high if high_allowed else number < high
    if not (above and below and math.isfinite(number)):
        raise invalid(name, _number_in_words(low, high, low_allowed, high_allowed), value, remedy)
    if number and not 1 / LARGEST_NUMBER <= abs(number) <= LARGEST_NUMBER:
        zero = "be 0 or " if low < 0 or low_allowed else ""
        must = f"{zero}have a size from {1 / LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}"
        raise invalid(name, must, value, "products of larger or smaller numbers overflow or vanish")
    checked: float = plain_number(value)
    return checked


def check_positive(name: str, value: Any) -> float:
    """Return a positive number."""
    return check_number(name, value, 0.0)


def check_not_negative(name: str, value: Any) -> float:
    """Return a number of at least 0."""
    return check_number(name, value, 0.0, low_allowed=True)


def check_keep_prob(name: str, value: Any) -> float:
    """Return a number in (0, 1], the probability that a neuron is kept."""
    remedy = "it is the probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob)"
    return check_number(name, value, 0.0, 1.0, high_allowed=True, remedy=remedy)


def check_tolerance(name: str, value: Any) -> float:
    """Return a relative tolerance, a number in (0, 1)."""
    return check_number(name, value, 0.0, 1.0, remedy="0.1 asks for 10%")


def check_weak_order(name: str, value: Any) -> Any:
    """Return the order of a modified equation: 1, 2, 3, "quadratic" or "poisson"."""
    if not isinstance(value, str):
        value = check_integer(name, value, remedy="'quadratic' names the equation that resums quadratic losses")
    if value not in (1, 2, 3, "quadratic", "poisson"):
        remedy = "order 4 would take jumps with the fourth cumulant of the noise, which is negative in general"
        raise invalid(name, "be 1, 2 or 3, or 'quadratic' or 'poisson'", value, remedy)
    return value


def check_diffusion_order(name: str, value: Any) -> Any:
    """Return the order of a modified equation that is a diffusion: 1, 2 or "quadratic"."""
    if check_weak_order(name, value) in (3, "poisson"):
        remedy = "the equation of order 3 and 'poisson' have jumps, and no diffusion has order 3"
        raise invalid(name, "be 1 or 2, or 'quadratic', here", value, remedy)
    return value


def check_expression(name: str, value: Any, check: Callable[[str, Any], float] = check_number) -> Any:
    """Return a number that `check` accepts, or a sympy expression with symbols."""
    if not hasattr(value, "free_symbols"):
        return check(name, value)
    if not getattr(value, "is_commutative", False) or not hasattr(value, "is_number"):
        raise invalid(name, "be a number or a sympy expression", value)
    if value.is_number:
        check(name, float(value) if value.is_real else math.nan)
    return value


def _number_in_words(low: float, high: float, low_allowed: bool, high_allowed: bool) -> str:
    if math.isfinite(high):
        return f"lie in {'[' if low_allowed else '('}{low:g}, {high:g}{']' if high_allowed else ')'}"
    if not math.isfinite(low):
        return "be a finite number"
    if low_allowed:
        return f"be a number of at least {low:g}"
    return f"be a number above {low:g}" if low else "be a positive number"


def _as_float(value: Any) -> float:
    """Return NaN for whatever is not a real number."""
    if not is_real(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


# --- choices and objects ---------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """Return one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise invalid(name, f"be one of {', '.join(map(repr, choices))}", value)
    return value


def check_instance(name: str, value: Any, kinds: type[T] | tuple[type[T], ...], words: str, remedy: str = "") -> T:
    """Return an instance of one of the classes, which `words` describe: "a Problem, such as a DropoutProblem"."""
    if not isinstance(value, kinds):
        raise invalid(name, f"be {words}", value, remedy)
    return value


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    return check_instance(name, value, bool, "True or False")


def check_callable(name: str, value: Any) -> Callable[..., Any]:
    """Return a callable."""
    if not callable(value):
        raise invalid(name, "be a callable", value)
    function: Callable[..., Any] = value
    return function


def check_optional(name: str, value: Any, check: Callable[[str, Any], T]) -> T | None:
    """Return None, or a value that `check` accepts."""
    return None if value is None else check(name, value)


def check_problem(name: str, value: Any) -> Problem:
    """Return a problem that defines everything that a problem must define."""
    from smesolve.problem.problem import Problem

    problem = check_instance(name, value, Problem, "a Problem, such as a DropoutProblem")
    problem.check()
    return problem


# --- collections -----------------------------------------------------------------------------------------------------


def check_list(
    name: str,
    values: Any,
    check_item: Callable[[str, Any], T] | None = None,
    *,
    least: int = 1,
    size: int | None = None,
    distinct: bool = False,
) -> list[T]:
    """Return a list of validated items, from a sequence or from an array or tensor of one dimension.

    Args:
        name: of the argument; item k is called name[k].
        values: the items.
        check_item: validator of one item. Default: items are not checked.
        least: smallest number of items.
        size: exact number of items. Default: any number.
        distinct: refuse a value that occurs twice.
    """
    if getattr(values, "ndim", None) == 1 and hasattr(values, "tolist"):  # an array, a tensor, a column of a table
        values = as_numbers(values)
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes, bytearray, memoryview)):
        raise invalid(name, "be a sequence", values, "put it into a list")
    if len(values) < least:
        raise invalid(name, f"hold at least {'one value' if least == 1 else f'{least} values'}", values)
    if size is not None and len(values) != size:
        raise invalid(name, f"hold {size} values", values)
    if len(values) > LONGEST_RANGE and isinstance(values, range):
        raise invalid(name, f"hold at most {LONGEST_RANGE} values", values)
    if check_item is None:
        return list(values)
    items = [check_item(f"{name}[{k}]", entry) for k, entry in enumerate(values)]
    if distinct and len(set(items)) < len(items):
        raise SmesolveError(f"{name} holds a value twice: {shown(items)}; leave one of them out.")
    return items


def check_mapping(
    name: str, values: Any, check_item: Callable[[str, Any], T] | None = None, *, least: int = 1
) -> dict[Any, T]:
    """Return a dict of validated values."""
    if not isinstance(values, Mapping):
        raise invalid(name, "be a mapping", values, "give a dict")
    if len(values) < least:
        raise invalid(name, "hold at least one entry", values)
    return {
        key: value if check_item is None else check_item(f"{name}[{shown(key)}]", value)
        for key, value in values.items()
    }


def check_observable(name: str, value: Any) -> Any:
    """Return an observable, a function or a name such as "loss", which the registry of observables checks."""
    if not isinstance(value, str) and not callable(value):
        raise invalid(name, "be a name such as 'loss' or a callable", value)
    return value


def check_observables(name: str, values: Any) -> Any:
    """Return a list of observables, or a dict from the user's names to observables."""
    if not isinstance(values, Mapping):
        return check_list(name, values, check_observable)
    checked = check_mapping(name, values, check_observable)
    wrong = [key for key in checked if not isinstance(key, str) or not key]
    if wrong:
        raise invalid(name, "have names as its keys", wrong[0], "write {'name': callable}")
    return checked


# --- tensors ---------------------------------------------------------------------------------------------------------


def check_parameters(
    name: str, value: Any, problem: Problem, lead: Sequence[str] | None = (), *, finite: bool = True
) -> Tensor:
    """Return parameters of a problem, a tensor (*lead, D) of the problem's dtype on the problem's device.

    Args:
        name: of the argument.
        value: the tensor.
        problem: whose parameters they are.
        lead: names of the dimensions before D, such as ("B",); None for any number of dimensions.
        finite: check that all values are finite, and return them without their graph. Otherwise the tensor may be part
            of a graph, and NaN is answered by NaN.
    """
    problem = check_problem("problem", problem)
    return check_tensor(name, value, problem.dim, lead, dtype=problem.dtype, device=problem.device, finite=finite)


def check_tensor(
    name: str,
    value: Any,
    last: int | str,
    lead: Sequence[str] | None = (),
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    finite: bool = True,
) -> Tensor:
    """Return a tensor (*lead, last), where `last` is a size, or the name of one that may be any.

    Args:
        name: of the argument.
        value: the tensor.
        last: size of the last dimension, or its name.
        lead: names of the dimensions before it; None for any number of dimensions.
        dtype: of the tensor. Default: torch.float64 or torch.float32.
        device: of the tensor. Default: any.
        finite: check that all values are finite, and return them without their graph.
    """
    import torch  # here: configurations and --help do without it

    shape = f"({', '.join(map(str, (*(('...',) if lead is None else lead), last)))}{',' if lead == () else ''})"
    fits = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.ndim > 0 and value.numel() > 0
    fits = fits and (lead is None or value.ndim == 1 + len(lead))
    fits = fits and (isinstance(last, str) or value.shape[-1] == last)
    if not fits:
        what = "one parameter vector" if lead == () else "a tensor"
        remedy = "convert it by torch.from_numpy" if isinstance(value, np.ndarray) else ""
        if isinstance(value, torch.Tensor) and value.layout != torch.strided:
            what, remedy = "a strided tensor", "convert it by .to_dense()"
        raise invalid(name, f"be {what} of shape {shape}", value, remedy)
    if value.dtype not in ((torch.float64, torch.float32) if dtype is None else (dtype,)):
        wanted = torch.float64 if dtype is None else dtype
        raise invalid(name, f"be {wanted}", value, f"convert it by {name}.to({wanted})")
    if device is not None and value.device.type != device.type:
        raise invalid(name, f"be on {device} as the problem is", value.device, f"move it by {name}.to({device})")
    tensor: Tensor = value.clone() if value.is_inference() else value  # no derivative can be taken of the former
    if not finite:
        return tensor
    if not tensor.is_meta and not bool(tensor.isfinite().all()):
        raise SmesolveError(f"{name} has values that are NaN or infinite; give finite ones.")
    if not tensor.is_meta and float(tensor.abs().max()) > math.sqrt(torch.finfo(tensor.dtype).max / tensor.numel()):
        raise SmesolveError(
            f"{name} has values up to {float(tensor.abs().max()):g}, whose squares overflow in {tensor.dtype}; give "
            "smaller ones."
        )
    return tensor.detach()


def check_dtype(name: str, value: Any) -> torch.dtype:
    """Return torch.float64 or torch.float32."""
    import torch

    if not isinstance(value, torch.dtype) or value not in (torch.float32, torch.float64):
        raise invalid(name, "be torch.float64 or torch.float32", value)
    return value


def check_device(name: str, value: Any) -> torch.device:
    """Return a device that this machine has."""
    import torch

    if not isinstance(value, (str, torch.device)):
        raise invalid(name, "be a torch device such as 'cpu'", value)
    try:
        return torch.empty(0, device=value).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        remedy = "take cpu, or cuda for a GPU" if "Expected one of" in reason else f"take cpu ({reason})"
        raise invalid(name, "be a device that this machine has", value, remedy) from None
