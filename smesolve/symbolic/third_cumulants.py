"""The obstruction to a diffusion of order 3: the third cumulant of one step.

The increment Delta = lr s_1 + ... of the iteration has the third cumulants lr^3 kappa_ijk, where kappa_ijk are those of
s_1. Over time lr, the third cumulant of an SDE driven by Brownian motion with noise sqrt(lr) C is O(lr^4). Hence, where
kappa does not vanish, no such SDE has weak order 3, for any drift and diffusion. An equation with jumps does:
`modified_equation(iteration, order=3)` derives it (`smesolve.symbolic.jump_equation`).

With s_1 = E s_1 + sum_l d_l q_l (monic orthogonal polynomials q_l of the random variables),

    kappa_ijk = sum_{l, l', l'' != 0} d_l,i d_l',j d_l'',k E[q_l q_l' q_l''].                                        (1)
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
from smesolve.symbolic.abbreviation import abbreviated
from smesolve.symbolic.chaos_expansion import expand
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.latex_code import align, shown, words
from smesolve.symbolic.orthogonal_polynomials import tidy
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name, check_symbol
from smesolve.symbolic.term_count import check_products
from smesolve.symbolic.variable_functions import VariableFunctions
from smesolve.symbolic.zero_test import vanishes
from smesolve.validation import check_instance

__all__ = ["ThirdCumulant", "third_cumulant"]


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
