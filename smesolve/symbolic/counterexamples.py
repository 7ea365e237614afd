"""Equations that are not the modified equation, for `verify` to reject with the order that they do have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sympy
from sympy import Matrix, Rational

from smesolve.arguments import INDEX, checked
from smesolve.errors import SmesolveError
from smesolve.symbolic.chaos_expansion import step_moment
from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.modified_equation import SymbolicModifiedEquation, modified_equation
from smesolve.symbolic.real_calculus import derivative

__all__ = ["averaged_modified_flow", "without_blocks"]


@checked
def averaged_modified_flow(iteration: Iteration) -> SymbolicModifiedEquation:
    """The flow of R_S + R_1 + R_2 with R_2 = lr/4 E|s_1|^2 (Zhang & Xu, TPAMI 2024), put to the test of order 2.

    For gradient steps s_1 = -grad R_S(theta; eta): dTheta = -grad(L_S + R_2) dt, without noise. As R_2 = lr/4
    (|grad L_S|^2 + Tr Sigma), its drift has -lr/4 grad Tr Sigma too much, and it is of order 1 with or without noise.
    """
    size = range(len(iteration.state))
    energy = sympy.Add(*(step_moment(iteration, [(0, i), (0, i)]) for i in size))
    b0 = modified_equation(iteration, order=1).drift_terms[0]
    return SymbolicModifiedEquation(
        iteration=iteration,
        order=2,
        drift_terms=(b0, -Rational(1, 4) * Matrix([derivative(energy, theta) for theta in iteration.state])),
        diffusion=sympy.zeros(len(size), 1),
    )


@checked(groups=INDEX)
def without_blocks(equation: SymbolicModifiedEquation, groups: Sequence[Sequence[int]]) -> SymbolicModifiedEquation:
    """The same drift, and a diffusion in which groups of state variables have independent noise.

    Its covariance is Sigma without the blocks between different groups: with a neuron's parameters as a group, the
    Sigma_kk are right and all Sigma_kr are missing.
    """
    rows = equation.diffusion.rows
    outside = [i for group in groups for i in group if i >= rows]
    if outside:
        raise SmesolveError(f"groups must hold indices of the {rows} state variables, got {outside[0]}; count from 0.")
    columns = []
    for group in groups:
        for c in range(equation.diffusion.cols):
            kept = [equation.diffusion[i, c] if i in group else 0 for i in range(equation.diffusion.rows)]
            if any(kept):
                columns.append(kept)
    return dataclasses.replace(equation, diffusion=Matrix(columns).T)
