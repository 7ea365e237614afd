"""Scaling rules: changes of the constants of a training that leave its modified equation unchanged.

Let a quantity kappa, such as the number of draws that a step averages, be multiplied by lambda. Constants p_i, the
learning rate among them, are multiplied by lambda^(a_i), state variables S_j by lambda^(x_j) and time by lambda^tau.
The equation of order 1, dS = b dt + sqrt(lr) C dW with Sigma = C C^T, is the same for every lambda if and only if

    b_j is homogeneous of degree x_j - tau,      lr Sigma_ij is homogeneous of degree x_i + x_j - tau.               (1)

A function f is homogeneous of degree y where, for all values of its arguments (Euler),

    sum_i a_i p_i df/dp_i + sum_j x_j S_j df/dS_j + kappa df/dkappa = y f,                                           (2)

which is linear in the exponents. A rule is a solution of these equations. A step takes time lr, so the number of steps
to a given state is multiplied by lambda^(tau - a_lr).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import sympy
from sympy import Expr, Rational, Symbol

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.symbolic.equation import SymbolicModifiedEquation
from smesolve.symbolic.symbol_roles import check_symbol
from smesolve.validation import check_instance, check_integer, check_list, check_mapping

__all__ = ["ScalingRule", "scaling_rule"]


@dataclass(frozen=True)
class ScalingRule:
    """Powers of one quantity under which the equation of order 1 of a training is unchanged."""

    by: Symbol
    """The quantity, kappa."""
    exponents: Mapping[Symbol, Rational]
    """Exponents of the small parameter, of the free constants, and of the state variables."""
    time: Rational
    """tau."""
    steps: Rational
    """Exponent of the number of steps to a given state."""
    changes: Mapping[tuple[Symbol, Symbol], Rational]
    """Entries of the covariance that were left out of (1) and change relative to the others, and the powers of kappa by
    which they change; positive where they grow."""

    def __str__(self) -> str:
        powers = [f"{symbol} ~ {_power(self.by, exponent)}" for symbol, exponent in self.exponents.items() if exponent]
        fixed = [str(symbol) for symbol, exponent in self.exponents.items() if not exponent]
        return ", ".join(powers + ([f"{' and '.join(fixed)} as they are"] if fixed else []))


def _power(by: Symbol, exponent: Rational) -> str:
    return str(by) if exponent == 1 else f"{by}^{exponent if exponent.q == 1 and exponent > 0 else f'({exponent})'}"


@entry_point
def scaling_rule(
    equation: SymbolicModifiedEquation,
    by: Symbol,
    fixed: Sequence[Symbol],
    *,
    vanishing: Mapping[Symbol, int] | None = None,
    noiseless: Sequence[Symbol] = (),
) -> ScalingRule | None:
    """Return the rule that leaves an equation of order 1 unchanged, or None where there is none.

    Args:
        equation: of order 1, such as modified_equation(adam(iteration), order=1).
        by: kappa, the constant that is multiplied.
        fixed: constants and state variables that do not change, such as constants of the data and the parameters.
        vanishing: powers with which constants and state variables go to 0 in the regime of the rule, such as
            {G: 1, m: 1} where noise dominates the gradient G. Only the leading term of every entry of drift and
            covariance is kept. Default: everything is kept.
        noiseless: state variables whose noise is left out, such as averages over many steps; `ScalingRule.changes` says
            by how much their noise changes.

    Raises:
        SmesolveError: bad arguments, or an equation whose exponents are not determined by (1).

    Source: (1) for Adam where noise dominates is the square root rule of Malladi, Lyu, Panigrahi, Arora (NeurIPS 2022).
    """
    check_instance(
        "equation", equation, SymbolicModifiedEquation, "a modified equation, such as modified_equation(...)"
    )
    if equation.order != 1:
        raise SmesolveError(f"equation must be of order 1, got order {equation.order}; derive it with order=1.")
    iteration = equation.iteration
    known = {*iteration.state, *iteration.constants}
    for name, symbols in (
        ("by", [check_symbol("by", by)]),
        ("fixed", check_list("fixed", fixed, check_symbol, least=0)),
        ("noiseless", check_list("noiseless", noiseless, check_symbol, least=0)),
        ("vanishing", check_mapping("vanishing", vanishing or {}, check_integer, least=0)),
    ):
        for symbol in symbols:
            if symbol not in known:
                raise SmesolveError(
                    f"{name} holds {symbol}, which is not a constant or state variable of the iteration; take one of "
                    f"{', '.join(sorted(map(str, known)))}."
                )
    if by not in iteration.constants or by in fixed:
        raise invalid("by", "be a constant of the iteration that is not in fixed", by, "the rule multiplies it")
    scaled = [iteration.small, *(s for s in (*iteration.constants, *iteration.state) if s != by and s not in fixed)]
    unknowns = {symbol: sympy.Dummy(f"a_{symbol}") for symbol in scaled}
    tau = sympy.Dummy("tau")
    operator = {**unknowns, by: sympy.Integer(1)}
    weights = dict(vanishing or {})

    def degree(symbol: Symbol) -> Expr:
        return unknowns.get(symbol, sympy.Integer(0))

    conditions: list[Expr] = []
    for state, entry in zip(iteration.state, equation.drift_terms[0], strict=True):
        conditions += _homogeneous(_leading(entry, weights), operator, degree(state) - tau)
    left_out: dict[tuple[Symbol, Symbol], tuple[Expr, Expr]] = {}
    for (i, one), (j, other) in combinations_with_replacement(enumerate(iteration.state), 2):
        entry = iteration.small * _leading(sympy.expand(equation.covariance[i, j]), weights)
        wanted = degree(one) + degree(other) - tau
        if {one, other}.intersection(noiseless):
            left_out[one, other] = entry, wanted
        else:
            conditions += _homogeneous(entry, operator, wanted)
    solutions = list(sympy.linsolve(conditions, [*unknowns.values(), tau]))
    if not solutions:
        return None
    values = dict(zip([*unknowns.values(), tau], solutions[0], strict=True))
    if any(value.free_symbols for value in values.values()):
        raise SmesolveError(
            "equation leaves exponents free, as some constants only appear together; name one of them in fixed."
        )
    changes = {}
    for pair, (entry, wanted) in left_out.items():
        if entry != 0:
            (exponent,) = sympy.linsolve(
                _homogeneous(entry, {s: values.get(a, a) for s, a in operator.items()}, tau), tau
            )
            power = exponent[0] - wanted.subs(values)
            if power:
                changes[pair] = power
    exponents = {symbol: values[exponent] for symbol, exponent in unknowns.items()}
    return ScalingRule(by, exponents, values[tau], values[tau] - exponents[iteration.small], changes)


def _leading(entry: Expr, weights: Mapping[Symbol, int]) -> Expr:
    """Return the term of an expression that is largest where symbols go to 0 with these powers."""
    if not weights or entry == 0:
        return entry
    size = sympy.Dummy("size", positive=True)
    scaled = entry.subs({symbol: size**power * symbol for symbol, power in weights.items()}, simultaneous=True)
    terms = sympy.collect(sympy.expand(scaled), size, evaluate=False)
    powers = {sympy.degree(power, size) if power.has(size) else 0: term for power, term in terms.items()}
    return powers[min(powers)]


def _homogeneous(entry: Expr, operator: Mapping[Symbol, Expr], degree: Expr) -> list[Expr]:
    """Return the conditions, linear in the exponents, that make (2) hold for all values of the symbols."""
    if entry == 0:
        return []
    # Roots are polynomials in w where v = w^2.
    roots = {symbol: sympy.Dummy(f"w_{symbol}", positive=True) for symbol in entry.free_symbols if symbol.is_positive}
    euler = sum((a * s * sympy.diff(entry, s) for s, a in operator.items()), sympy.Integer(0)) - degree * entry
    numerator = sympy.together(euler.subs({symbol: root**2 for symbol, root in roots.items()})).as_numer_denom()[0]
    symbols = sorted((roots.get(s, s) for s in entry.free_symbols), key=str)
    return [c for c in sympy.Poly(sympy.expand(numerator), *symbols).coeffs() if c != 0]
