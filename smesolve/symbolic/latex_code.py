"""The modified equation in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import ImmutableMatrix

from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.symbol_names import latex_names

__all__ = ["align", "equation_latex", "shown", "words"]

LONGEST = 20_000
"""Characters of LaTeX that a notebook typesets without delay."""


def equation_latex(iteration: Iteration, drift_terms: Sequence[ImmutableMatrix], diffusion: ImmutableMatrix) -> str:
    """Return the SDE, and b_a and the columns C_c entry by entry without entries that are 0, as LaTeX."""
    symbols = set().union(iteration.state, [iteration.small], *(m.free_symbols for m in (*drift_terms, diffusion)))
    names = latex_names(sorted(symbols, key=sympy.default_sort_key))
    lr = rf"\mathrm{{{names[iteration.small]}}}"
    powers = ["", lr, *(f"{lr}^{{{a}}}" for a in range(2, len(drift_terms)))]
    drift = " + ".join(f"{powers[a]} b_{{{a}}}".strip() for a in range(len(drift_terms)))
    lines = [
        rf"d\Theta &= \left({drift}\right) dt"
        rf" + \sqrt{{{lr}}} \sum_{{c=1}}^{{{diffusion.cols}}} C_{{c}}\, dW_{{c}}"
    ]
    named = [(f"b_{{{a}}}", term) for a, term in enumerate(drift_terms)]
    named += [(f"C_{{{c + 1}}}", diffusion.col(c)) for c in range(diffusion.cols)]
    for name, column in named:
        for parameter, entry in zip(iteration.state, column, strict=True):
            if entry != 0:
                lines.append(rf"\left({name}\right)_{{{names[parameter]}}} &= {sympy.latex(entry, symbol_names=names)}")
    return align(lines)


def shown(environment: str) -> str:
    """Return an align* environment for a notebook: where it is long, its first lines and how many are left out."""
    if len(environment) <= LONGEST:
        return environment
    first, *lines = environment.removesuffix("\n\\end{align*}").split(" \\\\\n")
    kept = [first.removeprefix("\\begin{align*}\n")]
    while lines and sum(map(len, kept)) + len(lines[0]) <= LONGEST:
        kept.append(lines.pop(0))
    return align([*kept, words(f"{len(lines)} more lines: latex() returns all of them")])


def words(text: str) -> str:
    """Return text within mathematics."""
    escaped = "".join(rf"\{char}" if char in "&%$#_{}" else char for char in text.replace("^", "to the power "))
    return rf"\text{{{escaped}}}"


def align(lines: Sequence[str]) -> str:
    """Return the lines as one align* environment."""
    body = " \\\\\n".join(lines)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}"
