"""Derive the modified equation of a random iteration and prove its order."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import sympy

from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.derivation.article import article
from smesolve.experiments.shared.derivation.derivation import Derivation, derive, derived_iteration, description
from smesolve.experiments.shared.derivation.settings import DeriveSettings
from smesolve.experiments.shared.dry_run import memory_in_words, time_in_words
from smesolve.experiments.shared.experiment import Experiment
from smesolve.experiments.shared.latex_lines import broken, shortened
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Section
from smesolve.sampling.progress import Progress
from smesolve.symbolic import SymbolicJumpEquation, Verification, modified_equation
from smesolve.symbolic.latex_code import align

__all__ = ["Derive"]

ARTICLE = 2.5
"""Work of the article, in units of a proof: it checks formulas of papers, too."""

TRIED = 10.0
"""Seconds of a derivation that a dry run takes at most, and a little more."""

LONGEST = 1000
"""Largest number of characters of an expression in a report."""

LONGEST_LINE = 600
"""Largest number of characters of LaTeX of an entry of the equation in a report."""


@experiment("derive")
class Derive(Experiment[DeriveSettings]):
    """Derive the modified equation of a random iteration and prove its order."""

    Settings = DeriveSettings
    title = "Stochastic modified equation, derived"
    example = "--iteration dropout --width 2 --order 2 --out results/derivation"
    writes = "equation.tex (LaTeX article), equation.py (torch module)"

    def cells(self) -> list[Cell]:
        """Return the derivation as one cell, which is not kept, because expressions cannot be stored."""
        return [Cell("derivation", self._derived, kept=False)]

    def _derived(self) -> tuple[Derivation, str]:
        """Return the derivation and its LaTeX article."""
        with Progress(False, ARTICLE, late=True) as bar:
            derivation = derive(self.settings)
            with bar.part(ARTICLE):
                bar.describe("article")
                written = article(derivation)
        return derivation, written

    def measured(self) -> str:
        """Return the iteration in one sentence."""
        return plain(description(self.settings))

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return what is proven, what is not, and which equations were rejected."""
        ((derivation, written),) = results
        files = {"equation.tex": written}
        if derivation.module:
            files["equation.py"] = derivation.module
        return [Section("The equation", {}, {}, _text(derivation), _conclusion(derivation), files)]

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return the estimated time, from the derivation itself or from `TRIED` seconds of it."""
        s, clock = self.settings, time.process_time()
        bar = _Limited(clock + TRIED)
        with suppress(_OutOfTimeError), bar:
            self.summarise([self._derived()])
        seconds = (time.process_time() - clock) / bar.filled
        iteration = derived_iteration(s)
        equation = modified_equation(iteration, order=s.order)
        return {
            "problem": f"{s.iteration}, order {s.order}",
            "cells": "1",
            "D": str(len(iteration.state)),
            "M": "none: jumps" if isinstance(equation, SymbolicJumpEquation) else str(equation.diffusion.cols),
            "steps": "none: nothing is simulated",
            "paths": "none",
            "time": time_in_words({"derivation and proof": seconds}, overhead),
            "memory": memory_in_words(0.0, None),
        }


class _OutOfTimeError(Exception):
    """The time of a dry run is over."""


class _Limited(Progress):
    """A hidden bar that ends the work by `_OutOfTimeError` at a processor time, once some of it is done."""

    def __init__(self, end: float) -> None:
        super().__init__(False)
        self._end = end

    def done(self, work: float, before: bool = False) -> None:
        """Count work as done.

        Raises:
            _OutOfTimeError: the time is over.
        """
        super().done(work, before)
        if time.process_time() > self._end and self.left:
            raise _OutOfTimeError


def _text(derivation: Derivation) -> str:
    """Return what was derived, in Markdown."""
    equation, verification = derivation.equation, derivation.verification
    small = equation.iteration.small
    if isinstance(equation, SymbolicJumpEquation):
        noise = f"a drift, and jumps at rate 1/{small}, each with a fresh draw of the random variables"
    else:
        noise = (
            f"{equation.diffusion.cols} Brownian motions, diffusion factor exact (from the expansion in orthonormal "
            "polynomials, no matrix root)"
        )
    parts = [
        f"State ({len(equation.iteration.state)}): "
        f"{', '.join(map(str, equation.iteration.state))}. Every other symbol of the equation is free.",
        f"Equation of order {equation.order} in {small}: {noise}. It is in `equation.tex`"
        + (
            " and, as a torch module, in `equation.py`."
            if derivation.module
            else "; there is no code for an undefined activation."
        ),
        _formula(equation.latex()),
        "## What is proven",
        _proof(verification),
        "## First mismatch",
        _mismatch(verification),
        "## Order 3",
        f"At {small}^3 the third cumulant of the step enters, which is zero for every SDE driven by Brownian motion.",
        _obstruction(derivation),
        *(
            f"Values of {symbol} at which it vanishes whatever the other symbols are: "
            f"{', '.join(map(str, roots)) or 'none'}."
            for symbol, roots in derivation.unobstructed.items()
        ),
    ]
    if derivation.counterexamples:
        parts.append("## Rejected")
        parts.append("Equations that one might take for the modified equation of order 2:")
        parts.append("\n".join(f"- {name}: {_verdict(proof)}" for name, proof in derivation.counterexamples.items()))
    if derivation.formulas:
        parts.append("## Formulas of the papers")
        parts.append("Each was compared entry by entry with the result from the moments of the masks:")
        parts.append("\n".join(f"- {claim}" for claim in derivation.formulas.claims))
    if derivation.expansion:
        parts.append("## Any width")
        parts.append(
            "For dropout on the last hidden layer the gradient is one pullback of cotangents c_k of the contributions "
            "z_k of the neurons, whatever the width, the data and the activation: F = sum_r z_r + b, P_c = sum_r "
            "z_r^c, W_a is the mean of the a-th derivative of the loss, and c_k - E c_k = dPhi/dz_k with independent "
            "standard normals xi_l for every choice of distinct neurons with degrees l:"
        )
        parts.append("\n".join(f"    {line}" for line in str(derivation.expansion).splitlines()))
    return join(*parts)


def _conclusion(derivation: Derivation) -> str:
    """Return what is proven, and what is refuted."""
    verification, small = derivation.verification, derivation.equation.iteration.small
    lines = [
        f"Weak order {verification.order} in {small} is "
        + ("proven, at the level of one-step moments" if verification.holds else "all that is proven"),
        "The third cumulant of the step vanishes and does not obstruct order 3"
        if derivation.obstruction.vanishes
        else "No diffusion has order 3, because the third cumulant of the step does not vanish; an equation with jumps "
        "has order 3 (order: 3)",
        *(
            f"Rejected: {name}, which claims order {proof.claimed} and has order {proof.order}"
            for name, proof in derivation.counterexamples.items()
        ),
    ]
    if derivation.formulas:
        exact = sum(claim.exact for claim in derivation.formulas.claims)
        lines.append(f"{exact} of {len(derivation.formulas.claims)} formulas of the papers are exact")
    return "All statements are proven by algebra, none is estimated:\n\n" + "\n".join(f"- {x}." for x in lines)


def _proof(verification: Verification) -> str:
    agreeing = sum(check.difference == 0 for check in verification.checked)
    kinks = bool(verification.smoothness.kinks)
    verdict = (
        f"Weak order {verification.order} is proven at the level of moments"
        if verification.holds
        else f"The claimed weak order {verification.claimed} {'is NOT PROVEN' if kinks else 'FAILS'}; order "
        f"{verification.order} is proven"
    )
    small = verification.small
    moments = (
        f"{verdict}: the one-step moments of iteration and SDE agree up to {small}^{verification.agreement}; "
        f"{agreeing} coefficients were proven equal by sympy."
    )
    if kinks:
        return f"{moments} {verification.assumption}"
    return (
        f"{moments} {verification.assumption} With the growth conditions of the theorem, which are analysis and not "
        f"algebra, the weak error on a fixed horizon is O({small}^{verification.order})."
    ).replace("  ", " ")


def _mismatch(verification: Verification) -> str:
    if verification.first_mismatch is None:
        return f"There is none up to the next power of {verification.small}."
    index, power, difference = verification.first_mismatch
    moment = " ".join(f"Δ[{verification.state[i]}]" for i in index)
    text = str(difference)
    return (
        f"At {verification.small}^{power}, in E[{moment}]; iteration minus SDE is an expression of "
        f"{difference.count_ops()} operations that is not zero." + (f"\n\n    {text}" if len(text) <= LONGEST else "")
    )


def _obstruction(derivation: Derivation) -> str:
    obstruction = derivation.obstruction
    if obstruction.vanishes:
        return f"Here {obstruction}."
    name, entry = obstruction.simplest
    return (
        f"Here {len(obstruction.nonzero)} of {len(obstruction.entries)} third cumulants of the step do not vanish; the "
        f"shortest is\n\n{_formula(align([f'{name} &= {sympy.latex(entry)}']))}"
    )


def _formula(lines: str) -> str:
    """Return an align* environment in Markdown with lines that fit a page."""
    return f"```math\n{broken(shortened(lines, LONGEST_LINE))}\n```"


def _verdict(verification: Verification) -> str:
    """Return the claimed order of an equation, its order, and the first mismatch."""
    assert verification.first_mismatch is not None
    index, power, _ = verification.first_mismatch
    moment = " ".join(f"Δ[{verification.state[i]}]" for i in index)
    return (
        f"claims order {verification.claimed} and has order {verification.order}; first mismatch at "
        f"{verification.small}^{power} in E[{moment}]"
    )
