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
quarters of the way to the shifts after the step, with noise nearer to the middle; `AFTER` of
`smesolve.comparison.shifted_runs` is the weight of the former.

**Order 1.** The equation of order 1 is that of order 2 without the term -lr w of its drift. With W = w . grad,

    Q_1 = e^{lr^2 W/2} Q_2 e^{lr^2 W/2} + O(lr^4)

(Strang). So a companion run, with the draws of the run itself and moved at each node k = 0, ..., K by

    lr^2 w = lr^2/(4 h) [F(s + h F') - F(s - h F')],      h = lr/8,                                               (5)

times a weight, has the mean of the order-1 equation up to the error of order 2:

    error_1 = E[g(companion_K) - g(s_K)] + error_2 + O(lr^3),                                                     (6)

a relative error of O(lr^2). Nodes may be q steps apart, moved q times as far. Three choices keep its constant small.
The weights are those of Gregory's rule, of fourth order in lr, where halves at both ends are of second. The move is not
s + lr^2 w(s), but the flow of lr^2 w up to its square,

    s + M,      M = lr^2 w(s + M'/2),      M' the move at the node before,                                        (5a)

whose draws are independent of those of M. And the short h keeps third derivatives out of (5). What remains of order
lr^3 is the bias of error_2; that error_2 is measured along the run, and not along the companion; and the noise of the
draws in M.

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

**Schedules.** Under a schedule the clock is one more coordinate, of drift 1 and without noise. Then b in (2) to (9) is
(1, b), and a derivative along it has a time derivative beside it (`smesolve.comparison.instant`):

    (Db) b -> d_t b + (Db) b,     (b . grad) Sigma -> d_t Sigma + (b . grad) Sigma,     and so on,                 (10)

in (5) by F at t + h and t - h, of the piece of the schedule that holds. All other directions have no clock part, nor
have the moves: as v_{k+1} is a function of the parameters only, no run is moved in time. Breaks of a schedule and times
of observation are nodes, and ends of the intervals that the weights belong to: a part of the move at a break is that of
the piece before, and a part that of the piece after. In (7) the piece stays at t, and the move at the node has the time
derivative lr^2/2 d_t b.

The coefficients in (3) are those of the piece that holds in the step, at t + 5/12 lr (`WITHIN`). With the logarithm of
P, lr G0 + lr^2 G1 + lr^3 G2 + lr^4 G3, the sum of defects that is sought is that of

    -lr^3 G2 - lr^4 (G3 + 1/2 (G0 G2 + G2 G0)),      Lambda = -G2,                                                 (11)

where G0 has the part d_t: 1/2 d_t Lambda are coefficients in the middle of the step. Where the drift is a function of
time only, G3 = 0, as the third Bernoulli number is zero, and the middle is right. Where the noise Sigma is, Lambda is
1/4 d_t Sigma : Hess, and G3 takes a third of 1/2 d_t Lambda away: a third of the step is right. Products of
both are close to one of these places, or lie between them.

Sources: Talay & Tubaro (Stochastic Anal. Appl. 8, 1990) for errors as sums of defects; Li, Tai, E (JMLR 20(40), 2019)
for the expansion of one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.companions import Companions
from smesolve.comparison.defect_plan import DefectPlan
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.shifted_runs import ShiftedRuns, finite_values
from smesolve.comparison.study_design import StudyDesign, check_orders_of_defects
from smesolve.problem.kinks import kinks
from smesolve.problem.observables import in_threads
from smesolve.sampling.randomness import keyed_uniforms

__all__ = ["COLUMNS", "DefectSampler"]

COLUMNS = ("discrete", "order 1", "order 2", "placement", "kinks")
"""What is averaged for each observable: its value on the run, both errors, half the difference of the error of order 2
between shifts after the step and before it, and the first term of eq. (9)."""


@dataclass(frozen=True)
class DefectSampler(DefectPlan):
    """Blocks of paths whose means are the discrete mean and the errors of the equations of order 1 and 2.

    Cost: 2 + 3/q gradients per step and path for order 1, q = 1 up to 127 steps; for order 2 another 7 (5 where the
    mean gradient has a closed form). With kinks another 3 for order 1 and 5 for order 2. Memory per path: at most 18
    states of D numbers, 22 where the step is not gradient descent, 2 for order 1 only.
    """

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

    @property
    def cost(self) -> float:
        """Gradients that a block takes, a whole number: those of many blocks add up exactly."""
        each = 2 + 3 / self.spacing
        if 2 in self.orders:
            each += 5 if self.problem.has_closed_form else 7
        if self.kinked:
            each += 8 if self.paired else 3
            if not self.problem.autonomous:  # time derivatives of both companions' moves
                each += 4 if self.paired else 2
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
        companions = Companions(self, block)
        shifted = ShiftedRuns(self, block) if 2 in self.orders else None
        rows: list[Tensor] = []
        for step in range(self.steps + 1):
            if step % self.spacing == 0:
                companions.meet(step)
            if step == self.saved[len(rows)]:
                rows.append(self._observed(run, *companions.ends, shifted))
            if step == self.steps:
                break
            if step % self.spacing == 0:
                companions.move()
            problem = self.at(step)
            uniforms = keyed_uniforms((self.block_size, problem.draw_dim), self.seed, block, step)
            draw = problem.draw(uniforms)
            if shifted is not None:
                shifted.advance(step, run, uniforms)
            before, run = run, problem.step(run, draw, self.lr)
            companions.advance(problem, draw)
            if shifted is not None:
                shifted.begin_after(step, before, run)
        return torch.stack(rows, dim=1).cpu().numpy().astype(np.float64, copy=False)

    def _observed(self, run: Tensor, companion: Tensor, second: Tensor, shifted: ShiftedRuns | None) -> Tensor:
        """Return the columns of all observables at one time (B, O, C)."""
        columns = []
        for observable in self.observables.values():
            value, moved = finite_values(observable, run), finite_values(observable, companion)
            nothing = torch.zeros_like(value)
            error = nothing if shifted is None else shifted.error(observable)
            placement = nothing if shifted is None else shifted.placement * error
            beyond = moved - finite_values(observable, second) if self.paired else nothing
            columns.append(torch.stack([value, moved - value + error, beyond + error, placement, beyond], dim=-1))
        return torch.stack(columns, dim=-2)  # eqs. (6), (8), (9)
