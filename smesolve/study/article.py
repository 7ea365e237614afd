"""A LaTeX article around a derived equation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from smesolve.study.configuration import DeriveConfig

if TYPE_CHECKING:
    from smesolve.symbolic import CotangentExpansion, SymbolicModifiedEquation, Verification

__all__ = ["article"]

GLYPH = 5.5
"""Points of width that a symbol takes on average, in 10pt mathematics."""

NARROWEST, WIDEST = 430.0, 14000.0
"""Text width (points): of a usual page, and the most that PDF viewers show."""


def article(
    config: DeriveConfig,
    equation: SymbolicModifiedEquation,
    verification: Verification,
    structure: CotangentExpansion,
) -> str:
    """A complete article; long sums are broken between their terms, and the page is as wide as the longest term."""
    body = _broken(equation.latex())
    general = structure.latex()
    width = min(max(NARROWEST, *(_width(line) for line in (body + general).split(r"\\"))), WIDEST)
    lines = [
        r"\documentclass{article}",
        r"\usepackage{amsmath}",
        rf"\usepackage[textwidth={width:.0f}pt,paperwidth={width + 120:.0f}pt]{{geometry}}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
        r"\section*{Stochastic modified equation of dropout}",
        f"Network with {config.in_features} inputs, {config.width} hidden neurons under dropout and "
        f"{config.out_features} outputs on {config.samples} samples, squared error, a fresh mask in every step. "
        f"Equation of order {config.order}; its one-step moments and those of the iteration are proven to agree up to "
        f"$\\mathrm{{lr}}^{{{verification.order}}}$.",
        body,
        r"\section*{Any width}",
        "The gradient is one pullback of the cotangents $c_k = \\sum_r S_{kr} z_r + u_k (b - y)$ of the contributions "
        "$z_k$ of the neurons, with $e = \\sum_r z_r + b - y$ and independent standard normals $\\xi_k$, "
        "$\\Xi_{kr} = \\Xi_{rk}$:",
        general,
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _broken(align: str) -> str:
    """An align environment whose lines wider than a page are broken before terms of their outermost sum."""
    lines = []
    for line in align.split(" \\\\\n"):
        rows = [""]
        for term in _terms(line):
            if rows[-1] and _width(rows[-1] + term) > NARROWEST:
                rows.append(r"&\quad ")
            rows[-1] += term
        lines += rows
    return " \\\\\n".join(lines)


def _terms(line: str) -> list[str]:
    """The line cut before each + and - that stands outside all brackets."""
    terms, depth = [""], 0
    for token in re.findall(r"\\[a-zA-Z]+|.", line, flags=re.DOTALL):
        depth += (token in (r"\left", "{")) - (token in (r"\right", "}"))
        if token in "+-" and depth == 0 and "&=" in "".join(terms):
            terms.append("")
        terms[-1] += token
    return terms


def _width(line: str) -> float:
    """Width of a line of LaTeX in points, estimated high: fractions and indices are narrower than they count here."""
    invisible = r"\\(?:left|right|frac|mathrm|operatorname)\b|[{}_^\\\s]"
    return GLYPH * len(re.sub(r"\\[a-zA-Z]+", "x", re.sub(invisible, "", line)))
