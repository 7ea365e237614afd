"""The modified equation in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import ImmutableMatrix, Symbol

from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.symbol_names import latex_names

__all__ = ["align", "equation_latex", "jump_latex", "shown", "words"]

LONGEST = 20_000
"""Characters of LaTeX that a notebook typesets without delay."""


def equation_latex(iteration: Iteration, drift_terms: Sequence[ImmutableMatrix], diffusion: ImmutableMatrix) -> str:
    """Return the SDE in LaTeX, followed by the nonzero entries of b_a and of the columns C_c."""
    names = _names(iteration, (*drift_terms, diffusion))
    lr = rf"\mathrm{{{names[iteration.small]}}}"
    equation = (
        rf"d\Theta &= \left({_series(lr, 'b', len(drift_terms))}\right) dt"
        rf" + \sqrt{{{lr}}} \sum_{{c=1}}^{{{diffusion.cols}}} C_{{c}}\, dW_{{c}}"
    )
    named = [(f"b_{{{a}}}", term) for a, term in enumerate(drift_terms)]
    named += [(f"C_{{{c + 1}}}", diffusion.col(c)) for c in range(diffusion.cols)]
    return align([equation, *_entries(iteration, names, named)])


def jump_latex(
    iteration: Iteration, drift_terms: Sequence[ImmutableMatrix], jump_terms: Sequence[ImmutableMatrix]
) -> str:
    """Return the jump equation in LaTeX, followed by the nonzero entries of b_a and xi_e.

    N counts the jumps. The random variables in xi_e are drawn anew at each jump.
    """
    names = _names(iteration, (*drift_terms, *jump_terms))
    lr = rf"\mathrm{{{names[iteration.small]}}}"
    jump = _series(lr, r"\xi", len(jump_terms))
    equation = (
        rf"d\Theta &= \left({_series(lr, 'b', len(drift_terms))}\right) dt"
        rf" + {lr} \left({jump}\right) dN,"
        rf" \qquad N \text{{ of rate }} 1/{lr}"
    )
    named = [(f"b_{{{a}}}", term) for a, term in enumerate(drift_terms)]
    named += [(rf"\xi_{{{e}}}", term) for e, term in enumerate(jump_terms)]
    return align([equation, *_entries(iteration, names, named)])


def _names(iteration: Iteration, matrices: Sequence[ImmutableMatrix]) -> dict[Symbol, str]:
    symbols = set().union(iteration.state, [iteration.small], *(matrix.free_symbols for matrix in matrices))
    return latex_names(sorted(symbols, key=sympy.default_sort_key))


def _series(lr: str, letter: str, terms: int) -> str:
    """Return letter_0 + lr letter_1 + ..."""
    powers = ["", lr, *(f"{lr}^{{{a}}}" for a in range(2, terms))]
    return " + ".join(f"{powers[a]} {letter}_{{{a}}}".strip() for a in range(terms))


def _entries(iteration: Iteration, names: dict[Symbol, str], named: Sequence[tuple[str, ImmutableMatrix]]) -> list[str]:
    """Return a line for each entry that is not 0."""
    return [
        rf"\left({name}\right)_{{{names[parameter]}}} &= {sympy.latex(entry, symbol_names=names)}"
        for name, column in named
        for parameter, entry in zip(iteration.state, column, strict=True)
        if entry != 0
    ]


def shown(environment: str) -> str:
    """Return an align* environment for a notebook; a long one is cut, and its last line counts the missing lines."""
    if len(environment) <= LONGEST:
        return environment
    first, *lines = environment.removesuffix("\n\\end{align*}").split(" \\\\\n")
    kept = [first.removeprefix("\\begin{align*}\n")]
    while lines and sum(map(len, kept)) + len(lines[0]) <= LONGEST:
        kept.append(lines.pop(0))
    return align([*kept, words(f"{len(lines)} more lines: latex() returns all of them")])


def words(text: str) -> str:
    """Return LaTeX code of a text within mathematics."""
    escaped = "".join(rf"\{char}" if char in "&%$#_{}" else char for char in text.replace("^", " to the power "))
    return rf"\text{{{escaped}}}"


def align(lines: Sequence[str]) -> str:
    """Return the lines as one align* environment."""
    body = " \\\\\n".join(lines)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}"
