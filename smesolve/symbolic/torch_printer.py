"""Sympy expressions as torch code of the same meaning.

The list of functions is closed: the same name may stand for different functions in both libraries (sinc, frac), so
that nothing is printed only by its name. `sympy.printing.pytorch` does not serve as a base class: sympy 1.13 lacks it,
its Max(0, x), Heaviside(x) and log(2) call torch functions with Python numbers, which torch refuses, its Heaviside has
no gradient, and its Derivative calls autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import sympy
from sympy import Basic, Expr
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import And, BooleanAtom, Not, Or
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.pycode import AbstractPythonCodePrinter

from smesolve.errors import SmesolveError, shown

__all__ = ["FUNCTIONS", "check_functions", "printed"]

SAME_NAME = (
    sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.asin, sympy.acos, sympy.atan,
    sympy.sinh, sympy.cosh, sympy.tanh, sympy.asinh, sympy.acosh, sympy.atanh,
    sympy.erf, sympy.floor,
)  # fmt: skip
"""Functions with the same name and the same meaning in both libraries."""

FUNCTIONS: dict[type[Expr], Callable[..., str]] = {
    **{function: f"torch.{function.__name__}({{}})".format for function in SAME_NAME},
    sympy.Abs: "torch.abs({})".format,
    sympy.ceiling: "torch.ceil({})".format,
    sympy.erfc: "torch.erfc({})".format,
    sympy.erfinv: "torch.erfinv({})".format,
    sympy.sec: "(1 / torch.cos({}))".format,
    sympy.csc: "(1 / torch.sin({}))".format,
    sympy.cot: "(1 / torch.tan({}))".format,
    sympy.sech: "(1 / torch.cosh({}))".format,
    sympy.csch: "(1 / torch.sinh({}))".format,
    sympy.coth: "(1 / torch.tanh({}))".format,
    # sin(x)/x in sympy, sin(pi x)/(pi x) in torch
    sympy.sinc: f"torch.sinc(({{}}) / {math.pi!r})".format,
    # x - floor(x) in sympy, x - trunc(x) in torch
    sympy.frac: "torch.remainder({}, 1)".format,
    # torch.sign(nan) is 0.
    sympy.sign: "torch.where(torch.isnan({0}), {0}, torch.sign({0}))".format,
    sympy.atan2: "torch.atan2({}, {})".format,
    sympy.Mod: "torch.remainder({}, {})".format,
    sympy.Max: lambda *arguments: reduce("torch.maximum({}, {})".format, arguments),
    sympy.Min: lambda *arguments: reduce("torch.minimum({}, {})".format, arguments),
    # torch.heaviside has no gradient.
    sympy.Heaviside: "torch.where({0} > 0, 1.0, torch.where({0} < 0, 0.0, {1} + 0 * {0}))".format,
}
"""Torch code of each function, from the code of its arguments, which are tensors."""


class _Printer(AbstractPythonCodePrinter):  # type: ignore[misc]  # sympy has no stubs
    """A printer of numbers as Python floats, and of numbers in arguments of functions as tensors."""

    def __init__(self, zero: str) -> None:
        super().__init__({"fully_qualified_modules": False})
        self._zero = zero
        """Code of a tensor of zeros."""

    def _print(self, expr: Basic, **kwargs: object) -> str:
        if isinstance(expr, Expr) and expr.is_number and not _is_short_fraction(expr):
            return _float(expr)
        if expr.func in FUNCTIONS:
            order_free = isinstance(expr, (sympy.Max, sympy.Min))
            arguments = sorted(expr.args, key=sympy.default_sort_key) if order_free else expr.args
            return FUNCTIONS[expr.func](*map(self._tensor, arguments))
        if isinstance(expr, PRINTED_BY_SYMPY):
            return str(super()._print(expr, **kwargs))
        if isinstance(expr, sympy.Piecewise):
            return self._piecewise(expr)
        if isinstance(expr, Relational):
            return f"({self._tensor(expr.lhs)} {expr.rel_op} {self._tensor(expr.rhs)})"
        if isinstance(expr, (And, Or)):
            operator = " & " if isinstance(expr, And) else " | "
            return f"({operator.join(map(self._print, sorted(expr.args, key=sympy.default_sort_key)))})"
        return f"(~{self._print(expr.args[0])})"

    def _tensor(self, expr: Expr) -> str:
        return self._print(expr) if expr.free_symbols else f"({self._zero} + {self._print(expr)})"

    def _print_Pow(self, expr: Expr, rational: bool = False) -> str:
        power = PRECEDENCE["Pow"]
        return f"{self.parenthesize(expr.base, power, strict=True)}**{self.parenthesize(expr.exp, power, strict=True)}"

    def _piecewise(self, expr: Expr) -> str:
        # Where no condition holds, a Piecewise of sympy has no value.
        code = f"({self._zero} + float('nan'))"
        for value, condition in reversed(expr.args):
            chosen = self._tensor(value)
            code = chosen if condition == sympy.true else f"torch.where({self._print(condition)}, {chosen}, {code})"
        return code


PRINTED_BY_SYMPY = (sympy.Symbol, sympy.Rational, sympy.Add, sympy.Mul, sympy.Pow)
ALLOWED = (*PRINTED_BY_SYMPY, sympy.Piecewise, ExprCondPair, Relational, And, Or, Not, BooleanAtom)


def _is_short_fraction(expr: Expr) -> bool:
    """Return whether Python computes the same number from its numerator and denominator."""
    return bool(expr.is_Rational) and max(abs(expr.p), expr.q) <= 2**53


def _float(expr: Expr) -> str:
    """Return code of the nearest float."""
    value = expr.evalf(20)
    if not (value.is_Float or value.is_Rational) or not math.isfinite(float(value)):
        raise SmesolveError(
            f"the equation contains {shown(expr)}, which is not a finite real number that a float can hold: "
            "write the step in finite real numbers."
        )
    number = float(value)
    return repr(number) if number >= 0 else f"({number!r})"


def check_functions(expression: Expr) -> None:
    """Refuse an expression that has no torch code of the same meaning."""
    parts = sympy.preorder_traversal(expression)
    for part in parts:
        if isinstance(part, Expr) and part.is_number:
            parts.skip()
        elif not isinstance(part, ALLOWED) and part.func not in FUNCTIONS:
            known = ", ".join(sorted(function.__name__ for function in FUNCTIONS))
            raise SmesolveError(
                f"the equation contains {shown(part)}, and torch has no code of the same meaning for "
                f"{type(part).__name__}: use sums, products, powers, Piecewise, {known}."
            )


def printed(expression: Expr, zero: str) -> str:
    """Return an expression in real symbols as torch code; `zero` is code of a tensor of zeros.

    Raises:
        SmesolveError: if a function has no torch code of the same meaning, or a number is not a finite float.
    """
    check_functions(expression)
    return str(_Printer(zero).doprint(expression))
