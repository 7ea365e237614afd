"""Weak errors by defects: summed up along the discrete run, without a difference of two noisy means.

Let P v(s) = E v(s + lr F + lr^2 F2 + lr^3 F3 + ...) be one training step, with F = -gradient(s, draw) of mean b and
covariance Sigma, and F2 = F3 = 0 for gradient descent, and Q v(s) the modified equation over one lr. With
v_k(s) = E[g(s_K) | s_k = s] the weak error is a telescoping sum,

    E g(S_T) - E g(s_K) = sum_k P^k (Q - P) Q^{K-k-1} g,                                                          (1)

and (Q - P) v is known by expansion in lr:

    order 1     (Q_1 - P) v = lr^2 w . grad v + O(lr^3),        w = 1/2 (Db) b - E F2                             (2)
    order 2     (Q_2 - P) v = lr^3 Lambda v + O(lr^4),
        Lambda v = [1/4 D^2 b : Sigma - 1/12 D^2 b[b, b] - 1/3 (Db)(Db) b] . grad v
                 + [1/4 (b . grad) Sigma + 1/2 sym(Db Sigma)] : Hess v + 1/6 kappa_3 : D^3 v                      (3)
                 + [1/2 (D E F2) b + 1/2 (Db) E F2 - E F3] . grad v - Cov(F, F2) : Hess v                         (3a)

with the third cumulant kappa_3 of the gradient. Every factor may be replaced by an independent draw: b by F, Sigma by
z z^T with z = (F - F')/sqrt(2), Cov(F, F2) by (F - F')(F2 - F2')/2, kappa_3 by (g_1 - g_2)(g_1 - g_3)(g_1 - g_4).
Derivatives are differences of gradients, and of runs with the same draws. So only `Problem.gradient` and
`Problem.step_terms` are needed; where mean gradient and noise product have a closed form, they take the place of draws.

**Order 2.** One step k of K, at random; then derivatives of v by runs that start from shifted states, times K lr^3:

    error_2 = K lr^3 E[Lambda v] (1 + O(lr)),                                                                     (4)

with the coefficients of Lambda at s_k, and v = v_{k+1} shifted after the step or v = v_k shifted before it, at random.
Both differ by the relative O(lr) that is not known. Without noise and with a linear drift the truth lies at three
quarters of the way to the shifts after the step, with noise nearer to the middle; `AFTER` is the weight of the former.

**Order 1.** The equation of order 1 is that of order 2 without the term -lr w of its drift. With W = w . grad,

    Q_1 = e^{lr^2 W/2} Q_2 e^{lr^2 W/2} + O(lr^4)

(Strang). So a companion run, with the draws of the run itself and moved at each node k = 0, ..., K, by half at both
ends, by

    lr^2 w = lr/4 [F(s + lr F') - F(s - lr F')],                                                                  (5)

has the mean of the order-1 equation up to the error of order 2:

    error_1 = E[g(companion_K) - g(s_K)] + error_2 + O(lr^3),                                                     (6)

a relative error of O(lr^2). Nodes may be q steps apart, moved q times as far (trapezoidal rule).

**Kinks.** Derivatives miss what happens where a gradient jumps, a defect of size lr wherever a step crosses. There the
companion is moved by lr^2 DF'(s)[y] at the nodes, of mean lr^2 w, and after each step by the rest of what the drift of
the equation does along its path within the step,

    lr [F'(s + lr y) - F'(s) - lr DF'(s)[y]],      y of mean U b and covariance U Sigma, U uniform in [0, 1],      (7)

so that its mean displacement is that of Q_1, wherever in the step a path crosses. The smooth part of (7) is taken out
of the first line of (3) again,

    Lambda_1 v = Lambda v - [1/4 D^2 b : Sigma + 1/6 D^2 b[b, b]] . grad v,
    error_1 = E[g(companion_K) - g(s_K)] + K lr^3 E[Lambda_1 v].                                                  (8)

The drift of order 2 is made of derivatives, like the moves of a second companion without (7), and so

    error_2 = E[g(companion_K) - g(second companion_K)] + K lr^3 E[Lambda_1 v].                                   (9)

The first term is what the drift of order 2 leaves out, and O(lr): kinks cost the equation its order. Derivatives of v
are meant in the sense of distributions there, and taken by long shifts, of sqrt(lr limit)/2 times their directions,
limit the stability limit, or the horizon where that is less. What jumps do to jumps is left out beyond the second power
of their size.

Sources: Talay & Tubaro (Stochastic Anal. Appl. 8, 1990) for errors as sums of defects; Li, Tai, E (JMLR 20(40), 2019)
for the expansion of one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.defect_draws import Draws
from smesolve.comparison.differences import Field, cubic_stencil, first_difference, second_difference, stencil
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.study_design import StudyDesign, check_orders_of_defects
from smesolve.problem.kinks import kinks
from smesolve.problem.observables import Observable, in_threads
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import fitting_block_size
from smesolve.sampling.randomness import keyed_generator, keyed_uniforms

__all__ = ["COLUMNS", "DefectSampler"]

COLUMNS = ("discrete", "order 1", "order 2", "placement", "kinks")
"""What is averaged for each observable: its value on the run, both errors, half the difference of the error of order 2
between shifts after the step and before it, and the first term of eq. (9)."""

NODES = 64
"""Least number of nodes at which the companion is moved; in fewer steps it is moved at every step."""

AFTER = 0.625
"""Share of the paths whose shifts are after the step."""

RUNS = 18
"""States of a path: the run, two companions, and the shifted runs of (3)."""

MORE_RUNS = 4
"""Shifted runs of (3a)."""


@dataclass(frozen=True)
class DefectSampler:
    """Blocks of paths whose means are the discrete mean and the errors of the equations of order 1 and 2.

    Cost: 2 + 3/q gradients per step and path for order 1, q = 1 up to 127 steps; for order 2 another 7 (5 where the
    mean gradient has a closed form). With kinks another 3 for order 1 and 5 for order 2. Memory per path: at most 18
    states of D numbers, 22 where the step is not gradient descent, 2 for order 1 only.
    """

    problem: Problem
    theta0: Tensor
    """(D,), the start."""
    lr: float
    saved: Sequence[int]
    """Step numbers of the observations, increasing and positive."""
    observables: Mapping[str, Observable]
    orders: Sequence[int]
    kinked: bool
    """The gradient jumps somewhere."""
    seed: int = 0
    """The run has the draws of the iteration with this seed."""

    @classmethod
    def of(cls, design: StudyDesign, lr: float, seed: int = 0) -> DefectSampler:
        """Return the blocks of a study at one learning rate."""
        kinked = bool(kinks(design.problem, design.theta0))
        saved, orders = design.steps(lr, "lr"), check_orders_of_defects(design.orders)
        return cls(design.problem, design.theta0, lr, saved, design.observables, orders, kinked, seed)

    @property
    def in_threads(self) -> bool:
        """Whether blocks may run in threads: compiled kernels compute them, and no forward derivatives of torch."""
        alone = self.problem.in_threads and self.problem.linear_step and not self.kinked
        return alone and all(map(in_threads, self.observables.values()))

    @cached_property
    def block_size(self) -> int:
        """Paths in a block."""
        return min(fitting_block_size(self.states * self.problem.floats_per_path), self.problem.largest_block)

    @property
    def states(self) -> int:
        """States of a path, at most."""
        if 2 not in self.orders:
            return 2
        return RUNS if self.problem.linear_step else RUNS + MORE_RUNS

    @property
    def steps(self) -> int:
        """K."""
        return self.saved[-1]

    @cached_property
    def spacing(self) -> int:
        """q, the steps from one node of the companion to the next; 1 where kinks are to be met at every step."""
        common = math.gcd(*self.saved)
        most = 1 if self.kinked else max(1, self.steps // NODES)
        return max(q for q in range(1, most + 1) if common % q == 0)

    @property
    def cost(self) -> float:
        """Gradients that a block takes, a whole number: those of many blocks add up exactly."""
        each = 2 + 3 / self.spacing
        if 2 in self.orders:
            each += 5 if self.problem.has_closed_form else 7
        if self.kinked:
            each += 8 if self._paired else 3
        return float(round(each * self.steps * self.block_size))

    def run(self, block: int) -> dict[str, np.ndarray]:
        """Return the statistics of a block as arrays; point t, C o + c is column c of observable o at time t."""
        return self.statistics(block).arrays()

    def statistics(self, block: int) -> PathStatistics:
        """Return the statistics of a block, with moments up to the fourth."""
        values = self.values(block)
        values = values.reshape(*values.shape[:2], -1)
        return PathStatistics.of(np.stack([values, values]), antithetic=False, order=4)

    @torch.no_grad()
    def values(self, block: int) -> np.ndarray:
        """Return (B, T, O, C) float64: for each path the columns of `COLUMNS`."""
        run = self.theta0.expand(self.block_size, -1)
        companion = second = run
        shifted = _ShiftedRuns(self, block) if 2 in self.orders else None
        rows: list[Tensor] = []
        rest = second_move = run.new_zeros(())
        for step in range(self.steps + 1):
            if step % self.spacing == 0:
                draws = Draws(self.problem, self.block_size, keyed_generator(self.seed, "defects", block, step))
                if not self.kinked:
                    move = self._move(companion, draws)
                else:
                    outer, displacement = draws.drift(), draws.displacement()
                    move, rest = self._move_at_kinks(companion, outer, displacement)
                    if self._paired:
                        second_move = self._slope(second, outer, displacement(second))
                if not self.problem.linear_step:
                    F2, weight = draws.second_term(), self.spacing * self.lr**2
                    move = move - weight * F2(companion)
                    if self._paired:
                        second_move = second_move - weight * F2(second)
            if step == self.saved[len(rows)]:
                rows.append(self._observed(run, companion + move / 2, second + second_move / 2, shifted))
            if step == self.steps:
                break
            if step % self.spacing == 0:
                weight = 0.5 if step == 0 else 1.0
                companion, second = companion + weight * move, second + weight * second_move
            uniforms = keyed_uniforms((self.block_size, self.problem.draw_dim), self.seed, block, step)
            draw = self.problem.draw(uniforms)
            if shifted is not None:
                shifted.advance(step, run, uniforms)
            before, run = run, self.problem.step(run, draw, self.lr)
            companion = self.problem.step(companion, draw, self.lr) + rest
            if self._paired:
                second = self.problem.step(second, draw, self.lr)
            if shifted is not None:
                shifted.begin_after(step, before, run)
        return torch.stack(rows, dim=1).cpu().numpy().astype(np.float64, copy=False)

    @property
    def _paired(self) -> bool:
        """Whether there is a second companion, moved by derivatives."""
        return self.kinked and 2 in self.orders

    @cached_property
    def shift(self) -> float | None:
        """The shifts of derivatives at kinks, a power of two; None for the shortest ones."""
        if not self.kinked:
            return None
        limit = min(self.problem.stability_limit(self.theta0), self.steps * self.lr)
        longest = math.sqrt(self.lr * limit) / 2
        return float(2.0 ** math.floor(math.log2(longest)))  # rounding of the limit must not show in results

    def _move(self, companion: Tensor, draws: Draws) -> Tensor:
        """Return q times eq. (5) for the companion (B, D)."""
        outer, inner = draws.drift(), draws.drift()
        step_of = self.lr * inner(companion)
        return self.spacing * self.lr / 4 * (outer(companion + step_of) - outer(companion - step_of))

    def _move_at_kinks(self, companion: Tensor, outer: Field, displacement: Field) -> tuple[Tensor, Tensor]:
        """Return the move of the companion at a node, and eq. (7), each (B, D)."""
        y = displacement(companion)
        value, slope = forward_derivative(outer, companion, y)
        move = self.lr**2 * slope
        return move, self.lr * (outer(companion + self.lr * y) - value) - move

    def _slope(self, second: Tensor, outer: Field, y: Tensor) -> Tensor:
        """Return the move of the second companion at a node, lr^2 DF'(s)[y] (B, D)."""
        return self.lr**2 * forward_derivative(outer, second, y)[1]

    def _observed(self, run: Tensor, companion: Tensor, second: Tensor, shifted: _ShiftedRuns | None) -> Tensor:
        """Return the columns of all observables at one time (B, O, C)."""
        columns = []
        for observable in self.observables.values():
            value, moved = _finite(observable, run), _finite(observable, companion)
            nothing = torch.zeros_like(value)
            error = nothing if shifted is None else shifted.error(observable)
            placement = nothing if shifted is None else shifted.placement * error
            beyond = moved - _finite(observable, second) if self._paired else nothing
            columns.append(torch.stack([value, moved - value + error, beyond + error, placement, beyond], dim=-1))
        return torch.stack(columns, dim=-2)  # eqs. (6), (8), (9)


def _finite(observable: Observable, theta: Tensor) -> Tensor:
    """Return the values of an observable; infinite where a path diverged, NaN where the observable is not defined."""
    values = observable(theta)
    values = torch.where(values.isfinite(), values, torch.nan)
    return torch.where(theta.isfinite().all(-1), values, torch.inf)


class _ShiftedRuns:
    """Eq. (3) at one step of each path, by runs from shifted starts, with the draws of the run from there on."""

    def __init__(self, sampler: DefectSampler, block: int) -> None:
        self._sampler = sampler
        self._generator = keyed_generator(sampler.seed, "defects", block, sampler.steps + 1)
        self._chosen = torch.from_numpy(self._generator.integers(sampler.steps, size=sampler.block_size))
        self._after = torch.from_numpy(self._generator.random(sampler.block_size) < AFTER)
        """Whether the shifts are after the step or before it (B,)."""
        self.placement = torch.where(self._after, 0.5 / AFTER, -0.5 / (1 - AFTER)).to(sampler.theta0)
        """Weights (B,) of half the difference between shifts after and before the step."""
        self._paths = torch.zeros(0, dtype=torch.long)
        """Those whose step is past (A,)."""
        self._states: Tensor | None = None
        """(R, A, D)."""
        self._weights: Tensor | None = None
        """(R, A)."""

    def advance(self, step: int, run: Tensor, uniforms: Tensor) -> None:
        """Start the runs that are shifted before this step, and take it with all; run (B, D) before it."""
        paths = ((self._chosen == step) & ~self._after).nonzero()[:, 0]
        if len(paths):
            self._start(paths, run[paths], run[paths])
        if self._states is not None:
            draw = self._sampler.problem.draw(uniforms[self._paths])
            self._states = self._sampler.problem.step(self._states, draw, self._sampler.lr)

    def begin_after(self, step: int, before: Tensor, after: Tensor) -> None:
        """Start the runs that are shifted after this step; the run before and after it (B, D)."""
        paths = ((self._chosen == step) & self._after).nonzero()[:, 0]
        if len(paths):
            self._start(paths, before[paths], after[paths])

    def _start(self, paths: Tensor, x: Tensor, centre: Tensor) -> None:
        """Start the runs of some paths around `centre`, with coefficients at x, each (A, D)."""
        shifts, weights = self._stencil(x)
        states = centre + shifts
        if self._states is not None and self._weights is not None:
            paths = torch.cat([self._paths, paths])
            states = torch.cat([self._states, states], dim=1)
            weights = torch.cat([self._weights, weights], dim=1)
        self._paths, self._states, self._weights = paths, states, weights

    def error(self, observable: Observable) -> Tensor:
        """Return eq. (4), K lr^3 Lambda v (B,), 0 where the step is still to come."""
        sampler = self._sampler
        result = sampler.theta0.new_zeros(sampler.block_size)
        if self._states is not None and self._weights is not None:
            defects = (self._weights * _finite(observable, self._states)).sum(0)
            result[self._paths] = sampler.steps * sampler.lr**3 * defects
        return result

    def _stencil(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shifts (R, A, D) and weights (R, A): sum_r weight_r v(. + shift_r) = Lambda v at x (A, D)."""
        h = self._sampler.shift
        draws = Draws(self._sampler.problem, len(x), self._generator)
        b, other = draws.drift()(x), draws.drift()(x)
        noise = draws.noise()
        z = noise(x)
        inner, outer = draws.drift(), draws.drift()
        if self._sampler.kinked:
            curved = second_difference(draws.drift(), x, b, other, h) / -4  # eq. (8)
        else:
            curved = second_difference(draws.drift(), x, z, z, h) / 4
            curved = curved - second_difference(draws.drift(), x, b, other, h) / 12
        gradient_part = curved - first_difference(outer, x, first_difference(inner, x, b, h), h) / 3
        hessian_part = (first_difference(noise, x, b, h) + first_difference(draws.drift(), x, z, h)) / 2
        third = draws.third_cumulant(x)
        cubic, weights = stencil(third, x, h) if len(third) == 3 else cubic_stencil(third[0], x, h)
        more = []
        if not self._sampler.problem.linear_step:  # eq. (3a)
            change = first_difference(draws.second_term(), x, draws.drift()(x), h)
            change = change + first_difference(draws.drift(), x, draws.second_term()(x), h)
            (noise_of_F, noise_of_F2), F3 = draws.step_terms(x)
            gradient_part = gradient_part + change / 2 - F3
            more = [stencil([-noise_of_F, noise_of_F2], x, h)]
        parts = [stencil([gradient_part], x, h), stencil([hessian_part, z], x, h), (cubic, weights / 6), *more]
        return torch.cat([shifts for shifts, _ in parts]), torch.cat([weights for _, weights in parts])
