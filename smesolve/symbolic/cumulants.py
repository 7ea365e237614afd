"""The obstructions to orders 3 and 4: the third and the fourth cumulant of one step.

**Order 3 by a diffusion.** The increment Delta = lr s_1 + ... of the iteration has the third cumulants lr^3 kappa_ijk,
where kappa_ijk are those of s_1. Over time lr, the third cumulant of an SDE driven by Brownian motion with noise
sqrt(lr) C is O(lr^4). Hence, where kappa does not vanish, no such SDE has weak order 3, for any drift and diffusion. An
equation with jumps does: `modified_equation(iteration, order=3)` derives it (`smesolve.symbolic.jump_equation`).

With s_1 = E s_1 + sum_l d_l q_l (monic orthogonal polynomials q_l of the random variables),

    kappa_ijk = sum_{l, l', l'' != 0} d_l,i d_l',j d_l'',k E[q_l q_l' q_l''].                                        (1)

**Order 4.** At lr^3 the generator (1/lr) log P of the iteration (`jump_equation`) has the fourth derivatives
1/24 kappa_4 : D^4, with the fourth cumulant kappa_4 of s_1. The generator A of a Markov process in continuous time,
with diffusion or jumps, is non-negative where a function has a minimum of 0 (positive maximum principle; Courrege
1966). For a direction u and f = <u, . - theta>^4 at theta,

    A f(theta) = lr^3 kappa_4(u, u, u, u) + O(lr^4),                                                                 (2)

if A agrees with (1/lr) log P through lr^3. Hence, where kappa_4 is negative in some direction, no Markov process whose
generator is a power series in lr has weak order 4. A coordinate direction is enough to show it:

    kappa_iiii = E xi_i^4 - 3 (E xi_i^2)^2,       xi = s_1 - E s_1.                                                  (3)

For scalar dropout with Bernoulli masks kappa_4 = (a/p - y)^4 (1 - p)(1 - 6 p (1 - p))/p^3 is negative for p between
(3 - sqrt 3)/6 = 0.211 and (3 + sqrt 3)/6 = 0.789. With Gaussian masks the gradient is quadratic in a normal variable,
and its fourth cumulant is not negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import prod

import sympy
from sympy import Expr, Integer, Symbol

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.symbolic.chaos_expansion import expand, mean_of_product, step_moment
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.latex_code import align, shown, words
from smesolve.symbolic.orthogonal_polynomials import tidy
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name, check_symbol
from smesolve.symbolic.term_count import check_products
from smesolve.symbolic.variable_functions import VariableFunctions
from smesolve.symbolic.zero_test import abbreviated, vanishes
from smesolve.validation import check_instance

__all__ = ["FourthCumulant", "ThirdCumulant", "fourth_cumulant", "third_cumulant"]


@dataclass(frozen=True)
class ThirdCumulant:
    """The third cumulants kappa_ijk of s_1, i <= j <= k."""

    state: tuple[Symbol, ...]
    small: Symbol
    entries: dict[tuple[int, int, int], Expr]

    @cached_property
    def nonzero(self) -> dict[tuple[int, int, int], Expr]:
        """The entries that do not vanish identically; every other entry is proven to be 0."""
        return {index: entry for index, entry in self.entries.items() if not vanishes(entry)}

    @property
    def vanishes(self) -> bool:
        """Whether all entries are identically 0, so that there is no obstruction."""
        return not self.nonzero

    @entry_point
    def roots(self, symbol: Symbol) -> list[Expr]:
        """Return the real values of a symbol, such as keep_prob, at which every entry is 0 for all other symbols.

        The list is exact and complete: it holds the real roots of the greatest common divisor of all coefficients as
        polynomials in the symbol; for a positive symbol, the positive roots.

        Raises:
            SmesolveError: if the symbol occurs inside a function such as tanh, or if all entries are identically 0.
        """
        check_symbol("symbol", symbol)
        named = set().union(*(entry.free_symbols for entry in self.entries.values()))
        check_one_symbol_per_name({"the third cumulant": named, "symbol": [symbol]})
        if self.vanishes:
            raise SmesolveError(f"symbol {symbol} has no roots: the third cumulant vanishes for all of its values.")
        coefficients: list[Expr] = []
        for entry in self.nonzero.values():
            tokens = {call: sympy.Dummy() for call in entry.atoms(sympy.Function)}
            if any(call.has(symbol) for call in tokens):
                raise SmesolveError(
                    f"symbol {symbol} occurs inside a function, where roots may have no finite list; take another."
                )
            numerator = sympy.numer(sympy.together(entry.xreplace(tokens)))
            others = sorted(numerator.free_symbols - {symbol}, key=sympy.default_sort_key)
            coefficients += sympy.Poly(numerator, *others).coeffs() if others else [numerator]
        divisor = sympy.gcd_list(coefficients)
        roots = sorted(set(sympy.real_roots(divisor, symbol))) if divisor.has(symbol) else []
        return [root for root in roots if root.is_positive or not symbol.is_positive]

    @property
    def simplest(self) -> tuple[str, Expr]:
        """The shortest entry that does not vanish: its name in LaTeX, and the expression, factored if it is short."""
        index, entry = min(self.nonzero.items(), key=lambda item: sympy.count_ops(item[1]))
        name = rf"\kappa_{{{', '.join(sympy.latex(self.state[i]) for i in index)}}}"
        return name, sympy.factor(entry) if sympy.count_ops(entry) < 100 else entry

    def _repr_latex_(self) -> str:
        counted = f"{len(self.nonzero)} of {len(self.entries)} third cumulants of the step do not vanish"
        if self.vanishes:
            return align([f"& {words(counted)}"])
        name, entry = self.simplest
        return shown(align([f"& {words(f'{counted}; the shortest is')}", rf"& {name} = {sympy.latex(entry)}"]))

    def __str__(self) -> str:
        if self.vanishes:
            return f"the third cumulant of the step vanishes ({len(self.entries)} entries proven zero): no obstruction"
        _, entry = self.simplest
        return (
            f"{len(self.nonzero)} of {len(self.entries)} third cumulants of the step do not vanish, which obstructs "
            f"order 3; the shortest is {abbreviated(entry)}. No diffusion has them; the jump equation, "
            "modified_equation(iteration, order=3), does."
        )


@entry_point
def third_cumulant(iteration: Iteration) -> ThirdCumulant:
    """Derive kappa by (1). Cost: columns^3 products for each of about D^3/6 entries."""
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    functions = iteration.functions
    _, *columns = expand(functions, iteration.step_monomials[0]).items()
    size = len(iteration.state)
    terms = 1 + max((max(degrees) for degrees, _ in columns), default=0)  # of a polynomial
    check_products("the third cumulant", float(len(columns) * terms) ** 3, len(columns) * terms, size)
    monic = []
    for degrees, column in columns:
        norm = prod((sympy.sqrt(f.norms[j]) for f, j in zip(functions, degrees, strict=True)), start=Integer(1))
        monic.append((degrees, [entry / norm for entry in column]))
    triples = []
    for chosen in product(monic, repeat=3):
        if any(sum(map(bool, each)) == 1 for each in zip(*(degrees for degrees, _ in chosen), strict=True)):
            continue  # a variable that occurs in one polynomial only has mean 0
        weight = _triple_mean(functions, [degrees for degrees, _ in chosen])
        if weight != 0:
            triples.append((weight, [column for _, column in chosen]))
    entries = {
        index: sympy.Add(
            *(weight * prod(c[i] for c, i in zip(columns, index, strict=True)) for weight, columns in triples)
        )
        for index in combinations_with_replacement(range(len(iteration.state)), 3)
    }
    return ThirdCumulant(tuple(iteration.state), iteration.small, entries)


def _triple_mean(functions: Sequence[VariableFunctions], degrees: Sequence[tuple[int, ...]]) -> Expr:
    """Return E[q_l q_l' q_l''] of (1), variable by variable."""
    factors = (f.polynomials.mean_of_product(each) for f, *each in zip(functions, *degrees, strict=True))
    return tidy(prod(factors, start=Integer(1)))


@dataclass(frozen=True)
class FourthCumulant:
    """The fourth cumulants kappa_iiii of s_1, and its variances."""

    state: tuple[Symbol, ...]
    entries: tuple[Expr, ...]
    """kappa_iiii of (3), for each state variable."""
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
    """Derive kappa_iiii by (3). Cost: the fourth power of the step, for each state variable."""
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    entries, variances = [], []
    for i, entry in enumerate(iteration.step_terms[0]):
        xi = iteration.monomials(entry - step_moment(iteration, [(0, i)]), iteration.functions)
        variance = mean_of_product(iteration.functions, [xi] * 2)
        variances.append(variance)
        entries.append(mean_of_product(iteration.functions, [xi] * 4) - 3 * variance**2)  # (3)
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
    sign = sympy.Integer(2)
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
