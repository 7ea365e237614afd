"""What public functions ask of their arguments, checked before anything is computed.

A name means the same everywhere in the package, so one table, `MEANINGS`, says what values an argument of that name may
have; what is not in the table is checked against its type hint. `checked` puts both in front of a function or of a
class's constructor. A bad value is answered by one sentence that names the argument, says what it must be, and shows
what was given. Some microseconds a call: for what users call, not for what runs in every step.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import opcode
import os
import reprlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Argument",
    "Instance",
    "Integer",
    "Number",
    "Parameters",
    "SymbolOr",
    "check_fields",
    "check_numbers_fit",
    "checked",
    "evaluated",
    "is_own_sentence",
    "machine_memory",
    "shown",
]

F = TypeVar("F", bound=Callable[..., Any])

Argument = Callable[[str, Any, Mapping[str, Any]], Any]
"""(name, value, all arguments by name) -> the value as the function takes it; raises where it cannot."""

MOST = 2**53
"""Sizes and counts are not larger: beyond, floats are not exact."""


def shown(value: Any) -> str:
    """A value in one short line, however large, deep or odd it is."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _refuse(name: str, must: str, value: Any, remedy: str = "") -> ValueError:
    return ValueError(f"{name} must {must.rstrip(',')}, got {shown(value)}{'; ' if remedy else ''}{remedy}.")


# --- numbers -----------------------------------------------------------------------------------------------------


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
            raise _refuse(name, f"be at most {self.most if self.most < 10**6 else format(self.most, '.0e')}", value)
        if not whole or value < self.least:
            raise _refuse(name, f"be {self.words}", value, self.remedy)
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
        """As it is."""
        number = _as_float(value)
        above = self.low <= number if self.closed else self.low < number
        below = number <= self.high if self.up_to else number < self.high
        if not (above and below and math.isfinite(number)):
            must = f"lie in {self._interval}" if math.isfinite(self.high) else f"be {self.words}"
            raise _refuse(name, must, value, self.remedy)
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
            raise _refuse(name, f"be {self.number.words} or a sympy expression", value)
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
        problem = _problem_of(given)
        dim, dtype, device = (self.last, torch.float64, None) if problem is None else _place(problem)
        lead = ("...",) if self.lead is None else self.lead
        shape = f"({', '.join(map(str, (*lead, dim)))}{',' if not lead else ''})"
        fits = isinstance(value, Tensor) and value.layout == torch.strided and value.ndim > 0 and value.numel() > 0
        fits = fits and (self.lead is None or value.ndim == 1 + len(self.lead))
        fits = fits and (problem is None or value.shape[-1] == dim)
        if not fits:
            what = "one parameter vector" if self.lead == () else "a tensor"
            raise _refuse(name, f"be {what} of shape {shape}", value)
        if value.dtype != dtype and (problem is not None or value.dtype != torch.float32):
            raise _refuse(name, f"be {dtype}", value, f"convert it by {name}.to({dtype})")
        if device is not None and value.device.type != device.type:
            raise _refuse(name, f"be on {device} as the problem is", value.device, f"move it by {name}.to({device})")
        if not self.values:
            return value
        if not value.is_meta and not bool(value.isfinite().all()):
            raise ValueError(f"{name} has values that are NaN or infinite; start from finite parameters.")
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
            raise _refuse(name, f"be {self.words}", value, self.remedy)
        return value


@dataclass(frozen=True)
class _Called:
    words = "a callable"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        if not callable(value):
            raise _refuse(name, f"be {self.words}", value)
        return value


@dataclass(frozen=True)
class _Items:
    """A sequence, or an array or tensor of one dimension; text is none."""

    item: Argument | None
    filled: bool = False
    """At least one value is needed."""
    size: int | None = None
    """So many values are needed."""
    words = "a sequence, such as a list"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):  # an array, a tensor, a column of a table
            value = value.tolist()
        if not isinstance(value, collections.abc.Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
            raise _refuse(name, "be a sequence", value, "put it into a list")
        if self.filled and not len(value):
            raise _refuse(name, "hold at least one value", value)
        if self.size is not None and len(value) != self.size:
            raise _refuse(name, f"hold {self.size} values", value)
        if self.item is None:
            return value
        if isinstance(value, range) and len(value) > 2**20:
            raise _refuse(name, f"hold at most {2**20} values", value)
        return [self.item(f"{name}[{k}]", entry, given) for k, entry in enumerate(value)]


@dataclass(frozen=True)
class _Mapped:
    item: Argument | None
    filled: bool = False
    words = "a mapping"

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        if not isinstance(value, collections.abc.Mapping):
            raise _refuse(name, "be a mapping", value, "give a dict")
        if self.filled and not len(value):
            raise _refuse(name, "hold at least one entry", value)
        if self.item is None:
            return value
        return {key: self.item(f"{name}[{shown(key)}]", entry, given) for key, entry in value.items()}


@dataclass(frozen=True)
class _AnyOf:
    options: tuple[Any, ...]

    @property
    def words(self) -> str:
        return " or ".join(option.words.rstrip(",") for option in self.options)

    def __call__(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        for option in self.options:
            if _of_kind(option, name, value, given):
                return option(name, value, given)
        raise _refuse(name, f"be {self.words}", value)


def _of_kind(option: Argument, name: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Whether a value is of the option's sort; what it holds is checked with the option's own words."""
    shallow = type(option)(None) if isinstance(option, (_Items, _Mapped)) else option
    try:
        shallow(name, value, given)
    except ValueError:
        return False
    return True


EXAMPLES = {
    "Law": "BernoulliMasks(keep_prob)",
    "MaskLaw": "BernoulliMasks(keep_prob)",
    "Problem": "a DropoutProblem",
    "DropoutNetwork": "a TwoLayerNetwork, or a FeatureNetwork of your own layers",
}
"""Of classes that have no objects of their own."""


def _article(kind: type) -> str:
    name = f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__
    example = f", such as {EXAMPLES[name]}," if name in EXAMPLES else ""
    return f"a{'n' if name[0] in 'AEIOU' else ''} {name}{example}"


_BASIC: dict[Any, Any] = {
    bool: Instance((bool,), "True or False"),
    int: Integer(-MOST),
    float: Number(),
    str: Instance((str,), "a text"),
    np.ndarray: Instance((np.ndarray,), "an array"),
    Tensor: Instance((Tensor,), "a tensor"),
}


def _from_hint(hint: Any, meaning: Argument | None) -> Any:
    """The check for a type hint, `meaning` in place of the numbers and tensors in it; None where nothing is asked."""
    if hint is Any or isinstance(hint, TypeVar) or isinstance(meaning, _Items):
        return meaning
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [part for part in parts if part is not type(None)]
        if meaning is not None and not any(get_origin(part) in _HOLDERS for part in options):
            return meaning
        inner = [_from_hint(part, meaning) for part in options]
        if None in inner:
            return None
        return inner[0] if len(inner) == 1 else _AnyOf(tuple(inner))
    if origin is Literal:
        return Instance((str,), " or ".join(map(repr, parts)))
    if origin in (collections.abc.Sequence, list):
        return _Items(_from_hint(parts[0], meaning), filled=True)
    if origin is tuple:
        if parts[1:] == (...,):
            return _Items(_from_hint(parts[0], meaning), filled=True)
        same = all(part == parts[0] for part in parts)
        return _Items(_from_hint(parts[0], meaning) if same else None, size=len(parts))
    if origin in (collections.abc.Mapping, dict):
        return _Mapped(_from_hint(parts[1], meaning), filled=meaning is not None)
    if origin is collections.abc.Callable or hint is Callable:
        return _Called()
    if meaning is not None:
        return meaning
    if hint in _BASIC:
        return _BASIC[hint]
    kind = origin or hint
    if inspect.isclass(kind) and not getattr(kind, "_is_protocol", False):
        return Instance((kind,), _article(kind))
    return None


_HOLDERS = (collections.abc.Sequence, list, tuple, collections.abc.Mapping, dict)


def _allows_none(hint: Any) -> bool:
    return hint is Any or type(None) in get_args(hint)


# --- the table ---------------------------------------------------------------------------------------------------

POINTS = Parameters(None, values=False)
"""Parameters with any leading dimensions, differentiable: NaN is answered by NaN."""

POSITIVE, NOT_NEGATIVE = Number(0.0), Number(0.0, closed=True)
COUNT, INDEX = Integer(1), Integer(0)
ENSEMBLE = Integer(2)
"""Paths, where their mean has an error bar."""
EXPRESSION = SymbolOr(Number())
OBSERVABLE = _AnyOf((Instance((str,), "a name such as 'loss'"), _Called()))
KEEP_PROB = Number(
    0.0,
    1.0,
    up_to=True,
    remedy="it is the probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob)",
)


def _dtype(name: str, value: Any, given: Mapping[str, Any]) -> torch.dtype:
    if not isinstance(value, torch.dtype) or value not in (torch.float32, torch.float64):
        raise _refuse(name, "be torch.float64 or torch.float32", value)
    return value


def _device(name: str, value: Any, given: Mapping[str, Any]) -> torch.device:
    if isinstance(value, (str, torch.device)):
        try:
            return torch.empty(0, device=value).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise _refuse(name, "be a device that is there", value, f"take cpu ({reason})") from None
    raise _refuse(name, "be a torch device such as 'cpu'", value)


def _anything(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    return value


MEANINGS: dict[str, Argument] = {
    # numbers
    "ts": _Items(Number(), filled=True),
    "times": _Items(POSITIVE, filled=True),
    "lr": POSITIVE,
    "lrs": POSITIVE,
    "dt": POSITIVE,
    "horizon": POSITIVE,
    "keep_prob": KEEP_PROB,
    "keep_probs": KEEP_PROB,
    "rel_tol": Number(0.0, 1.0, remedy="0.1 asks for errors known to 10%"),
    "tolerance": Number(0.0, 1.0, remedy="0.02 asks for errors under 2%"),
    "max_memory": POSITIVE,
    "multiples": POSITIVE,
    "relaxations": POSITIVE,
    "friction": SymbolOr(NOT_NEGATIVE),
    "scale": POSITIVE,
    "rise": POSITIVE,
    "tol": Number(0.0, 1.0),
    "variance": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "label_noise": NOT_NEGATIVE,
    "parameter_noise": NOT_NEGATIVE,
    # integers
    "orders": _AnyOf((COUNT, Instance((str,), "'quadratic'"))),
    "seed": Integer(0, most=2**64 - 1),
    "block": INDEX,
    "keep": INDEX,
    "save": INDEX,
    "paths": COUNT,
    "max_paths": COUNT,
    "quadratic_paths": Integer(2),
    "populations": Integer(2),
    "steps": COUNT,
    "substeps": COUNT,
    "count": COUNT,
    "kappas": COUNT,
    "factors": COUNT,
    "widths": COUNT,
    "width": COUNT,
    "in_features": COUNT,
    "out_features": COUNT,
    "hidden": COUNT,
    "samples": COUNT,
    "batch": COUNT,
    "batch_size": COUNT,
    "noise_dim": INDEX,
    "workers": Integer(1, "leave it out to run in this process", most=2**12),
    "threads": Integer(1, most=2**12),
    "runs": Integer(2),
    "checkpoints": Integer(2),
    "layers": COUNT,
    "depth": COUNT,
    "probes": COUNT,
    "draws": COUNT,
    "directions": COUNT,
    "eigenpairs": COUNT,
    # observables, whose names `named_observables` knows
    "observable": OBSERVABLE,
    "observables": OBSERVABLE,
    # tensors
    "theta0": Parameters(),
    "theta": Parameters(),
    "starts": Parameters(("B",)),
    "states": Parameters(("T", "B")),
    # places
    "dtype": _dtype,
    "device": _device,
    # data: `finite_data` says what they must be, and turns them into tensors
    "x": _anything,
    "y": _anything,
}
"""What an argument of a name must be, in every function that `checked` guards and that does not say otherwise."""


MAY_BE_EMPTY = ("constants",)
"""Sequences that need not hold anything."""

# --- guarding ----------------------------------------------------------------------------------------------------


@overload
def checked(function: F) -> F: ...
@overload
def checked(**meanings: Argument | None) -> Callable[[F], F]: ...


def checked(function: Any = None, **meanings: Argument | None) -> Any:
    """Guard a function, a method, or the constructor of a class.

    Args:
        function: what is guarded.
        meanings: of arguments that do not have here what their name means elsewhere; None for the type hint alone.

    Raises:
        ValueError: by the guarded function, for the first argument that is not what it must be.
    """
    if function is None:
        return functools.partial(_guard, meanings)
    return _guard({}, function)


def _guard(meanings: Mapping[str, Argument | None], function: Any) -> Any:
    if inspect.isclass(function):
        setattr(function, "__init__", _guard(meanings, function.__init__))  # noqa: B010 (a type checker asks for it)
        return function
    signature = inspect.signature(function)

    @functools.cache
    def checks() -> dict[str, tuple[Argument, bool]]:
        """On the first call, as type hints may name what is defined further down."""
        return _checks(get_type_hints(inspect.unwrap(function)), meanings)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        for name, (check, optional) in checks().items():
            if name in given and not (optional and given[name] is None):
                given[name] = check(name, given[name], given)
        return function(*bound.args, **bound.kwargs)

    return guarded


def _checks(hints: Mapping[str, Any], meanings: Mapping[str, Argument | None]) -> dict[str, tuple[Argument, bool]]:
    """By name, the check and whether None is allowed."""
    found = {}
    for name, hint in hints.items():
        check = _from_hint(hint, {**MEANINGS, **meanings}.get(name))
        if name in MAY_BE_EMPTY and isinstance(check, _Items):
            check = dataclasses.replace(check, filled=False)
        if name != "return" and check is not None:
            found[name] = check, _allows_none(hint)
    return found


def check_fields(instance: Any, prefix: str = "", **meanings: Argument | None) -> None:
    """Check the fields of a dataclass as `checked` does arguments, under the names prefix + field.

    A list that is empty unless given may be empty.

    Raises:
        ValueError: for the first field that is not what it must be.
    """
    values = vars(instance)
    empty = {field.name for field in dataclasses.fields(instance) if values[field.name] == [] and not _filled(field)}
    for name, (check, optional) in _checks(get_type_hints(type(instance)), meanings).items():
        if not (optional and values[name] is None) and name not in empty:
            check(prefix + name, values[name], values)


def _filled(field: dataclasses.Field[Any]) -> bool:
    """Whether the default of a list is not empty."""
    return field.default_factory is dataclasses.MISSING or bool(field.default_factory())


def evaluated(what: str, function: Callable[..., Any], *values: Any) -> Any:
    """function(*values), where the function is the user's: whatever it raises becomes one sentence.

    Raises:
        ValueError: `what` failed, and how.
    """
    try:
        return function(*values)
    except Exception as error:
        if is_own_sentence(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{what} must be callable here, but a trial call of it failed ({type(error).__name__}: {reason})."
        ) from error


def is_own_sentence(error: BaseException) -> bool:
    """Whether a `raise` statement of this package raised the error: its messages are sentences for users.

    What a library raises is a defect here, also where it is written in C and leaves no frame of its own.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    inside = os.path.dirname(code.co_filename).startswith(os.path.dirname(__file__))
    return inside and code.co_code[trace.tb_lasti] == _RAISE


_RAISE = opcode.opmap["RAISE_VARARGS"]


# --- memory ------------------------------------------------------------------------------------------------------


@functools.cache
def machine_memory() -> float:
    """Bytes of this machine's memory; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_numbers_fit(what: str, numbers: float, remedy: str) -> None:
    """Refuse arrays of more numbers (8 bytes each) than this machine's memory holds.

    Raises:
        ValueError: they do not fit.
    """
    if 8 * numbers > machine_memory():
        raise ValueError(
            f"{what} would take {8 * numbers:.2g} bytes, but this machine has {machine_memory():.2g}; {remedy}."
        )
