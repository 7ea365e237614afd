"""An arbitrary smooth function of one variable.

sympy writes the derivative of an undefined function at w x as Subs(Derivative(sigma(u), u), u, w x). Here the
derivative of sigma is the function sigmaprime (LaTeX: sigma with a prime), the derivative of sigmaprime is
sigmaprimeprime, and so on. These names are short, and each value is one indeterminate for the polynomial arithmetic of
`indeterminates`.
"""

from __future__ import annotations

from functools import cache

from sympy import Expr
from sympy.core.function import AppliedUndef, UndefinedFunction

from smesolve.entry_point import entry_point
from smesolve.validation import check_instance

__all__ = ["smooth_function"]


class _NamesItsDerivative(AppliedUndef):  # type: ignore[misc]  # sympy has no stubs
    @classmethod
    def class_key(cls) -> tuple[int, int, str]:
        # sympy compares by this key: with that of sympy.Function(name) its cache would mix the two.
        return 4, 20000, cls.__name__

    def fdiff(self, argindex: int = 1) -> Expr:
        return _smooth_function(f"{self.func.__name__}prime")(*self.args)


@entry_point
def smooth_function(name: str) -> UndefinedFunction:
    """Return the undefined function `name`, whose derivatives are called nameprime, nameprimeprime, ..."""
    return _smooth_function(check_instance("name", name, str, "a string"))


@cache
def _smooth_function(name: str) -> UndefinedFunction:
    """Return the same function object at every call."""
    return UndefinedFunction(name, bases=(_NamesItsDerivative,))
