"""An explicit random iteration with a small step.

    theta' = theta + h s_1(theta; X) + h^2 s_2(theta; X) + ...,    X fresh and independent in every step,            (1)

where h is the small parameter: the learning rate for gradient steps, and its square root for momentum in its own time
scale. The step is a polynomial in h, and a polynomial in each random variable X_k that takes infinitely many values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import factorial, prod
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Symbol
from sympy.concrete.expr_with_limits import ExprWithLimits

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, shown
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.indeterminates import Indeterminates
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.real_calculus import derivative
from smesolve.symbolic.symbol_roles import (
    check_assumptions,
    check_law_of,
    check_one_symbol_per_name,
    check_symbol,
    law_parameters,
)
from smesolve.symbolic.term_count import MOST_VALUES, check_terms, check_values, monomial_bound
from smesolve.symbolic.variable_functions import Atoms, Powers, VariableFunctions
from smesolve.symbolic.zero_test import vanishes
from smesolve.validation import check_expression, check_instance, check_list, check_mapping

__all__ = ["Iteration", "Monomials", "gradient_descent"]

Monomials = Mapping[tuple[int, ...], Expr]
"""A function of the random variables: {keys, one per variable (`variable_functions`): coefficient}."""


@dataclass(frozen=True)
class Iteration:
    """The iteration state' = state + step(state, random, small).

    Floats are read as decimals of 15 digits, so that the derived equation is exact.

    Args:
        state: symbols of the state.
        step: one expression for each state variable, in the same order.
        random: the law of each random symbol: a `MaskLaw`, `SampleIndex(n)`, or `Centred(law)` for noise of mean 0.
            Random symbols are independent of each other and of the past.
        small: the small parameter h; one step takes time h.
        constants: all other symbols of the step, such as data and weights of the loss.
        loss: the random loss, where the step descends one. Default: none.

    Raises:
        SmesolveError: if a symbol has no role, if the mean of a mask law is not 1, if the step is not small, or if it
            has no finite expansion.
    """

    state: Sequence[Symbol]
    step: Sequence[Expr]
    random: Mapping[Symbol, Law]
    small: Symbol
    constants: Sequence[Symbol] = ()
    loss: Expr | None = None

    def __post_init__(self) -> None:
        step = check_list("step", self.step, check_expression)
        for name, value in {
            "state": tuple(check_list("state", self.state, check_symbol)),
            "step": tuple(exact(sympy.sympify(entry)) for entry in step),
            "random": _checked_random(self.random),
            "small": check_symbol("small", self.small),
            "constants": tuple(check_list("constants", self.constants, check_symbol, least=0)),
            "loss": None if self.loss is None else check_expression("loss", self.loss),
        }.items():
            object.__setattr__(self, name, value)
        self._check_roles()

    def _check_roles(self) -> None:
        for key, law in self.random.items():
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
            _check_mean(symbol, law)
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
        """The symbols by role: state, random, constants, small, and parameters of the laws."""
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
        """(s_1, s_2, ...) of (1), without expansion of brackets."""
        columns = [_powers_of(self.small, variable, s) for variable, s in zip(self.state, self.step, strict=True)]
        length = max(1, *map(len, columns))
        padded = [[*column, *[Integer(0)] * (length - len(column))] for column in columns]
        return tuple(zip(*padded, strict=True))

    @cached_property
    def functions(self) -> tuple[VariableFunctions, ...]:
        """The functions in which the step is expanded, one kind per random variable."""
        return self.functions_for(
            [
                (f"step of {variable}", entry)
                for term in self.step_terms
                for variable, entry in zip(self.state, term, strict=True)
            ]
        )

    def functions_for(self, named: Sequence[tuple[str, Expr]]) -> tuple[VariableFunctions, ...]:
        """Choose powers for each random variable, or indicators where a named expression is not a polynomial in it.

        Raises:
            SmesolveError: if an expression has no finite expansion.
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
        """`step_terms` as functions of the random variables: entry i of entry a is the i-th component of s_(a+1)."""
        named = [f"step of {variable}" for variable in self.state]
        return tuple(
            tuple(self.monomials(entry, self.functions, name) for name, entry in zip(named, term, strict=True))
            for term in self.step_terms
        )

    def monomials(
        self, expression: Expr, functions: Sequence[VariableFunctions], name: str = "expression"
    ) -> Monomials:
        """Write an expression, such as a component of the step, in the given functions of the random variables."""
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


@entry_point
def gradient_descent(
    loss: Expr, parameters: Sequence[Symbol], random: Mapping[Symbol, Law], constants: Sequence[Symbol] = ()
) -> Iteration:
    """Return the iteration theta' = theta - lr d loss/d theta, with fresh random variables in every step.

    Args:
        loss: the random loss.
        parameters: symbols that are trained.
        random: the law of each random symbol; see `Iteration`.
        constants: all other symbols of the loss.

    Returns:
        The iteration, with the small parameter lr, a positive symbol of that name.
    """
    lr = Symbol("lr", positive=True)
    loss = sympy.sympify(check_expression("loss", loss))
    parameters = check_list("parameters", parameters, check_symbol)
    check_one_symbol_per_name({"parameters": parameters, "loss": loss.free_symbols})
    step = [-lr * derivative(loss, parameter) for parameter in parameters]
    return Iteration(parameters, step, random, lr, constants, loss)


def _checked_random(random: Mapping[Symbol, Law]) -> dict[Symbol, Law]:
    """Return the laws by random symbol."""

    def law(name: str, value: Any) -> Law:
        return check_instance(name, value, Law, "a law, such as BernoulliMasks(keep_prob) or SampleIndex(n)")

    laws = check_mapping("random", random, law, least=0)
    return {check_symbol("a key of random", symbol): value for symbol, value in laws.items()}


def _substituted(expression: Expr, values: Mapping[Symbol, Expr]) -> Expr:
    """Return the expression with values in place of symbols."""
    if expression.has(ExprWithLimits, sympy.Derivative, sympy.Subs):  # they bind symbols of their own
        return expression.subs(values)
    return expression.xreplace(values)


def _check_value(name: str, entry: Expr) -> None:
    """Refuse an expression that has no real value; the limits of an integral may be infinite."""
    parts = sympy.preorder_traversal(entry)
    for part in parts:
        if isinstance(part, ExprWithLimits):
            parts.skip()
        elif part in NOT_REAL or isinstance(part, sympy.DiracDelta):
            raise SmesolveError(
                f"{name} contains {part}, which is not a real number: write it in functions that are real there."
            )


NOT_REAL = (sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _check_mean(symbol: Symbol, law: Law) -> None:
    """Refuse a mask law whose mean is not 1."""
    if isinstance(law, MaskLaw):
        excess = sympy.simplify(exact(law.central_moment(1)))
        # Reading floats as decimals of 15 digits does not always remove their rounding.
        if excess != 0 and not (excess.is_number and abs(excess) < 1e-12):
            raise SmesolveError(
                f"random[{symbol}] is {law!r}, a mask law of mean {1 + excess}, but the mean of a mask must be 1: "
                "divide its values by their mean."
            )


def _functions_of(symbol: Symbol, law: Law, named: Sequence[tuple[str, Expr]]) -> VariableFunctions:
    """Return the powers of one variable up to the highest degree of the expressions, or indicators of its values."""
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
    """Return powers up to a degree, or indicators where the degree is high and the values are finitely many."""
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
"""Remedy for an expansion with too many terms."""

MOST_POWERS = 16
"""Highest power of a random variable that an expansion in powers takes."""
MOST_POWERS_OF_ATOMS = 10**4
"""Highest power of a random variable on finitely many values."""
MOST_POWERS_OF_SMALL = 100
"""Highest power of the small parameter."""


def _powers_of(small: Symbol, variable: Symbol, step: Expr) -> list[Expr]:
    """Return [s_1, s_2, ...] of (1) for one component of the step."""
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
    """An expression as a polynomial whose coefficients are expressions that stay as they are."""

    expression: Expr
    meaning: dict[Symbol, Expr]
    """The sub-expression that each indeterminate of the coefficients stands for."""
    exponents: list[tuple[int, ...]]
    """Exponents of the symbols, one tuple for each monomial."""


@lru_cache(maxsize=1024)
def _polynomial_in(symbols: tuple[Symbol, ...], expression: Expr) -> _Polynomial | None:
    """Return an expression as a polynomial in the symbols; None where it is none."""
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
    """Return {exponents: coefficient} of a polynomial in the symbols.

    Coefficients are derivatives at 0, because those keep the shape in which the expression was written; the terms of
    the polynomial itself are expanded.
    """
    if not symbols:
        return {(): expression}
    part = _polynomial_in(tuple(symbols), expression)
    if part is None:
        raise SmesolveError(
            f"expression must be a polynomial in {', '.join(map(str, symbols))}, got {shown(expression)}."
        )
    coefficients = {}
    for exponents in part.exponents:
        powers = [(symbol, power) for symbol, power in zip(symbols, exponents, strict=True) if power]
        derivative = sympy.diff(part.expression, *powers) if powers else part.expression
        at_zero = derivative.xreplace(dict.fromkeys(symbols, Integer(0))).xreplace(part.meaning)
        coefficients[exponents] = at_zero / prod(map(factorial, exponents))
    return coefficients
