"""The obstruction to order 4: a negative fourth cumulant of one step.

At lr^3 the generator (1/lr) log P of the iteration (`jump_equation`) has the fourth derivatives 1/24 kappa_4 : D^4,
with the fourth cumulant kappa_4 of s_1. The generator A of a Markov process in continuous time, with diffusion or
jumps, is non-negative where a function has a minimum of 0 (positive maximum principle; Courrege 1966). For a direction
u and f = <u, . - theta>^4 at theta,

    A f(theta) = lr^3 kappa_4(u, u, u, u) + O(lr^4),                                                                 (1)

if A agrees with (1/lr) log P through lr^3. Hence, where kappa_4 is negative in some direction, no Markov process whose
generator is a power series in lr has weak order 4. A coordinate direction is enough to show it:

    kappa_iiii = E xi_i^4 - 3 (E xi_i^2)^2,       xi = s_1 - E s_1.                                                  (2)

For scalar dropout with Bernoulli masks kappa_4 = (a/p - y)^4 (1 - p)(1 - 6 p (1 - p))/p^3 is negative for p between
(3 - sqrt 3)/6 = 0.211 and (3 + sqrt 3)/6 = 0.789. With Gaussian masks the gradient is quadratic in a normal variable,
and its fourth cumulant is not negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, Symbol

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.symbolic.chaos_expansion import mean_of_product, step_moment
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name, check_symbol
from smesolve.symbolic.zero_test import vanishes
from smesolve.validation import check_instance

__all__ = ["FourthCumulant", "fourth_cumulant"]


@dataclass(frozen=True)
class FourthCumulant:
    """The fourth cumulants kappa_iiii of s_1, and its variances."""

    state: tuple[Symbol, ...]
    entries: tuple[Expr, ...]
    """kappa_iiii of (2), for each state variable."""
    variances: tuple[Expr, ...]
    """E xi_i^2, for each state variable."""

    @property
    def vanishes(self) -> bool:
        """Whether all entries are identically 0."""
        return all(map(vanishes, self.entries))

    @entry_point
    def negative(self, symbol: Symbol) -> sympy.Set:
        """Return the values of a symbol, such as keep_prob, for which an entry is negative: order 4 has no equation.

        Only values with a positive variance count, as other values belong to no law. For values outside this set, an
        obstruction in another direction is possible.

        Raises:
            SmesolveError: if the signs depend on other symbols as well, or are not rational functions of the symbol.
        """
        check_symbol("symbol", symbol)
        named = set().union(*(entry.free_symbols for entry in self.entries))
        check_one_symbol_per_name({"the fourth cumulant": named, "symbol": [symbol]})
        found: sympy.Set = sympy.EmptySet
        for entry, variance in zip(self.entries, self.variances, strict=True):
            if not vanishes(entry):
                signs = _sign(entry, symbol), _sign(variance, symbol)
                found = sympy.Union(found, _where(signs[0] < 0, symbol).intersect(_where(signs[1] > 0, symbol)))
        return found


@entry_point
def fourth_cumulant(iteration: Iteration) -> FourthCumulant:
    """Derive kappa_iiii by (2). Cost: the fourth power of the step, for each state variable."""
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    entries, variances = [], []
    for i, entry in enumerate(iteration.step_terms[0]):
        xi = iteration.monomials(entry - step_moment(iteration, [(0, i)]), iteration.functions)
        variance = mean_of_product(iteration.functions, [xi] * 2)
        variances.append(variance)
        entries.append(mean_of_product(iteration.functions, [xi] * 4) - 3 * variance**2)  # (2)
    return FourthCumulant(tuple(iteration.state), tuple(entries), tuple(variances))


def _where(relation: sympy.Basic, symbol: Symbol) -> sympy.Set:
    """Return the real values of the symbol for which an inequality holds; for a positive symbol, positive values."""
    domain = sympy.Interval.open(0, sympy.oo) if symbol.is_positive else sympy.S.Reals
    if relation in (sympy.true, sympy.false):
        return domain if relation == sympy.true else sympy.EmptySet
    free = sympy.Dummy(real=True)
    return sympy.solve_univariate_inequality(relation.subs(symbol, free), free, relational=False, domain=domain)


def _sign(expression: Expr, symbol: Symbol) -> Expr:
    """Return a polynomial in the symbol with the sign of the expression wherever the other factors do not vanish."""
    tokens = {call: sympy.Dummy(real=True) for call in expression.atoms(sympy.Function)}
    hidden = [call for call in tokens if call.has(symbol)]
    real = {
        other: sympy.Dummy(other.name, real=True, positive=other.is_positive)
        for other in expression.free_symbols - {symbol}
    }
    numerator, denominator = sympy.fraction(sympy.together(expression.xreplace(tokens).xreplace(real)))
    sign = sympy.Integer(1)
    for part in (numerator, denominator):
        constant, factors = sympy.factor_list(part)
        sign *= sympy.sign(constant)
        for factor, power in factors:
            if power % 2 and factor.free_symbols <= {symbol}:
                sign *= factor
            elif power % 2 and not factor.is_positive:
                hidden.append(factor)
    if hidden:
        raise SmesolveError(
            f"symbol {symbol} does not decide the sign of the fourth cumulant, which depends on the factor "
            f"{hidden[0]}; put numbers in place of the other symbols."
        )
    return sign
