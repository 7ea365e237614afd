"""Equations that differ from the modified equation; `verify` rejects them and reports their true order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Matrix, Rational

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.symbolic.chaos_expansion import step_moment
from smesolve.symbolic.equation import SymbolicModifiedEquation, modified_equation
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.real_calculus import derivative
from smesolve.validation import check_instance, check_integer, check_list

__all__ = ["averaged_modified_flow", "without_blocks"]


@entry_point
def averaged_modified_flow(iteration: Iteration) -> SymbolicModifiedEquation:
    """Return the flow of R_S + R_1 + R_2 (Zhang & Xu, TPAMI 2024) as an equation that claims order 2.

    For gradient steps s_1 = -grad R_S(theta; eta), without noise,

        dTheta = -grad(L_S + R_2) dt,    R_2 = lr/4 E|s_1|^2 = lr/4 (|grad L_S|^2 + Tr Sigma).                       (1)

    The drift of the modified equation of order 2 does not have the term -lr/4 grad Tr Sigma, so that this flow has
    order 1, with or without noise.
    """
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    size = range(len(iteration.state))
    energy = sympy.Add(*(step_moment(iteration, [(0, i), (0, i)]) for i in size))  # E|s_1|^2 of (1)
    b0 = modified_equation(iteration, order=1).drift_terms[0]
    return SymbolicModifiedEquation(
        iteration=iteration,
        order=2,
        drift_terms=(b0, -Rational(1, 4) * Matrix([derivative(energy, theta) for theta in iteration.state])),
        diffusion=sympy.zeros(len(size), 1),
    )


@entry_point
def without_blocks(equation: SymbolicModifiedEquation, groups: Sequence[Sequence[int]]) -> SymbolicModifiedEquation:
    """Return the equation with independent noise in each group of state variables.

    The covariance becomes Sigma without the blocks between different groups: if a group holds a neuron's parameters,
    the blocks Sigma_kk are right and all Sigma_kr are missing. State variables outside all groups have no noise.

    Args:
        equation: the equation.
        groups: indices of state variables, from 0, group by group. No index is in two groups.
    """
    check_instance("equation", equation, SymbolicModifiedEquation, "a SymbolicModifiedEquation")
    rows = equation.diffusion.rows

    def group_of(name: str, group: Any) -> list[int]:
        indices = check_list(name, group, lambda entry, index: check_integer(entry, index, 0))
        if max(indices) >= rows:
            raise invalid(name, f"hold indices of the {rows} state variables", group, "count from 0")
        return indices

    groups = check_list("groups", groups, group_of)
    indices = [index for group in groups for index in set(group)]
    for index in indices:
        if indices.count(index) > 1:
            raise invalid("groups", "hold each index once", groups, f"leave out index {index} in all groups but one")
    columns = []
    for group in groups:
        for c in range(equation.diffusion.cols):
            kept = [equation.diffusion[i, c] if i in group else 0 for i in range(rows)]
            if any(kept):
                columns.append(kept)
    return dataclasses.replace(equation, diffusion=Matrix(columns).T if columns else sympy.zeros(rows, 1))
