"""The noise-free path of a process, and adjoints along it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smesolve.problem.observables import Observable
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.reverse_derivative import value_and_gradient
from smesolve.sampling.ensemble import Process

__all__ = ["CHUNK_FLOATS", "DENSE_DIM", "NoiseFreePath", "batch_sizes", "directional", "inner_products", "row_by_row"]

DENSE_DIM = 256
"""Largest D for which D x D matrices are formed for every step and target."""

CHUNK_FLOATS = 2**20
"""Floats in one array of a batch of derivatives (8 MiB): larger ones spend their time on page faults."""


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
        cls,
        process: Process,
        theta0: Tensor,
        saved: Sequence[int],
        observables: Mapping[str, Observable],
        work: int = 1,
    ) -> NoiseFreePath:
        """Integrate the path forwards and the adjoints backwards.

        Args:
            process: the process.
            theta0: (D,), the start.
            saved: step numbers of the targets.
            observables: by name.
            work: floats in the working arrays of a step of one path without noise. Default: no more than D.

        Cost: K steps and K pullbacks of one path.
        """
        states, predictions = [theta0[None]], []
        for step in range(saved[-1]):
            state, prediction = process.noise_free_step(states[-1], step)
            states.append(state)
            predictions.append(prediction)
        path = torch.cat(states)

        adjoints: list[Tensor] = []
        current = theta0.new_empty(0, len(observables), theta0.shape[-1])
        pull = _pullbacks(process, path[:-1], work)
        for step in range(saved[-1], -1, -1):
            if step < saved[-1]:
                current = pull(step, current.flatten(0, 1)).reshape(current.shape)
            if step in saved:
                gradients = torch.stack([value_and_gradient(g, path[step])[1] for g in observables.values()])
                current = torch.cat([gradients[None], current])
            adjoints.append(current)
        return cls(path, torch.cat(predictions), adjoints[::-1])


def inner_products(vectors: Tensor, adjoints: Tensor) -> Tensor:
    """Return < adjoint, vector > of vectors (B, D) for each target and observable, adjoints (T, O, D): (B, T, O)."""
    return (vectors @ adjoints.flatten(0, 1).mT).reshape(len(vectors), *adjoints.shape[:2])


def _pullbacks(process: Process, states: Tensor, work: int) -> Callable[[int, Tensor], Tensor]:
    """Return the map (step, vectors (V, D)) -> vectors times the Jacobian of the noise-free step at states[step].

    Where D is small and all steps are the same map, the Jacobians of all steps are computed in batches, which is
    possible once the path is known.
    """

    def by_hand(at: Tensor, vectors: Tensor, step: int = 0) -> Tensor:
        pulled = process.noise_free_pullback(at, step, vectors)
        assert pulled is not None
        return pulled

    known = process.noise_free_pullback(states[:1], 0, torch.zeros_like(states[:1])) is not None
    if states.shape[1] <= DENSE_DIM and process.autonomous:
        if known:
            rows = row_by_row(by_hand, [states])
            return lambda step, vectors: vectors @ rows[step]

        def move(theta: Tensor) -> Tensor:
            return process.noise_free_step(theta, 0)[0]

        jacobians = directional(lambda at, vectors: forward_derivative(move, at, vectors)[1], [states], work)
        return lambda step, vectors: vectors @ jacobians[step]

    chunk, _ = batch_sizes(1, states.shape[1], work)

    def pull(step: int, vectors: Tensor) -> Tensor:
        if known:
            return by_hand(states[step : step + 1], vectors, step)
        _, pullback = torch.func.vjp(lambda theta: process.noise_free_step(theta[None], step)[0][0], states[step])
        pulled: Tensor = torch.func.vmap(lambda vector: pullback(vector)[0], chunk_size=chunk)(vectors)
        return pulled

    return pull


def directional(derivative: Callable[..., Tensor], arrays: Sequence[Tensor], work: int = 1) -> Tensor:
    """Return matrices (K, D, D) whose columns are derivative(*arrays, e_i) (K, D) for the unit vectors e_i.

    The derivative takes arrays (K, D), at K steps, and vectors (..., D), in batches of steps and of unit vectors.
    `work` is the number of floats in the working arrays of one derivative.
    """
    steps, dim = arrays[0].shape
    identity = torch.eye(dim, dtype=arrays[0].dtype, device=arrays[0].device)
    chunk, together = batch_sizes(steps, dim, work)
    parts = []
    for some in zip(*(array.split(together) for array in arrays), strict=True):

        def along(vector: Tensor, some: Sequence[Tensor] = some) -> Tensor:
            return derivative(*some, vector.expand_as(some[0]))

        columns: Tensor = torch.func.vmap(along, chunk_size=chunk)(identity)
        parts.append(columns.movedim(0, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def row_by_row(product: Callable[..., Tensor], arrays: Sequence[Tensor]) -> Tensor:
    """Return matrices (K, D, D) whose rows are product(*arrays, e_i), for arrays (K, D) at K steps.

    The product of arrays (K, 1, D) and unit vectors (K, D, D) computes each row by itself, as compiled kernels do.
    """
    dim = arrays[0].shape[1]
    identity = torch.eye(dim, dtype=arrays[0].dtype, device=arrays[0].device)
    together = max(1, CHUNK_FLOATS // dim**2)
    parts = [
        product(*(array[:, None] for array in some), identity.expand(len(some[0]), -1, -1))
        for some in zip(*(array.split(together) for array in arrays), strict=True)
    ]
    return torch.cat(parts)


def batch_sizes(steps: int, dim: int, work: int) -> tuple[int, int]:
    """Return the numbers of vectors and of steps in a batch of derivatives, whose arrays have about `CHUNK_FLOATS`."""
    size = max(dim, work)
    together = max(1, min(steps, CHUNK_FLOATS // size))
    return max(1, CHUNK_FLOATS // (together * size)), together
