"""Values that arguments cannot have, made from values that they can have, and what counts as an answer to them."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import sympy
import torch
from hypothesis import strategies as st

from smesolve.errors import SmesolveError


def objection(error, names):
    """Return why an exception is no answer to malformed arguments of these names, or None.

    An answer is a `SmesolveError` whose message is one sentence in one line that names one of the arguments.
    """
    message = str(error)
    if not isinstance(error, SmesolveError):
        return f"{type(error).__name__} is no answer: {message[:300]}"
    if "\n" in message or len(message) > 700 or not message.endswith("."):
        return f"not one sentence: {message[:300]!r}"
    if not any(name.rstrip("0").removesuffix("s") in message for name in names):
        return f"names none of {names}: {message}"
    return None


class Odd:
    """An object with far too many words for what it is."""

    def __repr__(self):
        return "odd\n" * 1000


def nested(depth):
    """Return a list in a list in a list."""
    deep = []
    for _ in range(depth):
        deep = [deep]
    return deep


def circle():
    """Return a list that holds itself."""
    ring = []
    ring.append(ring)
    return ring


# --- values that no argument may have --------------------------------------------------------------------------------

NOTHING_TAKES = st.sampled_from([
    b"bytes", bytearray(b"x"), ..., NotImplemented, object(), Odd(), 1j, complex("nan"), set(), frozenset({1}), [[]],
    [1, "a"], [None], {1: {2: {}}}, circle(), nested(100), range(10**12), iter([1.0]), slice(3), ValueError("x"),
    np.datetime64("2020-01-01"), np.array(["a"]), np.array([None, 1]), np.array([1j]), np.zeros((2, 0, 3)),
    np.array([1, 2], dtype="datetime64[s]"), np.zeros((1, 1), dtype=[("a", float)]), np.ma.masked,
    np.full((1, 1), np.nan).view(np.matrix), torch.tensor([1 + 1j]), torch.zeros(2, 0), torch.zeros(2, 3).half(),
    torch.zeros(2, 2).to_sparse(), torch.nn.Parameter(torch.tensor([math.inf])), sympy.nan, sympy.zoo,
    pd.Series(["a"]), pd.Timestamp(0),
])  # fmt: skip
ANYWHERE = NOTHING_TAKES | NOTHING_TAKES.map(lambda value: [value]) | NOTHING_TAKES.map(lambda value: {"a": value})

# --- values that are almost right ------------------------------------------------------------------------------------

ODD_NUMBERS = [
    math.nan, math.inf, -math.inf, np.float64("nan"), Decimal("0.5"), Fraction(1, 3), 10**400, -(10**400), 1e300, "0.1",
    "nan", "", True, np.bool_(True), [0.1, [0.1]], torch.tensor([True]), np.array(0.5), sympy.I, {},
]  # fmt: skip
WRONG_TEXTS = ["rubbish", "", "\x00", "ünïcode " * 50]


def close_to(valid, least=None, most=math.inf, any_lead=False):
    """Return a strategy of values that are like a valid one, and are not.

    Args:
        valid: value, or list or mapping of values.
        least: smallest number that is allowed. Default: those above 0.
        most: largest number that is allowed.
        any_lead: whether tensors may have dimensions before those of `valid`, and NaN in them.
    """
    if isinstance(valid, bool):
        return st.sampled_from([0, 1, 0.0, "True", "", [], np.bool_(True)])
    if isinstance(valid, int):
        below = st.integers(max_value=math.ceil(1 if least is None else least) - 1)
        return st.sampled_from([*ODD_NUMBERS, 2.0, 2.5, 2**64]) | below | st.floats()
    if isinstance(valid, float):
        if least == -math.inf:
            return st.sampled_from(ODD_NUMBERS)
        below = st.floats(max_value=0.0) if least is None else st.floats(max_value=least, exclude_max=True)
        above = st.floats(min_value=most, exclude_min=True) if most < math.inf else st.just(math.inf)
        return st.sampled_from(ODD_NUMBERS) | below | above
    if isinstance(valid, str):
        return st.sampled_from([*WRONG_TEXTS, 0.5, len]) | st.text(max_size=8).map("{}?".format)
    if isinstance(valid, torch.Tensor):
        return st.sampled_from(_tensors_close_to(valid, any_lead))
    if isinstance(valid, (list, tuple)):
        entries = close_to(valid[0], least, most)
        return st.lists(entries, max_size=3) | st.sampled_from([0.1, "abc", {}, (), np.zeros((2, 2))])
    if isinstance(valid, dict):
        entries = close_to(next(iter(valid.values())), least, most)
        return st.dictionaries(st.text(max_size=3), entries, max_size=2) | st.sampled_from([0.1, "abc", [], [1.0]])
    return st.sampled_from([0.5, "rubbish", [], {}])


def _tensors_close_to(good, any_lead):
    """Return tensors of other dtypes and shapes, and what is no tensor."""
    wrong = [good.float(), good.long(), good.bool(), good.to(torch.complex128), good.half(), good.bfloat16()]
    wrong += [good[..., :-1], good[..., :0], torch.cat([good, good], -1), good.mean(), good.to_sparse()]
    wrong += [good.numpy(), good.tolist(), str(good)]
    if not any_lead:
        wrong += [good[None], good[None, None]]
        wrong += [good * math.nan, good.clone().index_fill(-1, torch.tensor([0]), math.inf)]
    return wrong
