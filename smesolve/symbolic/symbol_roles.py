"""Checks of the symbols of an iteration: one real symbol per name, with no assumptions that its role does not allow.

sympy identifies a symbol by its name together with its assumptions: Symbol("a") and Symbol("a", positive=True) print
alike, and the derivative of one with respect to the other is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
from sympy import Dummy, Expr, Symbol

from smesolve.errors import SmesolveError
from smesolve.problem.masks import Law
from smesolve.validation import check_instance

__all__ = ["check_assumptions", "check_law_of", "check_one_symbol_per_name", "check_symbol", "law_parameters"]

ASSUMPTIONS: dict[str, Callable[[Expr], bool | None]] = {
    "integer": lambda value: value.is_integer if not value.is_Float else value == int(value),
    "positive": lambda value: value.is_positive,
    "negative": lambda value: value.is_negative,
    "zero": lambda value: value.is_zero,
}
"""Assumptions by which sympy simplifies real expressions, each with a function that says whether a value has it."""


def check_symbol(name: str, value: Any) -> Symbol:
    """Return a sympy symbol."""
    return check_instance(name, value, Symbol, "a sympy symbol", "make it by sympy.symbols")


def check_one_symbol_per_name(named: Mapping[str, Iterable[Symbol]]) -> None:
    """Refuse two symbols that differ only in their assumptions; the keys of `named` say where the symbols occur."""
    seen: dict[str, tuple[str, Symbol]] = {}
    for place, symbols in named.items():
        for symbol in sorted(set(symbols), key=sympy.default_sort_key):
            if isinstance(symbol, Dummy):
                continue
            first, other = seen.setdefault(symbol.name, (place, symbol))
            if other != symbol:
                raise SmesolveError(
                    f"{place} contains {sympy.srepr(symbol)} and {first} contains {sympy.srepr(other)}: symbols of one "
                    "name with different assumptions are different symbols; use one and the same symbol."
                )


def check_assumptions(role: str, symbol: Symbol) -> None:
    """Refuse a symbol whose assumptions exclude the values of its role: real numbers, positive for the small one."""
    if not symbol.is_commutative or symbol.is_extended_real is False:
        wrong = "it is not a real number"
    elif role in ("state", "small") and symbol.is_integer:
        wrong = "it is an integer"
    elif role == "small" and symbol.is_positive is False:
        wrong = "it is not positive"
    else:
        return
    raise SmesolveError(
        f"{role} contains {sympy.srepr(symbol)}, and by this assumption {wrong}: take "
        f"Symbol({symbol.name!r}, {'positive' if role == 'small' else 'real'}=True)."
    )


def check_law_of(symbol: Symbol, law: Law) -> None:
    """Refuse assumptions about a random symbol that do not hold for all values of its law.

    sympy simplifies by assumptions: |eta| becomes eta for a symbol eta that is declared positive.
    """
    values = None if law.support is None else [sympy.sympify(value) for value in law.support[0]]
    for name, holds_for in ASSUMPTIONS.items():
        assumed = getattr(symbol, f"is_{name}")
        if assumed is None:
            continue
        if values is None or any(holds_for(value) is (not assumed) for value in values):
            raise SmesolveError(
                f"random contains {sympy.srepr(symbol)}, and this assumption does not hold for all values of its law "
                f"{law!r}: take Symbol({symbol.name!r}, real=True)."
            )


def law_parameters(law: Law) -> set[Symbol]:
    """Return the symbols in a law's values and probabilities, or in its moments where it has no finite support."""
    numbers: list[Expr] = (
        [law.central_moment(j) for j in (2, 3, 4)] if law.support is None else [*law.support[0], *law.support[1]]
    )
    return set().union(*(sympy.sympify(number).free_symbols for number in numbers))
