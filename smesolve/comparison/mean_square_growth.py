"""Observed growth of second moments: the learning rate from which E|u|^2 of a linear problem grows.

Multiplicative noise is heavy-tailed: E|u|^2 grows on paths that a plain sample practically never contains, so that a
sample shows almost sure stability where there is mean-square instability. Here a population of paths is weighted. All
paths have length 1 before a step. After each step of the iteration or of the scheme, they are resampled in proportion
to |u|^2 and normalised to length 1. The mean weight is then an estimate of the Perron eigenvalue of the second-moment
map, the growth of E|u|^2 per step, with a bias of the order of one over the number of paths of a population.

The equation is stepped by Euler's scheme with two steps h and h/2, and the rates are extrapolated,

    r = 2 r(h/2) - r(h).                                                                                    (1)

Where E|u|^2 neither grows nor decays, a scalar step has second moment (1 - h)^2 + 2 h = 1 + h^2, so that the bias of
the rate, log(1 + h^2)/h, has no term in h^2, and O(h^3) remains. Schemes for small noise have a bias O(h), as this
noise is not small.

Source: Del Moral, Feynman-Kac Formulae (2004), chapter 12 (particle estimates of Lyapunov exponents).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from smesolve.confidence import student_quantile
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.networks import LinearNetwork
from smesolve.sampling.ensemble import Process
from smesolve.sampling.randomness import keyed_normals
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.validation import check_instance, check_integer, check_seed, check_tensor

__all__ = ["ObservedLimit", "growth_rates", "observed_limit"]

SETTLING = 12.0
"""Relaxation times before the growth is recorded: directions of nearly equal growth separate slowly."""

RECORDED = 16.0
"""Relaxation times over which the growth is recorded."""

SCHEME_STEP = 0.15
"""Larger step of the scheme, in relaxation times of the equation's drift."""

WINDOW = 0.06
"""Learning rates of the final fit lie within this share of the root."""


@dataclass(frozen=True)
class ObservedLimit:
    """Learning rate at which E|u|^2 neither grows nor decays."""

    lr: float
    low: float
    high: float
    """95% interval, from the roots of independent populations."""


@entry_point
@torch.no_grad()
def growth_rates(process: Process, like: Tensor, settling: int, steps: int, populations: int, seed: int) -> np.ndarray:
    """Return the log growth of E|u|^2 per step, one estimate per independent population.

    Args:
        process: a process whose steps are linear maps of the state (B, D), without a constant; a population is one of
            its blocks of paths.
        like: a tensor (D,) of the dtype and on the device of the states.
        settling: number of steps before the growth is recorded.
        steps: number of recorded steps.
        populations: number of populations.
        seed: seed of the starts and of the resampling.
    """
    like = check_tensor("like", like, "D")
    check_integer("settling", settling, 0)
    check_integer("steps", steps)
    check_integer("populations", populations)
    check_seed("seed", seed)
    rates = np.empty(populations)
    pairs = 2 if process.antithetic else 1  # each state of a pair is there twice: terms of first order cancel
    size = process.block_size
    for block in range(populations):
        uniforms = np.random.default_rng([seed, block]).random(settling + steps)
        u = keyed_normals((size // pairs, len(like)), seed, block, 0).to(like).repeat(pairs, 1)
        u = u / u.norm(dim=-1, keepdim=True)
        total = 0.0
        for step in range(settling + steps):
            u = process.advance(u, block, step)
            weight = u.square().sum(-1)
            if step >= settling:
                # the second term takes out the bias of the logarithm
                mean = float(weight.mean())
                total += np.log(mean) + float(weight.var()) / (2 * size * mean**2)
            places = (torch.arange(size // pairs, dtype=torch.float64, device="cpu") + uniforms[step]) / (size // pairs)
            chosen = torch.searchsorted(weight.cumsum(0) / weight.sum(), places.to(weight)).clamp(max=size - 1)
            u = (u[chosen] / weight[chosen].sqrt()[:, None]).repeat(pairs, 1)
        rates[block] = total / steps
    return rates


class _Homogeneous(DropoutProblem):
    """A linear problem whose targets are zero: its mean gradient is its Hessian's product."""

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        return self.mean_gradient(vector)


@entry_point
def observed_limit(
    problem: DropoutProblem, order: int | None = None, populations: int = 8, seed: int = 0
) -> ObservedLimit:
    """Return the lr at which E|u|^2 of the iteration (order None) or of the modified equation stops decaying.

    The targets are set to zero, so that the state is the deviation u. The result is independent of `LinearMoments`.

    Args:
        problem: a problem with a `LinearNetwork` and masks shared by all samples.
        order: order of the equation, 1, 2 or 3. Default: the iteration.
        populations: number of independent populations; the interval is Student's interval over their roots.
        seed: root seed.

    Raises:
        SmesolveError: a network that is not linear, masks per sample, or features that are all 0.
        ArithmeticError: no lr up to 2^12 times the shortest relaxation time is unstable.

    Cost: three learning rates, 28 relaxation times each of `populations` blocks of paths.
    """
    check_instance("problem", problem, DropoutProblem, "a DropoutProblem")
    check_integer("populations", populations, 2)
    check_seed("seed", seed)
    if order is not None:
        check_integer("order", order, most=3)
    if not isinstance(problem.network, LinearNetwork) or problem.per_sample:
        raise SmesolveError(
            "problem must have a LinearNetwork and masks shared by all samples for its limit to be observed; take the "
            "problem of readout_problem."
        )
    plain = _Homogeneous(problem.network, problem.x, torch.zeros_like(problem.y), law=problem.law)
    relaxation = plain.stability_limit(plain.initial()) / 2
    if relaxation == float("inf"):
        raise SmesolveError("problem must have features that are not all 0 for a limit of stability; take other data.")

    def rates(lr: float, count: int, recorded: float) -> np.ndarray:
        """Return the growth per relaxation time of the drift."""
        if order is None:
            return per_unit(DropoutIteration(plain, lr, seed), lr / relaxation, count, recorded)
        unit = relaxation / (1 + (order - 1) * lr / (2 * relaxation))
        sde = ModifiedEquation(plain, lr, order)
        coarse, fine = (
            per_unit(integration(sde, plain.initial(), "euler", h * unit, seed, antithetic=True), h, count, recorded)
            for h in (SCHEME_STEP, SCHEME_STEP / 2)
        )
        extrapolated: np.ndarray = 2 * fine - coarse  # (1)
        return extrapolated

    def per_unit(process: Process, step: float, count: int, recorded: float) -> np.ndarray:
        settling, steps = (max(4, round(part / step)) for part in (SETTLING, recorded))
        return growth_rates(process, plain.initial(), settling, steps, count, seed) / step

    def rough(log_lr: float) -> float:
        return float(rates(float(np.exp(log_lr)), 1, RECORDED / 4)[0])

    low = high = float(np.log(relaxation / 4))
    while rough(low) > 0:
        low -= np.log(2)
    high = low + np.log(2)
    while rough(high) < 0:
        low, high = high, high + np.log(2)
        if high > np.log(relaxation * 2**12):
            raise ArithmeticError(f"E|u|^2 decays at every lr up to {np.exp(high):.3g}; there is no limit to observe.")
    root = float(np.exp(optimize.brentq(rough, low, high, xtol=WINDOW / 2)))
    lrs = root * (1 + WINDOW * np.array([-1.0, 0.0, 1.0]))
    measured = np.stack([rates(lr, populations, RECORDED) for lr in lrs])
    x = lrs / root - 1
    curvature, slope, _ = np.polyfit(x, measured.mean(1), 2)  # common to all populations: its noise would be magnified
    constant = (measured - (curvature * x**2 + slope * x)[:, None]).mean(0)
    first = -constant / slope
    roots = root * (1 + first - curvature * first**2 / slope)
    half = float(student_quantile(populations - 1)) * roots.std(ddof=1) / populations**0.5
    return ObservedLimit(float(roots.mean()), float(roots.mean() - half), float(roots.mean() + half))
