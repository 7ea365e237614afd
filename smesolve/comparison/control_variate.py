"""Martingale control variates along the noise-free path.

Let thetabar_j be the noise-free path of a process, u_j(theta) = phi(noise-free flow from step j to the target step K)
the value function, lam_j and Lam_j its gradient and Hessian at thetabar_j. A step from theta_j has a prediction, known
before its noise, and a noise increment nu_j = s C chi_j, where chi_j (M) is independent of theta_j with mean zero and
covariance I, and s is -lr (iteration: chi are functions of the masks) or sqrt(lr dt) (equation: normals). Then

    cv_1 = sum_j < lam, nu_j >
    cv_2 = sum_j < Lam (prediction_j - predictionbar_j), nu_j >
    cv_3 = sum_j s^2/2 (chi_j^T Q_j chi_j - tr Q_j),      Q_j = C^T Lam C at thetabar_j

have mean zero, whatever lam, Lam and Q are. They are the Taylor terms of phi(theta_K) of first and second order in the
noise: of first order; of second order from two different steps; of second order from one step. What is left has a
standard deviation O(lr^1.5) where phi(theta_K) has O(lr^0.5). cv_3 does not change the power of lr but its constant:
without it cv_1 and cv_2 leave three to four times as much.

lam is exact for each process: the adjoint recursion through its own noise-free step, taken where in the step the noise
enters (`noise_time`). Lam and Q only move the variance, so one Lam, that of the mean iteration, serves the iteration
and every scheme: it is off by O(lr), which costs O(lr^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smesolve.comparison.observables import Observable
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process, Step

__all__ = ["DENSE_DIM", "ControlVariate", "NoiseFreePath", "ValueHessians", "value_hessians"]

DENSE_DIM = 256
"""Up to this D, D x D matrices are kept for every step and target; beyond, for the last target on a coarser grid."""

CHUNK_NUMBERS = 2**20
"""Numbers in one array of a batch of derivatives (8 MiB): larger ones spend their time on page faults."""


@dataclass(frozen=True)
class NoiseFreePath:
    """The noise-free path of a process and the adjoints of all targets along it."""

    states: Tensor
    """thetabar_j (K + 1, D)."""
    predictions: Tensor
    """predictionbar_j (K, D)."""
    adjoints: list[Tensor]
    """lam_j for j = 0..K: (targets not before j, observables, D); the targets are the last ones of the list."""

    @classmethod
    def of(
        cls, process: Process, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
    ) -> NoiseFreePath:
        """Integrate without noise, then the adjoints back. Cost: K steps and K pullbacks of one path."""
        states, predictions = [theta0[None]], []
        for step in range(saved[-1]):
            state, prediction = process.noise_free_step(states[-1], step)
            states.append(state)
            predictions.append(prediction)
        path = torch.cat(states)

        adjoints: list[Tensor] = []
        current = theta0.new_empty(0, len(observables), theta0.shape[-1])
        pull = _pullbacks(process, path[:-1])
        for step in range(saved[-1], -1, -1):
            if step < saved[-1]:
                current = pull(step, current.flatten(0, 1)).unflatten(0, current.shape[:2])
            if step in saved:
                gradients = torch.stack([torch.func.grad(g)(path[step]) for g in observables.values()])
                current = torch.cat([gradients[None], current])
            adjoints.append(current)
        return cls(path, torch.cat(predictions), adjoints[::-1])


def _pullbacks(process: Process, states: Tensor) -> Callable[[int, Tensor], Tensor]:
    """(step, vectors (V, D)) -> vectors times the Jacobian of the noise-free step at states[step].

    Jacobians of all steps come in one batch where D is small and no step differs from the others: they are independent
    once the path is known.
    """
    steps, dim = states.shape
    if dim <= DENSE_DIM and process.autonomous:

        def move(theta: Tensor) -> Tensor:
            return process.noise_free_step(theta, 0)[0]

        jacobians = _directional(
            lambda v: torch.func.jvp(move, (states,), (v.expand(steps, dim).contiguous(),))[1], states
        )
        return lambda step, vectors: vectors @ jacobians[step]

    def pull(step: int, vectors: Tensor) -> Tensor:
        _, pullback = torch.func.vjp(lambda theta: process.noise_free_step(theta[None], step)[0][0], states[step])
        return torch.func.vmap(lambda vector: pullback(vector)[0])(vectors)

    return pull


def _directional(derivative: Callable[[Tensor], Tensor], states: Tensor, work: int = 1) -> Tensor:
    """derivative(e_i) (K, D) for every unit vector, as matrices (K, D, D) whose columns they are."""
    steps, dim = states.shape
    identity = torch.eye(dim, dtype=states.dtype, device=states.device)
    chunk = max(1, CHUNK_NUMBERS // (steps * max(dim, work)))
    return torch.func.vmap(derivative, chunk_size=chunk)(identity).movedim(0, -1)


def _hessian(function: Observable, theta: Tensor, work: int) -> Tensor:
    slope = torch.func.grad(function)
    return _directional(lambda v: torch.func.jvp(slope, (theta,), (v,))[1][None], theta[None], work)[0]


@dataclass(frozen=True)
class ValueHessians:
    """Lam and Q of the mean iteration on a grid of times, for all targets or for the last one alone."""

    spacing: float
    """Time between grid points."""
    hessians: list[Tensor]
    """Lam at grid point j: (targets not before j, observables, D, D); the targets are the last ones of the list."""
    quadratics: list[Tensor] | None
    """Q at grid point j: (targets not before j, observables, M, M), or None: with M > 2 D they cost too much, and noise
    that is not linear in its normals has none."""

    def index(self, time: float) -> int:
        """The first grid point not before a time, so that targets drop out when they are passed."""
        return math.ceil(time / self.spacing - 1e-9)


def value_hessians(
    problem: Problem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    lr: float,
) -> ValueHessians:
    """Hessians of the value functions along the mean iteration with step h: one recursion of D x D matrices.

    Lam_j = J^T Lam_{j+1} J - h DH[lam_{j+1}], J = I - h H + h^2 H^2 / 2, H = Hess L_S(thetabar_j). For D <= 256 the
    grid is that of the iteration, h = lr. For larger D only the last time is followed, with the largest h that divides
    it and keeps h lambda_max <= 1/2, whatever lr is, so that one call serves all learning rates; kept in float32.
    Cost a grid point: 4 D Hessian products and, for each time and observable, three products of D x D matrices;
    memory D^2 + M^2 numbers each.
    """
    dense = problem.dim <= DENSE_DIM
    spacing = lr if dense else times[-1] / math.ceil(4 * times[-1] / problem.stability_limit(theta0))
    targets = [round(time / spacing) for time in (times if dense else times[-1:])]
    path = NoiseFreePath.of(DropoutIteration(problem, spacing), theta0, targets, observables)
    work = problem.numbers_per_path
    batch = targets[-1] if dense else 1

    def hessians_from(first: int) -> Tensor:
        states = path.states[first : first + batch]
        return _directional(lambda v: problem.hessian_product(states, v.expand_as(states)), states, work)

    def bends_from(first: int, target: int, observable: int) -> Tensor:
        """DH[lam_{j+1}] for the steps of one batch that lie before the target."""
        last = min(first + batch, targets[target])
        states = path.states[first:last]
        behind = target - len(targets)
        lams = torch.stack([path.adjoints[j + 1][behind, observable] for j in range(first, last)])

        def along(vector: Tensor) -> Tensor:
            return torch.func.jvp(lambda at: problem.hessian_product(at, vector.expand_as(at)), (states,), (lams,))[1]

        return _directional(along, states, work)

    if dense:
        all_hessians = hessians_from(0)
        all_bends = [[bends_from(0, t, g) for g in range(len(observables))] for t in range(len(targets))]

    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    stored = problem.dtype if dense else torch.float32
    current = theta0.new_empty(0, len(observables), problem.dim, problem.dim)
    hessians, quadratics = [], []
    for step in range(targets[-1], -1, -1):
        if step < targets[-1]:
            H = all_hessians[step] if dense else hessians_from(step)[0]
            J = identity - spacing * H + spacing**2 / 2 * (H @ H)
            ahead = range(len(targets) - current.shape[0], len(targets))
            bends = [
                torch.stack([all_bends[t][g][step] if dense else bends_from(step, t, g)[0] for t in ahead])
                for g in range(len(observables))
            ]
            current = J.mT @ current @ J - spacing * torch.stack(bends, dim=1)
        if step in targets:
            values = [_hessian(g, path.states[step], work) for g in observables.values()]
            current = torch.cat([torch.stack(values)[None], current])
        hessians.append(current.to(stored))
        if problem.linear_noise and problem.noise_dim <= 2 * problem.dim:
            factor = problem.noise_factor(path.states[step])
            quadratics.append((factor.mT @ current @ factor).to(stored))
    return ValueHessians(spacing, hessians[::-1], quadratics[::-1] or None)


@dataclass(frozen=True)
class ControlVariate:
    """The control variates of one process for all targets (saved steps) and observables.

    cv_1 alone without Hessians; with them cv_2, and cv_3 where Q is there, for the targets that have Hessians.
    """

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    noise_time: float
    """Where in a step the noise enters, as the process says."""
    variance: float
    """s^2 = lr^2 (iteration) or lr dt (equation): the variance that multiplies C C^T in a step."""
    hessians: ValueHessians | None = None

    @property
    def count(self) -> int:
        """Control variates for each target and observable."""
        if self.hessians is None:
            return 1
        return 2 if self.hessians.quadratics is None else 3

    def add(self, totals: Tensor, step: int, taken: Step) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place.

        Cost: D a target and observable, D^2 + M^2 where they have Hessians.
        """
        after = self.path.adjoints[step + 1]
        before = self.path.adjoints[step][-after.shape[0] :]
        adjoints = self.noise_time * after + (1 - self.noise_time) * before
        totals[0, :, -after.shape[0] :] += _inner(taken.increment, adjoints)
        if self.hessians is None:
            return
        point = self.hessians.index((step + 1) * self.step_time)
        lam = self.hessians.hessians[point]
        rows = slice(totals.shape[2] - lam.shape[0], None)
        deviation = taken.prediction - self.path.predictions[step]
        totals[1, :, rows] += _bilinear(deviation, lam, taken.increment)
        if self.hessians.quadratics is not None:
            Q = self.hessians.quadratics[point]
            trace = Q.diagonal(dim1=-2, dim2=-1).sum(-1).to(totals.dtype)
            totals[2, :, rows] += self.variance / 2 * (_bilinear(taken.noise, Q, taken.noise) - trace)


def _inner(vectors: Tensor, adjoints: Tensor) -> Tensor:
    """< adjoint, vector > for each path, target and observable: (B, T, O)."""
    return (vectors @ adjoints.flatten(0, 1).mT).unflatten(-1, adjoints.shape[:2])


def _bilinear(left: Tensor, matrices: Tensor, right: Tensor) -> Tensor:
    """left^T matrix right for each path, target and observable: (B, T, O), in the precision of the matrices."""
    turned = left.to(matrices.dtype) @ matrices
    return torch.einsum("tobd,bd->bto", turned.to(right.dtype), right)
