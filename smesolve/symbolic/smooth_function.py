"""An arbitrary smooth function of one variable.

sympy writes the derivative of an undefined function at w x as Subs(Derivative(sigma(u), u), u, w x). Here
the derivative of sigma is the function sigmaprime (LaTeX: sigma with a prime), that of sigmaprime is
sigmaprimeprime, and so on: short to read, and a token for the polynomial arithmetic of `indeterminates`.
"""

from __future__ import annotations

from functools import cache

from sympy import Expr
from sympy.core.function import AppliedUndef, UndefinedFunction

from smesolve.arguments import checked

__all__ = ["smooth_function"]


class _NamesItsDerivative(AppliedUndef):
    @classmethod
    def class_key(cls) -> tuple[int, int, str]:
        # Not that of sympy.Function(name): sympy compares by this key, and its cache would mix the two.
        return 4, 20000, cls.__name__

    def fdiff(self, argindex: int = 1) -> Expr:
        return smooth_function(f"{self.func.__name__}prime")(*self.args)


@checked
@cache
def smooth_function(name: str) -> UndefinedFunction:
    """The function `name`, whose derivatives are nameprime, nameprimeprime, ..."""
    return UndefinedFunction(name, bases=(_NamesItsDerivative,))
