"""The noise-free path of a process, and adjoints along it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from smesolve.problem.observables import Observable
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["CHUNK_FLOATS", "DENSE_DIM", "NoiseFreePath", "directional"]

DENSE_DIM = 256
"""Up to this D, D x D matrices are made for every step and target."""

CHUNK_FLOATS = 2**20
"""Floats in one array of a batch of derivatives (8 MiB): larger ones spend their time on page faults."""


class NoiseFreeProcess(Protocol):
    """What a noise-free path takes of a `Process`."""

    @property
    def autonomous(self) -> bool:
        """Whether every step is the same map."""

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return state and prediction (B, D) of the step from theta (B, D) with zero noise, differentiable."""
        ...


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
        cls, process: NoiseFreeProcess, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
    ) -> NoiseFreePath:
        """Integrate the path forwards and the adjoints backwards. Cost: K steps and K pullbacks of one path."""
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
                current = pull(step, current.flatten(0, 1)).reshape(current.shape)
            if step in saved:
                gradients = torch.stack([torch.func.grad(g)(path[step]) for g in observables.values()])
                current = torch.cat([gradients[None], current])
            adjoints.append(current)
        return cls(path, torch.cat(predictions), adjoints[::-1])


def _pullbacks(process: NoiseFreeProcess, states: Tensor) -> Callable[[int, Tensor], Tensor]:
    """Return the map (step, vectors (V, D)) -> vectors times the Jacobian of the noise-free step at states[step].

    Jacobians of all steps come in one batch where D is small and no step differs from the others: they are independent
    once the path is known.
    """
    steps, dim = states.shape
    if dim <= DENSE_DIM and process.autonomous:

        def move(theta: Tensor) -> Tensor:
            return process.noise_free_step(theta, 0)[0]

        jacobians = directional(lambda v: forward_derivative(move, states, v.expand(steps, dim))[1], states)
        return lambda step, vectors: vectors @ jacobians[step]

    def pull(step: int, vectors: Tensor) -> Tensor:
        _, pullback = torch.func.vjp(lambda theta: process.noise_free_step(theta[None], step)[0][0], states[step])
        pulled: Tensor = torch.func.vmap(lambda vector: pullback(vector)[0])(vectors)
        return pulled

    return pull


def directional(derivative: Callable[[Tensor], Tensor], states: Tensor, work: int = 1) -> Tensor:
    """Return matrices (K, D, D) whose columns are derivative(e_i) (K, D) for the unit vectors e_i."""
    steps, dim = states.shape
    identity = torch.eye(dim, dtype=states.dtype, device=states.device)
    chunk = max(1, CHUNK_FLOATS // (steps * max(dim, work)))
    columns: Tensor = torch.func.vmap(derivative, chunk_size=chunk)(identity)
    return columns.movedim(0, -1)
