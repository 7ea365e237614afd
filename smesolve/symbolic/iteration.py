"""An explicit random iteration with a small step.

    theta' = theta + h s_1(theta; X) + h^2 s_2(theta; X) + ...,    X fresh and independent in every step,

h the small parameter: the learning rate for gradient steps, its square root for momentum in its own time scale. The
step is polynomial in h, and in each of the random variables X_k that takes infinitely many values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import factorial, prod
from typing import NamedTuple

import sympy
from sympy import Expr, Integer, Symbol
from sympy.concrete.expr_with_limits import ExprWithLimits

from smesolve.arguments import EXPRESSION, Instance, checked
from smesolve.errors import SmesolveError, shown
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.indeterminates import Indeterminates
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.real_calculus import derivative
from smesolve.symbolic.symbol_roles import (
    check_assumptions,
    check_law_of,
    check_one_symbol_per_name,
    law_parameters,
)
from smesolve.symbolic.term_count import MOST_VALUES, check_terms, check_values, monomial_bound
from smesolve.symbolic.variable_functions import Atoms, Powers, VariableFunctions
from smesolve.symbolic.zero_test import vanishes

SYMBOL = Instance((Symbol,), "sympy symbols", "make them by sympy.symbols")

__all__ = ["Iteration", "Monomials", "gradient_descent"]

Monomials = Mapping[tuple[int, ...], Expr]
"""A function of the random variables: {keys, one a variable (`variable_functions`): coefficient}."""


@checked(step=EXPRESSION, loss=EXPRESSION)
@dataclass(frozen=True)
class Iteration:
    """state' = state + step(state, random, small).

    `step` has one expression a state variable, in the same order. `random` gives each random symbol its law: a
    `MaskLaw`, `SampleIndex(n)`, or `Centred(law)` for noise of mean 0; they are independent of each other and of the
    past. `small` is the small parameter h, and one step takes the time h. `constants` names every other symbol of the
    step (data, weights of the loss). `loss` is the random loss, where the step descends one. Floats are read as
    decimals of 15 digits, so that what is derived is exact.

    Raises:
        SmesolveError: symbols without a role, random symbols without a law, a mask law whose mean is not 1, a step that
            is not small, and steps without a finite expansion.
    """

    state: Sequence[Symbol]
    step: Sequence[Expr]
    random: Mapping[Symbol, Law]
    small: Symbol
    constants: Sequence[Symbol] = ()
    loss: Expr | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", tuple(self.state))
        object.__setattr__(self, "constants", tuple(self.constants))
        object.__setattr__(self, "random", dict(self.random))
        object.__setattr__(self, "step", tuple(exact(sympy.sympify(s)) for s in self.step))
        self._check()

    def _check(self) -> None:
        for key, law in self.random.items():
            SYMBOL("the keys of random", key, {})
            if law.support is not None:
                check_values(key, len(law.support[0]))
        if len(self.step) != len(self.state):
            raise SmesolveError(
                f"step has {len(self.step)} expressions for {len(self.state)} state variables: "
                "give one expression for each, in the same order."
            )
        symbols = set().union(*(s.free_symbols for s in self.step))
        check_one_symbol_per_name(
            {**self.roles, "step": symbols, "loss": () if self.loss is None else sympy.sympify(self.loss).free_symbols}
        )
        named = [*self.state, *self.random, *self.constants, self.small]
        names = [symbol.name for symbol in named]
        for name in names:
            if names.count(name) > 1:
                raise SmesolveError(
                    f"{name} is named {names.count(name)} times among state, random, constants and small: "
                    "give each symbol one role and a name of its own."
                )
        for role in ("state", "random", "constants", "small"):
            for symbol in self.roles[role]:
                check_assumptions(role, symbol)
        for symbol, law in self.random.items():
            _check_law(symbol, law)
            check_law_of(symbol, law)
            for parameter in sorted(law_parameters(law).intersection((*self.state, *self.random, self.small)), key=str):
                raise SmesolveError(
                    f"random[{symbol}] is {law!r}, which contains {parameter}, but a law depends neither on the state, "
                    "nor on other random symbols, nor on the small parameter: take a parameter of another name."
                )
        for symbol in sorted(symbols.difference(named), key=str):
            raise SmesolveError(
                f"step contains {symbol}, which has no role: name it in constants, or, if it is random, give its "
                "law in random."
            )
        for variable, entry in zip(self.state, self.step, strict=True):
            _check_value(f"step of {variable}", entry)
        for symbol in self.random:
            if symbol not in symbols:
                raise SmesolveError(f"random names {symbol}, which the step does not contain: leave it out.")
        _ = self.step_monomials

    @cached_property
    def roles(self) -> dict[str, tuple[Symbol, ...]]:
        """The symbols by what they are: state, random, constants, small, and parameters of the laws."""
        parameters = set().union(*map(law_parameters, self.random.values()))
        return {
            "state": tuple(self.state),
            "random": tuple(self.random),
            "constants": tuple(self.constants),
            "small": (self.small,),
            "the laws in random": tuple(sorted(parameters, key=sympy.default_sort_key)),
        }

    @cached_property
    def step_terms(self) -> tuple[tuple[Expr, ...], ...]:
        """(s_1, s_2, ...): the step is sum_a h^a s_a. As in `step`, no bracket is expanded."""
        columns = [_powers_of(self.small, variable, s) for variable, s in zip(self.state, self.step, strict=True)]
        length = max(1, *map(len, columns))
        padded = [[*column, *[Integer(0)] * (length - len(column))] for column in columns]
        return tuple(zip(*padded, strict=True))

    @cached_property
    def functions(self) -> tuple[VariableFunctions, ...]:
        """Those in which the step is expanded, one kind for each random variable."""
        return self.functions_for(
            [
                (f"step of {variable}", entry)
                for term in self.step_terms
                for variable, entry in zip(self.state, term, strict=True)
            ]
        )

    def functions_for(self, named: Sequence[tuple[str, Expr]]) -> tuple[VariableFunctions, ...]:
        """For each random variable its powers or, where a named expression is no polynomial in it, its indicators.

        Raises:
            SmesolveError: an expression without a finite expansion.
        """
        for name, entry in named:
            check_terms(name, monomial_bound(entry, tuple(self.random)), len(self.random), FEWER)
        together = [_polynomial_in(tuple(self.random), entry) for _, entry in named]
        exponents = [(0,) * len(self.random)]
        for part in together:
            if part is None:
                return tuple(_functions_of(symbol, law, named) for symbol, law in self.random.items())
            exponents += part.exponents
        degrees = map(max, zip(*exponents, strict=True))
        return tuple(_powers(x, law, degree) for (x, law), degree in zip(self.random.items(), degrees, strict=True))

    @cached_property
    def step_monomials(self) -> tuple[tuple[Monomials, ...], ...]:
        """step_terms as functions of the random variables: [a][i] is the i-th component of s_(a+1)."""
        named = [f"step of {variable}" for variable in self.state]
        return tuple(
            tuple(self.monomials(entry, self.functions, name) for name, entry in zip(named, term, strict=True))
            for term in self.step_terms
        )

    def monomials(
        self, expression: Expr, functions: Sequence[VariableFunctions], name: str = "expression"
    ) -> Monomials:
        """An expression, such as a component of the step, in functions that were chosen for it."""
        kinds = dict(zip(self.random, functions, strict=True))
        atoms = {x: kind for x, kind in kinds.items() if isinstance(kind, Atoms) and expression.has(x)}
        powers = [x for x, kind in kinds.items() if isinstance(kind, Powers)]
        check_terms(name, prod(float(len(kind.support[0])) for kind in atoms.values()), len(atoms), FEWER)
        monomials: dict[tuple[int, ...], Expr] = {}
        for choice in product(*(range(1, len(kind.values) + 1) for kind in atoms.values())):
            chosen = dict(zip(atoms, choice, strict=True))
            values = {x: atoms[x].values[key - 1] for x, key in chosen.items()}
            at_values = _substituted(expression, values)
            _check_value(f"{name} at {', '.join(f'{x} = {value}' for x, value in values.items())}", at_values)
            for exponents, coefficient in _monomials(powers, at_values).items():
                keys = chosen | dict(zip(powers, exponents, strict=True))
                if coefficient != 0:
                    monomials[tuple(keys.get(x, 0) for x in self.random)] = coefficient
        return monomials


@checked(loss=EXPRESSION)
def gradient_descent(
    loss: Expr, parameters: Sequence[Symbol], random: Mapping[Symbol, Law], constants: Sequence[Symbol] = ()
) -> Iteration:
    """theta' = theta - lr d loss/d theta with a fresh draw of the random variables in every step."""
    lr = Symbol("lr", positive=True)
    loss = sympy.sympify(loss)
    check_one_symbol_per_name({"parameters": parameters, "loss": loss.free_symbols})
    step = [-lr * derivative(loss, parameter) for parameter in parameters]
    return Iteration(parameters, step, random, lr, constants, loss)


def _substituted(expression: Expr, values: Mapping[Symbol, Expr]) -> Expr:
    if expression.has(ExprWithLimits, sympy.Derivative, sympy.Subs):  # they bind symbols of their own
        return expression.subs(values)
    return expression.xreplace(values)


def _check_value(name: str, entry: Expr) -> None:
    """Refuse what has no real value; the limits of an integral may be infinite."""
    parts = sympy.preorder_traversal(entry)
    for part in parts:
        if isinstance(part, ExprWithLimits):
            parts.skip()
        elif part in NOT_REAL or isinstance(part, sympy.DiracDelta):
            raise SmesolveError(
                f"{name} contains {part}, which is no real number: write it in functions that are real there."
            )


NOT_REAL = (sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _check_law(symbol: Symbol, law: Law) -> None:
    if isinstance(law, MaskLaw):
        excess = sympy.simplify(exact(law.central_moment(1)))
        # Rounding of floats, which the 15 digits do not always remove.
        if excess != 0 and not (excess.is_number and abs(excess) < 1e-12):
            raise SmesolveError(
                f"random[{symbol}] is {law!r}, a mask law of mean {1 + excess}, but the mean of a mask must be 1: "
                "divide its values by their mean."
            )


def _functions_of(symbol: Symbol, law: Law, named: Sequence[tuple[str, Expr]]) -> VariableFunctions:
    """Powers of one variable up to the degree that all expressions have, or the indicators of its values."""
    degree = 0
    for name, entry in named:
        part = _polynomial_in((symbol,), entry)
        if part is not None:
            degree = max(degree, *(power for (power,) in part.exponents))
        elif law.support is not None:
            check_values(symbol, len(law.support[0]), MOST_VALUES)
            return Atoms(law.support)
        else:
            raise SmesolveError(
                f"{name} is not a polynomial in {symbol}, which takes infinitely many values ({law!r}): a finite "
                "expansion exists only for polynomials or for laws on finitely many values; take FiniteMasks for "
                f"{symbol}, or a polynomial activation and loss."
            )
    return _powers(symbol, law, degree)


def _powers(symbol: Symbol, law: Law, degree: int) -> VariableFunctions:
    """Powers, or for high ones the indicators of a law on finitely many values, which are fewer."""
    if degree <= MOST_POWERS:
        return Powers(law, degree)
    if law.support is not None:
        check_values(symbol, len(law.support[0]), MOST_VALUES)
        return Atoms(law.support)
    raise SmesolveError(
        f"step has degree {degree} in {symbol}, which is too much for an exact expansion: take a degree of at most "
        f"{MOST_POWERS}, or of {MOST_POWERS_OF_ATOMS} for a law on finitely many values."
    )


FEWER = "take fewer random symbols, lower powers of them, or laws on fewer values"

MOST_POWERS = 16
"""Of a random variable, in a step."""
MOST_POWERS_OF_ATOMS = 10**4
MOST_POWERS_OF_SMALL = 100


def _powers_of(small: Symbol, variable: Symbol, step: Expr) -> list[Expr]:
    """[s_1, s_2, ...] of one component of the step."""
    part = _polynomial_in((small,), step)
    if part is None:
        raise SmesolveError(
            f"step of {variable} is not a polynomial in the small parameter {small}: expand it in powers of {small}."
        )
    degree = max((power for (power,) in part.exponents), default=0)
    if degree > MOST_POWERS_OF_SMALL:
        raise SmesolveError(
            f"step of {variable} has degree {degree} in the small parameter {small}, of which only the first powers "
            f"count: take a degree of at most {MOST_POWERS_OF_SMALL}."
        )
    coefficients = _monomials([small], step)
    constant = coefficients.pop((0,), Integer(0))
    if constant != 0 and not vanishes(constant):
        raise SmesolveError(
            f"step of {variable} does not vanish with {small} (it is {constant} at {small} = 0): a modified equation "
            f"exists for small steps only; write state' = state + step, with {small} a factor of the step."
        )
    highest = max((power for (power,) in coefficients), default=0)
    return [coefficients.get((power,), Integer(0)) for power in range(1, highest + 1)]


class _Polynomial(NamedTuple):
    """An expression as a polynomial over indeterminates."""

    expression: Expr
    meaning: dict[Symbol, Expr]
    """What the indeterminates stand for."""
    exponents: list[tuple[int, ...]]


@lru_cache(maxsize=1024)
def _polynomial_in(symbols: tuple[Symbol, ...], expression: Expr) -> _Polynomial | None:
    """None where it is no polynomial in the symbols."""
    indeterminates = Indeterminates(symbols)
    polynomial = indeterminates.replace(expression)
    meaning = indeterminates.meaning
    hidden = set().union(*(e.free_symbols for e in meaning.values())) & set(symbols)
    if hidden or not polynomial.is_polynomial(*symbols):
        return None
    for power in polynomial.atoms(sympy.Pow):
        if power.exp > MOST_POWERS_OF_ATOMS and power.has(*symbols):
            raise SmesolveError(
                f"step contains {power}, which is too much for an exact expansion: take an exponent of at most "
                f"{MOST_POWERS_OF_ATOMS}."
            )
    return _Polynomial(polynomial, meaning, sympy.Poly(polynomial, *symbols).monoms() if symbols else [()])


def _monomials(symbols: Sequence[Symbol], expression: Expr) -> dict[tuple[int, ...], Expr]:
    """{exponents: coefficient} of a polynomial in the symbols.

    Differentiated rather than read off: the polynomial is expanded, the derivatives keep the shape in which the
    expression was written.
    """
    if not symbols:
        return {(): expression}
    part = _polynomial_in(tuple(symbols), expression)
    if part is None:
        raise SmesolveError(
            f"expression must be polynomial in {', '.join(map(str, symbols))}, got {shown(expression)}."
        )
    coefficients = {}
    for exponents in part.exponents:
        powers = [(symbol, power) for symbol, power in zip(symbols, exponents, strict=True) if power]
        derivative = sympy.diff(part.expression, *powers) if powers else part.expression
        at_zero = derivative.xreplace(dict.fromkeys(symbols, Integer(0))).xreplace(part.meaning)
        coefficients[exponents] = at_zero / prod(map(factorial, exponents))
    return coefficients
