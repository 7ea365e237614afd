"""Martingale control variates along the noise-free path.

Let thetabar_j be the noise-free path of a process, u_j(theta) = phi(noise-free flow from step j to the target step K)
the value function, lam_j and Lam_j its gradient and Hessian at thetabar_j. A step from theta_j has a prediction, known
before its noise, and a noise increment nu_j of conditional mean zero. Then

    cv_1 = sum_j < lam_{j+1}, nu_j >,      cv_2 = sum_j < Lam_{j+1} (prediction_j - predictionbar_j), nu_j >

are martingales: E cv_1 = E cv_2 = 0 whatever lam and Lam are. With the true ones, phi(theta_K) - cv_1 - cv_2 has
lost its Taylor terms of first and second order in the noise, and its standard deviation falls from O(lr^0.5) to
O(lr^1.5).

lam is exact for each process (adjoint recursion through its own noise-free step). Lam only moves the variance, so one
Lam, that of the mean iteration, serves the iteration and every scheme: it is off by O(lr), which costs O(lr^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from smesolve.comparison.observables import Observable
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.sampling.ensemble import Process, Step

__all__ = ["ControlVariate", "NoiseFreePath", "ValueHessians", "value_hessians"]

DENSE_DIM = 256
"""Up to this D every Hessian of every target is kept; beyond, those of the last target step on a coarser grid."""


@dataclass(frozen=True)
class NoiseFreePath:
    """The noise-free path of a process and the adjoints of all targets along it."""

    predictions: Tensor
    """predictionbar_j (K, D)."""
    adjoints: list[Tensor]
    """lam_j for j = 0..K: (targets still ahead at j, observables, D), the targets being the last ones of the list."""

    @classmethod
    def of(
        cls, process: Process, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
    ) -> NoiseFreePath:
        """Integrate without noise, then the adjoints back. Cost: K steps and K pullbacks of one path."""
        states, predictions = [theta0], []
        for step in range(saved[-1]):
            state, prediction = process.noise_free_step(states[-1], step)
            states.append(state)
            predictions.append(prediction)

        adjoints: list[Tensor] = []
        current = theta0.new_empty(0, len(observables), theta0.shape[-1])
        for step in range(saved[-1], -1, -1):
            if step < saved[-1]:
                _, pullback = torch.func.vjp(lambda theta, k=step: process.noise_free_step(theta, k)[0], states[step])
                flat = torch.func.vmap(lambda vector, pull=pullback: pull(vector)[0])(current.flatten(0, 1))
                current = flat.unflatten(0, current.shape[:2])
            if step in saved:
                gradients = torch.stack([torch.func.grad(g)(states[step]) for g in observables.values()])
                current = torch.cat([gradients[None], current])
            adjoints.append(current)
        return cls(torch.stack(predictions), adjoints[::-1])


@dataclass(frozen=True)
class ValueHessians:
    """Lam of the mean iteration on a grid of times, for all targets or for those of the last step alone."""

    spacing: float
    """Time between grid points."""
    hessians: list[Tensor]
    """At grid point j: (targets still ahead, observables, D, D), the targets being the last ones of the list."""

    def at(self, time: float) -> Tensor:
        """Lam at the first grid point not before a time, so that targets drop out when they are passed."""
        return self.hessians[math.ceil(time / self.spacing - 1e-9)]


def value_hessians(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    saved: Sequence[int],
    observables: Mapping[str, Observable],
) -> ValueHessians:
    """Hessians of the value functions along the mean iteration with step h: one recursion of D x D matrices.

    Lam_j = J^T Lam_{j+1} J - h DH[lam_{j+1}], J = I - h H + h^2 H^2 / 2, H = Hess L_S(thetabar_j). For D <= 256 the
    grid is that of the iteration, h = lr. For larger D only the last target step is followed, on a grid as coarse
    as h lambda_max <= 1/2 allows, in float32. Cost a grid point: 4 D Hessian products and, for each target and
    observable, two products of D x D matrices; memory D^2 numbers each.
    """
    dense = problem.dim <= DENSE_DIM
    stride = 1
    if not dense:
        coarse = max(1, int(problem.stability_limit(theta0) / (4 * lr)))
        stride = max(s for s in range(1, coarse + 1) if saved[-1] % s == 0)
    targets = [step // stride for step in saved] if dense else [saved[-1] // stride]
    spacing = stride * lr
    iteration = DropoutIteration(problem, spacing)
    path = NoiseFreePath.of(iteration, theta0, targets, observables)
    states = [theta0]
    for step in range(targets[-1]):
        states.append(iteration.noise_free_step(states[-1], step)[0])

    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    chunk = None if dense else 4 * problem.block_size

    def hessian_of(function: Observable, theta: Tensor) -> Tensor:
        slope = torch.func.grad(function)
        return torch.func.vmap(lambda v: torch.func.jvp(slope, (theta,), (v,))[1], chunk_size=chunk)(identity)

    def third_derivative(theta: Tensor, direction: Tensor) -> Tensor:
        def along(vector: Tensor) -> Tensor:
            return torch.func.jvp(lambda at: problem.hessian_product(at, vector), (theta,), (direction,))[1]

        return torch.func.vmap(along, chunk_size=chunk)(identity)

    stored = problem.dtype if dense else torch.float32
    current = theta0.new_empty(0, len(observables), problem.dim, problem.dim)
    hessians: list[Tensor] = []
    for step in range(targets[-1], -1, -1):
        if step < targets[-1]:
            theta = states[step]
            H = torch.func.vmap(lambda v, at=theta: problem.hessian_product(at, v), chunk_size=chunk)(identity)
            J = identity - spacing * H + spacing**2 / 2 * (H @ H)
            ahead = path.adjoints[step + 1]
            bend = torch.stack([torch.stack([third_derivative(theta, lam) for lam in row]) for row in ahead])
            current = J.mT @ current @ J - spacing * bend
        if step in targets:
            values = torch.stack([hessian_of(g, states[step]) for g in observables.values()])
            current = torch.cat([values[None], current])
        hessians.append(current.to(stored))
    return ValueHessians(spacing, hessians[::-1])


@dataclass(frozen=True)
class ControlVariate:
    """The control variates of one process for all targets (saved steps) and observables.

    Up to order 1 only cv_1, at order 2 also cv_2 for the targets that have Hessians.
    """

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    hessians: ValueHessians | None = field(default=None)

    @property
    def count(self) -> int:
        """Control variates for each target and observable."""
        return 1 if self.hessians is None else 2

    def add(self, totals: Tensor, step: int, taken: Step) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place."""
        adjoints = self.path.adjoints[step + 1]
        ahead = totals.shape[2] - adjoints.shape[0]
        totals[0, :, ahead:] += torch.einsum("bd,tod->bto", taken.increment, adjoints)
        if self.hessians is None:
            return
        hessians = self.hessians.at((step + 1) * self.step_time)
        deviation = (taken.prediction - self.path.predictions[step]).to(hessians.dtype)
        if hessians.shape[0] * hessians.shape[1] == 0:
            return
        turned = torch.einsum("bd,tode->btoe", deviation, hessians).to(taken.increment.dtype)
        ahead = totals.shape[2] - hessians.shape[0]
        totals[1, :, ahead:] += torch.einsum("btoe,be->bto", turned, taken.increment)
