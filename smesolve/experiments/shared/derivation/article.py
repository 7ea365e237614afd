"""A LaTeX article around a derived equation."""

from __future__ import annotations

import re

import sympy

from smesolve.experiments.shared.derivation.derivation import Derivation
from smesolve.experiments.shared.latex_lines import PAGE_WIDTH, broken, widest
from smesolve.symbolic.latex_code import align

__all__ = ["article"]

WIDEST = 14000.0
"""Text width (points) of the widest page that PDF viewers can show."""


def article(derivation: Derivation) -> str:
    """Return a complete article; long sums are broken between terms, and the page is as wide as the longest line."""
    equation, verification = derivation.equation, derivation.verification
    body = broken(equation.latex())
    sections = [
        rf"{_escaped(derivation.description)} Equation of order {equation.order}; its one-step moments and those of "
        "the iteration are proven to agree up to "
        f"$\\mathrm{{{equation.iteration.small}}}^{{{verification.agreement}}}$.",
        body,
        r"\section*{Order 3}",
        *_obstruction(derivation),
    ]
    if derivation.counterexamples:
        sections += [r"\section*{Rejected}", r"\begin{itemize}"]
        sections += [
            rf"\item {_escaped(name)}: claims order {proof.claimed} and has order {proof.order}"
            for name, proof in derivation.counterexamples.items()
        ]
        sections.append(r"\end{itemize}")
    if derivation.formulas:
        exact = [claim.latex for claim in derivation.formulas.claims if claim.exact]
        wrong = [claim.latex for claim in derivation.formulas.claims if not claim.exact]
        sections += [r"\section*{Formulas of the papers}", derivation.formulas.latex(), "Exact, by proof:"]
        sections += [rf"\[{latex}\]" for latex in dict.fromkeys(exact)]
        sections.append("Not exact:")
        sections += [rf"\[{latex}\]" for latex in dict.fromkeys(wrong)]
    if derivation.expansion:
        sections += [
            r"\section*{Any width}",
            "The gradient is one pullback of the cotangents $c_k$ of the contributions $z_k$ of the neurons; here "
            "$F = \\sum_r z_r + b$, $P_c = \\sum_r z_r^c$, $W_a$ is the mean of the $a$-th derivative of the loss, and "
            "the noise is $c_k - \\mathrm{E}\\, c_k = \\partial \\Phi / \\partial z_k$ with independent standard "
            "normals $\\xi^{(l)}$ for every choice of distinct neurons with degrees $l$:",
            derivation.expansion.latex(),
        ]
    mathematics = [section for section in sections if section.startswith(r"\begin{align")]
    width = min(max(PAGE_WIDTH, *map(widest, mathematics)), WIDEST)
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage{amsmath}",
            rf"\usepackage[textwidth={width:.0f}pt,paperwidth={width + 120:.0f}pt]{{geometry}}",
            r"\allowdisplaybreaks",
            r"\begin{document}",
            r"\section*{Stochastic modified equation}",
            *sections,
            r"\end{document}",
            "",
        ]
    )


def _obstruction(derivation: Derivation) -> list[str]:
    if derivation.obstruction.vanishes:
        return ["The third cumulant of the step vanishes: it does not obstruct an equation of order 3."]
    name, entry = derivation.obstruction.simplest
    count = f"{len(derivation.obstruction.nonzero)} of {len(derivation.obstruction.entries)}"
    return [
        f"{count} third cumulants of the step do not vanish, which no diffusion has; an equation with jumps does. The "
        "shortest is",
        broken(align([f"{name} &= {sympy.latex(entry)}"])),
        *(
            f"Values of ${sympy.latex(symbol)}$ at which it vanishes whatever the other symbols are: "
            f"${sympy.latex(sympy.FiniteSet(*roots))}$."
            for symbol, roots in derivation.unobstructed.items()
        ),
    ]


def _escaped(text: str) -> str:
    """Return plain text as LaTeX shows it."""
    words = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\textasciitilde{}", "\n": " "}
    return re.sub(r"[_#$%&{}\\^~\n]", lambda found: words.get(found[0], f"\\{found[0]}"), text)
