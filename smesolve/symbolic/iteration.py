"""An explicit random iteration.

    theta' = theta - lr * g(theta; eta),    eta fresh and independent in every step,

with g polynomial in the masks eta, as a gradient of a squared loss under dropout is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import factorial, prod

import sympy
from sympy import Expr, Integer, Symbol

from smesolve.problem.masks import MaskLaw
from smesolve.symbolic.indeterminates import Indeterminates

__all__ = ["Iteration"]


@dataclass(frozen=True)
class Iteration:
    """theta' = theta - lr * gradient(theta, masks).

    `gradient` has one expression a parameter, in the same order. `masks` gives each mask symbol its law;
    masks are independent of each other and of the past. `constants` names every other symbol of the
    gradient (data, weights of the loss). Floats are read as decimals of 15 digits, so that what is derived is
    exact.
    """

    parameters: Sequence[Symbol]
    gradient: Sequence[Expr]
    masks: Mapping[Symbol, MaskLaw]
    lr: Symbol
    constants: Sequence[Symbol] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(self.parameters))
        object.__setattr__(self, "constants", tuple(self.constants))
        object.__setattr__(self, "masks", dict(self.masks))
        gradient = tuple(sympy.nsimplify(sympy.sympify(g), rational=True) for g in self.gradient)
        object.__setattr__(self, "gradient", gradient)
        self._check()

    def _check(self) -> None:
        if len(self.gradient) != len(self.parameters):
            raise ValueError(
                f"gradient has {len(self.gradient)} expressions for {len(self.parameters)} parameters: "
                "give one expression for each parameter, in the same order."
            )
        named = [*self.parameters, *self.masks, *self.constants, self.lr]
        names = [symbol.name for symbol in named]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name} is named {names.count(name)} times among parameters, masks, constants and lr: "
                    "give each symbol one role and a name of its own."
                )
        for mask, law in self.masks.items():
            if not isinstance(law, MaskLaw):
                raise ValueError(
                    f"masks[{mask}] is {law!r}, which is no MaskLaw: give its law, for example "
                    "BernoulliMasks(keep_prob)."
                )
        symbols = set().union(*(g.free_symbols for g in self.gradient))
        if self.lr in symbols:
            raise ValueError(
                f"gradient contains lr = {self.lr}, but the iteration multiplies the gradient by lr itself: "
                "take lr out of the gradient."
            )
        for symbol in sorted(symbols.difference(named), key=str):
            raise ValueError(
                f"gradient contains {symbol}, which is neither a parameter nor a mask: name it in constants."
            )
        for mask in self.masks:
            if mask not in symbols:
                raise ValueError(f"masks names {mask}, which the gradient does not contain: leave it out.")
        _ = self.mask_monomials

    @cached_property
    def mask_monomials(self) -> tuple[dict[tuple[int, ...], Expr], ...]:
        """Each component of the gradient as {exponents of the masks: coefficient}."""
        return tuple(map(self._monomials, self.parameters, self.gradient))

    def _monomials(self, parameter: Symbol, component: Expr) -> dict[tuple[int, ...], Expr]:
        if not self.masks:
            return {(): component}
        indeterminates = Indeterminates(self.masks)
        polynomial = indeterminates.replace(component)
        meaning = indeterminates.meaning
        hidden = set().union(*(e.free_symbols for e in meaning.values())) & set(self.masks)
        if hidden or not polynomial.is_polynomial(*self.masks):
            raise ValueError(
                f"gradient of {parameter} is not a polynomial in the masks ({component}): a finite mask "
                "expansion exists only for polynomials, as squared loss with masks on the last hidden layer "
                "gives."
            )
        # Differentiated rather than read off: the polynomial is expanded, the derivatives keep the shape in
        # which the gradient was written.
        monomials = {}
        for exponents in sympy.Poly(polynomial, *self.masks).monoms():
            powers = [(mask, power) for mask, power in zip(self.masks, exponents, strict=True) if power]
            derivative = sympy.diff(polynomial, *powers) if powers else polynomial
            at_zero = derivative.xreplace(dict.fromkeys(self.masks, Integer(0))).xreplace(meaning)
            monomials[exponents] = at_zero / prod(map(factorial, exponents))
        return monomials
