"""Rubbish by the kind of argument that it is given for, and what counts as an answer to it.

A kind is a strategy of values and says which of them would be right: those are not drawn.
"""

import math
import sys
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import sympy
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import smesolve

PACKAGE = Path(smesolve.__file__).parent


def answer_of(error, names):
    """Why an exception is no answer to malformed arguments of these names, or None.

    An answer is a ValueError or TypeError that a `raise` statement of smesolve raised, with one sentence in one line
    that names one of the arguments and says what it must be or what to do.
    """
    if type(error) not in (ValueError, TypeError) and not isinstance(error, smesolve.sampling.journal.JournalError):
        return f"{type(error).__name__} is no answer"
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file, positions = trace.tb_frame.f_code.co_filename, list(trace.tb_frame.f_code.co_positions())
    line, _, column, _ = positions[trace.tb_lasti // 2]
    statement = Path(file).read_text(encoding="utf-8").splitlines()[line - 1][column:]
    if not Path(file).is_relative_to(PACKAGE) or not statement.startswith("raise "):
        return f"raised by {statement!r} of {file}, line {line}"
    message = str(error)
    if "\n" in message or len(message) > 700 or not message.endswith("."):
        return "not one sentence"
    if not any(name.rstrip("0").removesuffix("s") in message for name in names):
        return f"names none of {names}"
    if not any(word in message for word in (" must ", "; ", ": ")):
        return "names no remedy"
    return None


def count_answered(malformed, key, objection, examples, derandomize):
    """Draw what is malformed until there is an objection to its answer; returns how many different keys were drawn."""
    tried = set()

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # to shrink a failure takes minutes, and says little more
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed)
    def every_one_is_answered(one):
        tried.add(key(one))
        assert (found := objection(one)) is None, found

    every_one_is_answered()
    return len(tried)


# --- rubbish -----------------------------------------------------------------------------------------------------


class Odd:
    """An object with far too many words for what it is."""

    def __repr__(self):
        return "odd\n" * 1000


def endless(depth=100):
    deep = []
    for _ in range(depth):
        deep = [deep]
    return deep


def circle():
    ring = []
    ring.append(ring)
    return ring


OBJECTS = (
    "",
    "rubbish",
    "0.1",
    "nan",
    "\x00",
    "ünïcode " * 50,
    b"bytes",
    bytearray(b"x"),
    None,
    True,
    False,
    ...,
    NotImplemented,
    object(),
    Odd(),
    Odd,
    print,
    len,
    lambda: None,
    lambda *values: None,
    lambda *values: "text",
    int,
    type,
    sys,
    1j,
    complex("nan"),
    Decimal("0.5"),
    Fraction(1, 3),
    10**400,
    -(10**400),
    2**63,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -1.5,
    0,
    0.5,
    1e300,
    -0.0,
    np.float64("nan"),
    np.int64(-3),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    [],
    (),
    {},
    set(),
    frozenset({1}),
    [[]],
    [None],
    ["a"],
    [math.nan],
    [[1], [2, 3]],
    [1, "a"],
    {"a": 1},
    {1: {2: {}}},
    circle(),
    endless(),
    range(0),
    range(10**12),
    iter([1.0]),
    slice(3),
    Path("nowhere"),
    ValueError("x"),
    np.array([]),
    np.array(0.5),
    np.array(["a"]),
    np.array([None, 1]),
    np.array([1j]),
    np.zeros((2, 0, 3)),
    np.full(3, np.nan),
    np.array([1, 2], dtype="datetime64[s]"),
    np.zeros((1, 1), dtype=[("a", float)]),
    np.ma.masked,
    np.full((1, 1), np.nan).view(np.matrix),  # the constructor warns
    torch.tensor([]),
    torch.tensor(0.1),
    torch.tensor([1 + 1j]),
    torch.tensor([True]),
    torch.tensor([1]),
    torch.zeros(2, 0),
    torch.full((3,), math.nan),
    torch.zeros(3, dtype=torch.float16),
    torch.zeros(2, 2).to_sparse(),
    torch.zeros(1, 2, 3, 4),
    torch.nn.Parameter(torch.tensor([math.inf])),
    torch.nn.Linear(1, 1),
    torch.float16,
    torch.device("meta"),
    sympy.Symbol("z"),
    sympy.nan,
    sympy.oo,
    sympy.I,
    sympy.zoo,
    pd.DataFrame(),
    pd.Series(["a"]),
    pd.Timestamp(0),
)

SCALARS = st.none() | st.text(max_size=20) | st.binary(max_size=8) | st.floats() | st.integers() | st.booleans()
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
RUBBISH = st.sampled_from(OBJECTS) | NESTED


class Kind:
    """Rubbish for one kind of argument."""

    def __init__(self, right=lambda value: False, wrong=(), general=RUBBISH):
        values = general
        if len(wrong := tuple(wrong)):
            values = st.sampled_from(wrong) | values
        self.right, self.values = right, values.filter(lambda value: not self._is_right(value))

    def _is_right(self, value):
        try:
            return bool(self.right(value))
        except (TypeError, ValueError, OverflowError, RuntimeError, RecursionError, AttributeError):
            return False


def is_number(value):
    plain = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    return plain and math.isfinite(float(value))


def is_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def number(low=-math.inf, high=math.inf, closed=False, up_to=False):
    """Not a number in the interval."""

    def right(value):
        return is_number(value) and low <= value <= high and (closed or value != low) and (up_to or value != high)

    outside = [value for value in (low - 1, high + 1, low, high, 1e300, -1e-300) if not math.isnan(value)]
    return Kind(right, outside)


def integer(least=1, most=2**53):
    """Not an integer from `least` to `most`."""
    return Kind(lambda value: is_integer(value) and least <= value <= most, [least - 1, least + 0.5, -least, 1.0, 3.7])


def either(*kinds):
    """What is wrong for each of the kinds."""
    return Kind(lambda value: any(kind._is_right(value) for kind in kinds))


def optional(kind):
    """The same, but None is right."""
    return either(Kind(lambda value: value is None), kind)


def sequence(kind, empty=False):
    """No sequence of what is right for the kind."""

    def right(value):
        flat = isinstance(value, (list, tuple, range)) or (hasattr(value, "tolist") and value.ndim == 1)
        if not flat or len(value) > 10**6 or (len(value) == 0 and not empty):
            return False
        return all(map(kind._is_right, value.tolist() if hasattr(value, "tolist") else value))

    general = st.lists(RUBBISH, min_size=1, max_size=3) | RUBBISH
    return Kind(right, general=general)


def mapping(kind, empty=True):
    """No mapping to what is right for the kind."""
    return Kind(
        lambda value: (
            isinstance(value, Mapping)
            and (empty or len(value) > 0)
            and all(kind._is_right(entry) for entry in value.values())
        )
    )


def instance(*classes):
    """Not an object of the classes."""
    return Kind(lambda value: isinstance(value, classes))


def one_of(*names):
    """None of the names."""
    return Kind(lambda value: isinstance(value, str) and value in names, [names[0].upper() + "x", names[0] + " "])


FLAG = instance(bool)
POSITIVE, NOT_NEGATIVE, SHARE = number(0), number(0, closed=True), number(0, 1)
KEEP_PROB = number(0, 1, up_to=True)
COUNT, INDEX, SEED = integer(1), integer(0), integer(0, 2**64 - 1)


def is_expression(value):
    if isinstance(value, sympy.Expr):
        return not value.is_number or (value.is_real and value.is_finite)
    return is_number(value)


EXPRESSION = Kind(is_expression)


def tensor(*shape, dtype=torch.float64, finite=True):
    """No tensor of the shape, in which None stands for any size and a leading ... for any leading dimensions."""
    lead = shape[:1] == (...,)
    sizes = shape[1:] if lead else shape

    def right(value):
        if not isinstance(value, torch.Tensor) or value.dtype != dtype or value.is_sparse:
            return False
        trailing = tuple(value.shape[len(value.shape) - len(sizes) :])
        fits = value.ndim >= len(sizes) and (lead or value.ndim == len(sizes))
        fits = fits and all(b is None or a == b for a, b in zip(trailing, sizes, strict=True))
        return fits and value.numel() > 0 and (not finite or bool(value.isfinite().all()))

    like = [3 if size is None else size for size in sizes]
    good = torch.linspace(-1, 1, math.prod(like), dtype=dtype).reshape(like)
    wrong = [
        good.float() if dtype == torch.float64 else good.double(),
        good.long(),
        good.bool(),
        good.to(torch.complex128),
        good[..., :-1],
        good[..., :0],
        torch.cat([good, good], -1),
        good.mean(),
        good.numpy(),
        good.tolist(),
        good.to_sparse(),
        good.half(),
        good.to(torch.bfloat16),
        good.flatten()[0],
        str(good),
    ]
    if not lead:
        wrong += [good[None], good[None, None]]
    if finite:
        wrong += [good * math.nan, good.clone().index_fill(-1, torch.tensor([0]), math.inf)]
    return Kind(right, wrong)


def data(samples, columns, uneven=False, any_columns=False, any_dimensions=False):
    """No data of this shape, but for what fits another argument's data of another shape."""
    good = np.linspace(-1, 1, samples * columns).reshape(samples, columns)
    wrong = [
        good * np.nan,
        np.where(good == good[0, 0], np.inf, good),
        good.astype(complex),
        good.astype(object),
        good.astype(str),
        good[:0],
        good.ravel(),
        [*good.tolist(), [1, 2, 3, 4, 5]],
        torch.tensor(good) * math.nan,
        torch.tensor(good).to(torch.complex128),
        torch.tensor(good).to_sparse(),
        torch.tensor(good)[:, :0],
        torch.tensor(good).flatten(),
        pd.DataFrame(good.astype(str)),
        *([good[:-1], good[1:].tolist()] if uneven else []),
        *([] if any_columns else [np.hstack([good, good])]),
        *([] if any_dimensions else [good[:, :, None], torch.tensor(good)[None]]),
    ]
    return Kind(
        lambda value: getattr(value, "shape", None) == (samples, columns), wrong, general=st.sampled_from(OBJECTS)
    )


def function(*wrong):
    """No callable, or one of the wrong ones."""
    return Kind(lambda value: callable(value) and value not in wrong, wrong)
