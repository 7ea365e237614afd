"""Hessians Lam of value functions along the noise-free path of the mean iteration, dense or of low rank.

Backwards from the Hessian of the observable, with the step h of the mean iteration, its adjoint lam and
H = Hess L_S(thetabar_j),

    Lam_j = J^T Lam_{j+1} J - h D^3 L_S[lam_{j+1}],      J = I - h H + h^2 H^2 / 2,                        (1)
    Q_j = C^T Lam_j C.                                                                                     (2)

Under a schedule, H is taken from the problem at t_j, and C from the problem just before t_j, because Q_j multiplies the
noise of the step that ends there.

Between grid points Lam and Q are interpolated linearly, as the grid for large D is coarser than most steps.

For D <= 256 the matrices are dense. For larger D the leading eigenpairs are followed: Lam_{j+1} = U^T S U gives
products with Lam_j at the cost of Hessian products, and two rounds of these on U and some random vectors (subspace
iteration with a Rayleigh-Ritz step: Halko, Martinsson, Tropp, SIAM Review 53, 2011) give the eigenpairs of Lam_j. The
truncation only changes the variance of the control variates (`python benchmarks/value_hessian_rank.py` measures by how
much).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.cost import HESSIAN_PRODUCT_COST
from smesolve.comparison.noise_free_path import DENSE_DIM, NoiseFreePath, batch_sizes, directional, row_by_row
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.kernels.bilinear_forms import bilinear
from smesolve.problem.observables import Observable
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.problem.reverse_derivative import linear_transpose, scalar_hessian_product
from smesolve.sampling.progress import Progress
from smesolve.solver.time_grid import ROUNDING, grid_numbers

__all__ = ["OVERSAMPLING", "RANK", "DenseForms", "LowRankForms", "ValueHessians", "value_hessians"]

HESSIAN_PRODUCTS = 500
"""Products at a grid point, for the progress bar, about."""

RANK, OVERSAMPLING = 32, 16
"""Number of eigenpairs that are kept, and of additional vectors for finding them."""


@dataclass(frozen=True)
class DenseForms:
    """Symmetric matrices A for some targets and all observables."""

    matrices: Tensor
    """(T, O, N, N)."""

    @property
    def targets(self) -> int:
        """T, the number of targets."""
        return self.matrices.shape[0]

    def bilinear(self, left: Tensor, right: Tensor, origin: Tensor | None = None) -> Tensor:
        """Return (left - origin)^T A right for each path, target and observable, (B, T, O). Cost of each: N^2."""
        forms: Tensor = torch.linalg.vecdot((left if origin is None else left - origin) @ self.matrices, right)
        return forms.movedim(-1, 0)

    def between(self, other: DenseForms, weight: float) -> DenseForms:
        """Return (1 - weight) A + weight A' for the targets of A', the last ones of A."""
        return DenseForms(torch.lerp(self.matrices[-other.targets :], other.matrices, weight))

    @cached_property
    def trace(self) -> Tensor:
        """The traces (T, O)."""
        return self.matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class LowRankForms:
    """Symmetric matrices A = F diag(s) F^T for some targets and all observables."""

    factors: Tensor
    """F (T, O, N, r), contiguous."""
    values: Tensor
    """s (T, O, r), contiguous."""

    @property
    def targets(self) -> int:
        """T, the number of targets."""
        return self.factors.shape[0]

    def bilinear(self, left: Tensor, right: Tensor, origin: Tensor | None = None) -> Tensor:
        """Return (left - origin)^T A right for each path, target and observable, (B, T, O). Cost of each: 2 r N."""
        found = bilinear(self.factors, self.values, left, right, origin)
        if found is not None:
            return found
        images = (left if origin is None else left - origin) @ self.factors  # (T, O, B, r)
        others = images if right is left and origin is None else right @ self.factors
        forms: Tensor = torch.linalg.vecdot(images * self.values[:, :, None], others)
        return forms.movedim(-1, 0)

    def between(self, other: LowRankForms, weight: float) -> LowRankForms:
        """Return (1 - weight) A + weight A' for the targets of A', the last ones of A: factors (F, F')."""
        own, rows = (1 - weight) * self.values, slice(-other.targets, None)
        factors = torch.cat([self.factors[rows], other.factors], -1)
        return LowRankForms(factors, torch.cat([own[rows], weight * other.values], -1))

    @cached_property
    def trace(self) -> Tensor:
        """The traces (T, O)."""
        traces: Tensor = (self.values * self.factors.square().sum(-2)).sum(-1)
        return traces


Forms = DenseForms | LowRankForms
"""Forms of either kind."""


@dataclass(frozen=True)
class ValueHessians:
    """Lam and Q = C^T Lam C of the mean iteration on a grid of times, for all targets or only for the last one."""

    spacing: float
    """Time between grid points."""
    hessians: list[DenseForms] | list[LowRankForms]
    """Lam (N = D) at grid point j, for the targets not before j: the last ones of the list."""
    quadratics: list[DenseForms] | list[LowRankForms] | None
    """Q (N = M) at grid point j, or None: with M > 2 D it costs too much, and noise that is not linear in its normals
    has none."""

    def hessian_at(self, time: float) -> Forms:
        """Return Lam at a time, for the targets not before it."""
        lam: Forms = _interpolated(self.hessians, time / self.spacing)
        return lam

    def quadratic_at(self, time: float) -> Forms | None:
        """Return Q at a time, for the targets not before it, or None."""
        if self.quadratics is None:
            return None
        Q: Forms = _interpolated(self.quadratics, time / self.spacing)
        return Q


def _interpolated(forms: Sequence[Any], position: float) -> Any:
    """Return forms at a position among grid points 0, 1, ...; near one, up to rounding, those given there."""
    before = round(position)
    if abs(position - before) <= ROUNDING * max(1.0, position):
        return forms[before]
    before = math.floor(position)
    return forms[before].between(forms[before + 1], position - before)


def value_hessians(
    problem: Problem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    lr: float,
    stability_limit: float | None = None,
) -> ValueHessians:
    """Compute the Hessians of the value functions along the mean iteration from theta0 (D,).

    For D <= 256 all targets are followed on the grid of the iteration, h = lr. For larger D only the last time is
    followed, with the largest h that divides it and keeps h lambda_max <= 1/2, so that one call serves all learning
    rates. `stability_limit` is 2/lambda_max up to the last time. Default: computed.

    Cost per grid point, time and observable: for D <= 256, 4 D Hessian products and three products of D x D matrices,
    memory D^2 + M^2 floats; for larger D, some 500 Hessian products, memory 32 (D + M) floats.
    """
    if problem.dim <= DENSE_DIM:
        return _dense(problem, theta0, times, observables, lr)
    limit = problem.stability_limit(theta0, times[-1]) if stability_limit is None else stability_limit
    return _low_rank(problem, theta0, times[-1], observables, limit)


def _has_quadratics(problem: Problem) -> bool:
    return problem.linear_noise and 0 < problem.noise_dim <= 2 * problem.dim


def _dense(
    problem: Problem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    lr: float,
) -> ValueHessians:
    targets = grid_numbers(times, lr, "times", "lr")
    path = NoiseFreePath.of(DropoutIteration(problem, lr), theta0, targets, observables, problem.reference_floats)
    work, states = problem.floats_per_path, path.states[:-1]

    def matrices(product: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
        """Return product(problem of the step, arrays at the step, vector) as matrices (K, D, D) for K steps."""

        def batch(here: Problem, at: Sequence[Tensor]) -> Tensor:
            return directional(partial(product, here), at, work)

        if problem.autonomous and problem.in_threads:
            return row_by_row(partial(product, problem), arrays)
        if problem.autonomous:
            return batch(problem, arrays)
        every_step = range(len(arrays[0]))
        return torch.cat([batch(problem.at(j * lr), [array[j : j + 1] for array in arrays]) for j in every_step])

    every_hessian = matrices(lambda here, at, v: here.hessian_product(at, v), states)

    def third_derivatives(target: int, observable: int) -> Tensor:
        """Return D^3 L_S[lam_{j+1}] for the steps before the target."""
        states = path.states[: targets[target]]
        behind = target - len(targets)
        lams = torch.stack([path.adjoints[j + 1][behind, observable] for j in range(len(states))])
        return matrices(_third_derivative, states, lams)

    every_third = [[third_derivatives(t, g) for g in range(len(observables))] for t in range(len(targets))]
    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    current = theta0.new_empty(0, len(observables), problem.dim, problem.dim)
    hessians, quadratics = [], []
    for step in range(targets[-1], -1, -1):
        if step < targets[-1]:
            H = every_hessian[step]
            J = identity - lr * H + lr**2 / 2 * (H @ H)
            ahead = range(len(targets) - current.shape[0], len(targets))
            third = torch.stack([every_third[t][g][step] for t in ahead for g in range(len(observables))])
            current = J.mT @ current @ J
            current -= third.mul_(lr).reshape(current.shape)  # (1)
        if step in targets:
            values = [_final_product(problem, g, path.states[step])(identity) for g in observables.values()]
            current = torch.cat([torch.stack(values)[None], current])
        hessians.append(DenseForms(current))
        if _has_quadratics(problem):
            factor = problem.at(step * lr, left_limit=True).noise_factor(path.states[step])
            quadratics.append(DenseForms(factor.mT @ current @ factor))  # (2)
    return ValueHessians(lr, hessians[::-1], quadratics[::-1] or None)


def _low_rank(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable], stability_limit: float
) -> ValueHessians:
    steps = max(1, math.ceil(4 * time / stability_limit))
    h = time / steps
    path = NoiseFreePath.of(DropoutIteration(problem, h), theta0, [steps], observables, problem.reference_floats)
    generator = torch.Generator(device="cpu").manual_seed(0)  # the vectors only find a subspace
    hessians, quadratics = [], []
    forms: LowRankForms | None = None
    each = HESSIAN_PRODUCTS * HESSIAN_PRODUCT_COST * len(observables)
    with Progress(False, (steps + 1) * each) as bar:
        for step in range(steps, -1, -1):
            eigenpairs = []
            for column, observable in enumerate(observables.values()):
                random = torch.randn(
                    RANK + OVERSAMPLING, problem.dim, generator=generator, dtype=torch.float64, device="cpu"
                ).to(theta0)
                if forms is None:
                    product = _final_product(problem, observable, path.states[step])
                else:
                    factors, values = forms.factors[0, column].mT, forms.values[0, column]
                    random[: len(factors)] = factors
                    here = problem.at(step * h)
                    product = _product(here, path.states[step], path.adjoints[step + 1][-1, column], factors, values, h)
                eigenpairs.append(_leading_eigenpairs(product, random))
            factors, values = (torch.stack(parts)[None] for parts in zip(*eigenpairs, strict=True))
            forms = LowRankForms(factors.mT.contiguous(), values)
            hessians.append(forms)
            if _has_quadratics(problem):
                before = problem.at(step * h, left_limit=True)
                through = _through_noise(before, path.states[step], factors).mT.contiguous()
                quadratics.append(LowRankForms(through, values))
            bar.done(each)
    return ValueHessians(h, hessians[::-1], quadratics[::-1] or None)


def _final_product(problem: Problem, observable: Observable, state: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map of vectors (k, D) to Hess g vectors."""
    return _in_batches(problem, lambda some: scalar_hessian_product(observable, state, some))


def _in_batches(problem: Problem, product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the same map of vectors (k, D), evaluated in batches with arrays of bounded size."""
    size, _ = batch_sizes(1, problem.dim, problem.reference_floats)
    return lambda vectors: torch.cat([product(some) for some in vectors.split(size)])


def _product(
    problem: Problem, state: Tensor, lam: Tensor, factors: Tensor, values: Tensor, h: float
) -> Callable[[Tensor], Tensor]:
    """Return the map of vectors (k, D) to Lam_j vectors (1), from the eigenpairs of Lam_{j+1}."""

    adjoint = _in_batches(problem, lambda some: problem.adjoint_product(state.expand_as(some), some))
    once = adjoint(factors)
    carried = factors - h * once + h**2 / 2 * adjoint(once)  # rows J^T u

    third = _in_batches(
        problem, lambda some: _third_derivative(problem, state.expand_as(some), lam.expand_as(some), some)
    )
    return lambda vectors: ((vectors @ carried.mT) * values) @ carried - h * third(vectors)


def _leading_eigenpairs(product: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvectors (r, D) and eigenvalues (r,) of largest modulus in the space of product(start)."""
    basis = torch.linalg.qr(product(start).mT).Q.mT
    projected = basis @ product(basis).mT
    values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
    leading = values.abs().argsort(descending=True)[:RANK]
    return vectors[:, leading].mT @ basis, values[leading]


def _third_derivative(problem: Problem, states: Tensor, lams: Tensor, vectors: Tensor) -> Tensor:
    """Return D^3 L_S[lam] vector at each state: the derivative of H^T lam along the vector, with H = -Db."""
    if not problem.conservative:
        return forward_derivative(lambda at: problem.adjoint_product(at, lams), states, vectors)[1]
    return problem.third_derivative(states.expand_as(vectors), lams.expand_as(vectors), vectors.contiguous())


def _through_noise(problem: Problem, state: Tensor, factors: Tensor) -> Tensor:
    """Return rows C^T u (..., M) for rows u (..., D), by the transpose of the noise product, which is linear."""
    zeros = factors.new_zeros(*factors.shape[:-1], problem.noise_dim)
    return linear_transpose(lambda normals: problem.noise_product(state, normals), zeros, factors)
