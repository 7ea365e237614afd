"""SDEs and problems whose expectations are known in closed form, and those of a scheme without Monte Carlo noise.

An SDE here is dY = f(t, Y) dt + sqrt(lr) g(t, Y) dW with one Brownian motion: its noise is as small as that of a
modified equation. A scheme's own expectation is a sum over all sequences of three-point increments, sqrt(dt) times
-sqrt 3, 0 or sqrt 3 with weights 1/6, 2/3 and 1/6: they have the first five moments of a Brownian increment. Where all
is affine in the state, second moments obey a linear recursion, so the number of steps may be any.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from problems import linear_problem
from scipy.linalg import expm
from torch import Tensor

import smesolve as sme
from smesolve.solver.integration import integration
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.gradient_scheme import GradientScheme

Maps = Callable[[Tensor], Tensor]
"""Affine maps of theta, (P, D) -> (K, P, D)."""

NODES = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)


@dataclass(frozen=True)
class ExactSDE:
    """An SDE, its start, an observable, and its expectation (lr, t) -> E g(Y_t)."""

    drift: Callable[[float, Tensor, float], Tensor]
    """(t, y, lr) -> f, as Ito's correction may hold lr."""
    diffusion: Callable[[float, Tensor], Tensor]
    start: tuple[float, ...]
    observable: Callable[[Tensor], Tensor]
    expectation: Callable[[float, float], float]
    affine: bool = True
    """Whether drift and diffusion are affine in y; the observable is |y|^2 then."""

    def at(self, lr: float) -> torch.nn.Module:
        """Return the SDE as torchsde takes it."""
        return _SDE(self, lr)


class _SDE(torch.nn.Module):
    noise_type, sde_type, noise_dim = "general", "ito", 1

    def __init__(self, exact: ExactSDE, lr: float) -> None:
        super().__init__()
        self.exact, self.lr = exact, lr

    def f(self, t: float, y: Tensor) -> Tensor:
        return self.exact.drift(t, y, self.lr)

    def g(self, t: float, y: Tensor) -> Tensor:
        return self.lr**0.5 * self.exact.diffusion(t, y)[..., None]


def _squared(y: Tensor) -> Tensor:
    return y.square().sum(-1)


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


A, B = _matrix([[-1.0, 0.5], [-0.3, -0.6]]), _matrix([[0.6, -0.2], [0.4, 0.3]])
"""Drift and noise of a linear SDE, which do not commute."""


def _linear_second_moment(lr: float, t: float) -> float:
    """d/dt E[Y Y^T] = A E[Y Y^T] + E[Y Y^T] A^T + lr B E[Y Y^T] B^T."""
    eye = np.eye(2)
    generator = np.kron(A, eye) + np.kron(eye, A) + lr * np.kron(B, B)
    start = np.outer(EXACT_SDES["linear"].start, EXACT_SDES["linear"].start)
    return float(np.trace((expm(t * generator) @ start.flatten()).reshape(2, 2)))


EXACT_SDES = {
    "geometric Brownian motion": ExactSDE(
        lambda t, y, lr: -y, lambda t, y: 0.8 * y, (1.5,), _squared, lambda lr, t: 2.25 * math.exp((0.64 * lr - 2) * t)
    ),
    "Ornstein-Uhlenbeck": ExactSDE(
        lambda t, y, lr: 0.5 - 1.2 * y,
        lambda t, y: torch.full_like(y, 0.7),
        (2.0,),
        _squared,
        lambda lr, t: (0.5 / 1.2 + (2 - 0.5 / 1.2) * math.exp(-1.2 * t)) ** 2 + lr * 0.49 / 2.4 * -math.expm1(-2.4 * t),
    ),
    "linear": ExactSDE(lambda t, y, lr: y @ A.mT, lambda t, y: y @ B.mT, (1.0, -0.7), _squared, _linear_second_moment),
    "time-dependent": ExactSDE(
        lambda t, y, lr: -(1 + math.sin(3 * t)) * y,
        lambda t, y: 0.8 * math.cos(t) * y,
        (1.5,),
        _squared,
        lambda lr, t: 2.25 * math.exp(-2 * (t + (1 - math.cos(3 * t)) / 3) + 0.64 * lr * (t / 2 + math.sin(2 * t) / 4)),
    ),
    # Y = sinh(arsinh Y_0 - t + sqrt(lr) W): Kloeden and Platen, Numerical Solution of SDEs (1992), section 4.4
    "hyperbolic": ExactSDE(
        lambda t, y, lr: lr / 2 * y - (y.square() + 1).sqrt(),
        lambda t, y: (y.square() + 1).sqrt(),
        (1.0,),
        lambda y: y[..., 0],
        lambda lr, t: math.sinh(math.asinh(1) - t) * math.exp(lr * t / 2),
        affine=False,
    ),
}


def scheme_step(sde: torch.nn.Module, scheme: str, dt: float) -> Callable[[float, Tensor, Tensor], Tensor]:
    """Return a scheme's step (t, y, normals) -> y1."""
    made, perturbed = sme.SCHEMES[scheme](), PerturbedSDE(sde)

    def step(t: float, y: Tensor, normals: Tensor) -> Tensor:
        return made.step(perturbed, t, t + dt, y, dt**0.5 * normals)[0]

    return step


def scheme_expectation(exact: ExactSDE, lr: float, scheme: str, dt: float, steps: int) -> float:
    """Return E g(Y) of a scheme after some steps. Cost: where the SDE is not affine, 3^steps paths."""
    nodes, weights = (NODES, WEIGHTS) if lr else (NODES[1:2], torch.ones(1, dtype=torch.float64))
    step = scheme_step(exact.at(lr), scheme, dt)

    def images(k: int, y: Tensor) -> Tensor:
        """Return y1 (K, P, D) for every increment of step k."""
        moved = step(k * dt, y.repeat(len(nodes), 1), nodes.repeat_interleave(len(y))[:, None])
        return moved.unflatten(0, (len(nodes), len(y)))

    if exact.affine:
        dim = len(exact.start)
        moments = np.eye((dim + 1) ** 2)
        for k in range(steps):
            moments = transition(partial(images, k), weights, dim) @ moments
        return second_moment(moments, np.array(exact.start))
    y, weight = torch.tensor([exact.start], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for k in range(steps):
        y, weight = images(k, y).flatten(0, 1), (weights[:, None] * weight).flatten()
    return float(weight @ exact.observable(y))


# --- second moments of what is affine in psi = (1, y) ----------------------------------------------------------------


def transition(maps: Maps, weights: Tensor, dim: int) -> np.ndarray:
    """Return the matrix E[S (x) S] that takes E[psi (x) psi] through one step, psi -> S psi."""
    lead = np.broadcast_to(np.eye(1, dim + 1), (len(weights), 1, dim + 1))
    return _products(np.concatenate([lead, _affine(maps, dim)], 1), weights.numpy())


def second_moment(moments: np.ndarray, start: np.ndarray) -> float:
    """Return E|y|^2 from the matrix that takes psi (x) psi of the start to its expectation."""
    psi = np.concatenate([[1.0], start])
    return float(np.trace((moments @ np.outer(psi, psi).flatten()).reshape(len(psi), -1)[1:, 1:]))


def _affine(maps: Maps, dim: int) -> np.ndarray:
    """Return the matrices (K, D, D + 1) on psi of K affine maps."""
    values = maps(torch.cat([torch.zeros(1, dim), torch.eye(dim)]).double())
    return torch.cat([values[:, :1], values[:, 1:] - values[:, :1]], 1).mT.numpy()


def _products(matrices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of S (x) S."""
    return np.einsum("k,kab,kcd->acbd", weights, matrices, matrices).reshape(matrices.shape[1] ** 2, -1)


# --- modified equations whose second moments are known ----------------------------------------------------------------

PROBLEMS = {
    "scalar dropout": sme.DropoutProblem(sme.LinearNetwork(1), _matrix([[1.0]]), _matrix([[0.6]]), keep_prob=0.7),
    "linear readout": linear_problem(),
}
"""Problems whose gradient is affine in theta for every mask, G psi with psi = (1, theta)."""


def equation_second_moment(problem: sme.DropoutProblem, start: np.ndarray, lr: float, order: int, t: float) -> float:
    """Return E|Theta_t|^2 of the modified equation, by its moment equation alone.

    With the mean M of the matrices G, the drift is A psi, A = -M at order 1 and -M - lr/2 M^2 at order 2, and
    d/dt E[psi (x) psi] = (A (x) I + I (x) A + lr (E[G (x) G] - M (x) M)) E[psi (x) psi].
    """
    masks, weights = problem.all_draws()
    lead = np.zeros((len(weights), 1, problem.dim + 1))
    G = np.concatenate([lead, _affine(lambda theta: problem.gradient(theta, masks[:, None]), problem.dim)], 1)
    mean, eye = np.tensordot(weights.numpy(), G, 1), np.eye(problem.dim + 1)
    A = -mean - (order - 1) * lr / 2 * mean @ mean
    noise = _products(G, weights.numpy()) - np.kron(mean, mean)
    return second_moment(expm(t * (np.kron(A, eye) + np.kron(eye, A) + lr * noise)), start)


def scheme_second_moment(
    problem: sme.DropoutProblem, start: np.ndarray, lr: float, order: int, scheme: str, dt: float, steps: int
) -> float:
    """Return E|Theta|^2 of a scheme for the modified equation, over all increments or draws of each step."""
    equation = sme.ModifiedEquation(problem, lr, order)
    steps_of = _gradient_steps if issubclass(sme.SCHEMES[scheme], GradientScheme) else _increment_steps
    maps, weights = steps_of(equation, torch.as_tensor(start), scheme, dt)
    return second_moment(np.linalg.matrix_power(transition(maps, weights, problem.dim), steps), start)


def _sequences(count: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return all sequences (K, count) of indices, and their weights (K,)."""
    choices = torch.tensor(list(itertools.product(range(len(weights)), repeat=count)))
    return choices, weights[choices].prod(-1)


def _increment_steps(equation: sme.ModifiedEquation, start: Tensor, scheme: str, dt: float) -> tuple[Maps, Tensor]:
    """Return a scheme's step for every three-point increment, and their weights."""
    choices, weights = _sequences(equation.noise_dim, WEIGHTS)
    step = scheme_step(equation, scheme, dt)

    def maps(theta: Tensor) -> Tensor:
        starts, normals = theta.repeat(len(choices), 1), NODES[choices].repeat_interleave(len(theta), 0)
        return step(0.0, starts, normals).unflatten(0, (len(choices), len(theta)))

    return maps, weights


def _gradient_steps(equation: sme.ModifiedEquation, start: Tensor, scheme: str, dt: float) -> tuple[Maps, Tensor]:
    """Return a gradient scheme's step for every sequence of masks, and their weights."""
    masks, mask_weights = equation.problem.all_draws()
    means, deviations = sme.SCHEMES[scheme].weights(equation.lr / dt)
    choices, weights = _sequences(len(means), mask_weights)
    process = integration(equation, start, scheme, dt)

    def maps(theta: Tensor) -> Tensor:
        starts = theta.repeat(len(choices), 1)
        draws = [masks[choice].repeat_interleave(len(theta), 0) for choice in choices.T]
        one = torch.ones(len(starts), 1, dtype=torch.float64)
        factors = [one * (mean + deviation) for mean, deviation in zip(means, deviations, strict=True)]
        process._draws = lambda problem, block, step, count: (draws, factors)
        return process.advance(starts, 0, 0).unflatten(0, (len(choices), len(theta)))

    return maps, weights
