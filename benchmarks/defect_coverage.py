"""Coverage of the intervals of errors by defects, on networks whose exact errors are known.

- readout: linear regression with dropout, exact moments of both sides (`LinearMoments`), T = 0.5; and under schedules
  (`ScheduledMoments`): the learning rate falls along half a cosine to a tenth, or keep_prob rises by 0.15. "From draws"
  it is a module, of which the defects know draws only.
- deep: 1-2-2-1, tanh, dropout after both hidden layers, one mask for all samples or one for each of them. The mean of
  the iteration is a sum over all sequences of masks, and that of the equations an integral by quasi-Monte Carlo
  (`equation_mean.py`). `reference error` is the root of the squares of its standard error and of what is not known of
  the scheme's bias, in units of `stderr`, that of a replicate. The defects know draws only.

A replicate is a study of 512 paths at two learning rates. `monte_carlo` is how often the interval without the bound on
the bias covers, `interval` the final one, with the 95% interval of that share (Clopper and Pearson); replicates that
are called heavy-tailed, a share `heavy tails`, have no interval and are left out. `bound` is the mean bound on the bias
in units of `stderr`, and `bias` the mean of all replicates minus the exact error. `resolved` is how often an error is
resolved, and `of resolved` how often the final interval of these covers. Where lr / keep_prob^2 is large, errors are
called not asymptotic, and not resolved.
"""

import itertools
from functools import partial

import harness
import joblib
import numpy as np
import pandas as pd
import torch
from equation_mean import equation_mean
from scipy.stats import binomtest
from torch import nn

import smesolve as sme
from smesolve.comparison.defect_budget import DefectBudget, with_bias
from smesolve.comparison.exact import LinearMoments, ScheduledMoments, enumerated_expectation
from smesolve.comparison.outcomes import Status
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.study_design import StudyDesign
from smesolve.problem.schedule import cosine
from smesolve.sampling.runner import Runner

__all__ = ["defects"]

PATHS, AT_ONCE = 512, 32
"""Paths of a replicate, and replicates of a block."""

HIDDEN = 2, 2

CASES = [
    ("readout", 0.8, 0.5, (0.1, 0.05)),
    ("readout", 0.5, 0.5, (0.1, 0.05)),
    ("readout, cosine", 0.8, 0.5, (0.1, 0.05)),
    ("readout, cosine", 0.5, 0.5, (0.1, 0.05)),
    ("readout, keep_prob", 0.8, 0.5, (0.1, 0.05)),
    ("readout, keep_prob", 0.5, 0.5, (0.1, 0.05)),
    ("readout from draws, cosine", 0.8, 0.5, (0.1, 0.05)),
    ("readout from draws, cosine", 0.5, 0.5, (0.1, 0.05)),
    ("deep, shared", 0.8, 0.4, (0.2, 0.1)),
    ("deep, shared", 0.5, 0.2, (0.1, 0.05)),
    ("deep, per sample", 0.8, 0.3, (0.15, 0.1)),
    ("deep, per sample", 0.5, 0.15, (0.075, 0.05)),
]
"""Name, keep_prob, horizon, learning rates; deep ones have up to four steps of 16 masks, or three of 256."""

MOMENTS = 1e-8
"""Tolerance of exact moments under schedules."""


class Deep(sme.Problem):
    """1-2-2-1 without biases, tanh, dropout after both hidden layers, squared error; only its draws are known."""

    dim, has_closed_form = 8, False

    def __init__(self, x, y, keep_prob, per_sample):
        self.x, self.y, self.keep_prob, self.samples = x, y, keep_prob, len(x)
        self.groups = len(x) if per_sample else 1
        """Samples with a mask of their own."""
        self.draw_dim, self.noise_dim = 4 * self.groups, 16 * self.groups
        kept = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(HIDDEN))), dtype=x.dtype)
        self.masks = kept / keep_prob
        self.weights = (kept * keep_prob + (1 - kept) * (1 - keep_prob)).prod(-1)

    def draw(self, uniforms):
        kept = (uniforms < self.keep_prob).to(self.x)
        return kept.unflatten(-1, (self.groups, 4)) / self.keep_prob

    def all_draws(self):
        chosen = torch.tensor(list(itertools.product(range(16), repeat=self.groups)))
        return self.masks[chosen], self.weights[chosen].prod(-1)

    def outputs(self, theta, masks=1.0):
        return self._layers(theta, masks)[-1]

    def loss(self, theta):
        return (self.outputs(theta) - self.y).square().mean(-1) / 2

    def gradient(self, theta, draw):
        return self.of_samples(theta, draw).mean(-2)

    def of_samples(self, theta, masks):
        """Gradients (..., n, D) of all samples, masks (..., n or 1, 4)."""
        first, kept, second, last, outputs = self._layers(theta, masks)
        _, inner, readout = self._weights(theta)
        residuals = (outputs - self.y)[..., None]
        masks = masks * torch.ones_like(first[..., :1])
        at_second = residuals * readout[..., None, :] * masks[..., 2:] * (1 - second.square())
        at_first = (at_second @ inner) * masks[..., :2] * (1 - first.square())
        of_inner = at_second[..., :, None] * kept[..., None, :]
        return torch.cat([at_first * self.x[:, None], of_inner.flatten(-2), residuals * last], dim=-1)

    def _weights(self, theta):
        first, inner, readout = theta.split([2, 4, 2], dim=-1)
        return first, inner.unflatten(-1, HIDDEN), readout

    def _layers(self, theta, masks):
        masks = masks * torch.ones(4, dtype=self.x.dtype)
        weights, inner, readout = self._weights(theta)
        first = torch.tanh(self.x[:, None] * weights[..., None, :])
        kept = first * masks[..., :2]
        second = torch.tanh(kept @ inner.mT)
        last = second * masks[..., 2:]
        return first, kept, second, last, (last * readout[..., None, :]).sum(-1)


class DeepInClosedForm(Deep):
    """The same with its mean gradient and noise product, sums over all masks."""

    has_closed_form = True

    def mean_gradient(self, theta):
        return torch.einsum("...knd,k->...d", self._of_masks(theta), self.weights) / self.samples

    def noise_product(self, theta, normals):
        gradients = self._of_masks(theta)
        gradients = gradients if self.groups > 1 else gradients.mean(-2, keepdim=True)
        gradients = gradients - torch.einsum("...knd,k->...nd", gradients, self.weights)[..., None, :, :]
        factors = normals.unflatten(-1, (16, self.groups)) * self.weights.sqrt()[:, None]
        return torch.einsum("...knd,...kn->...d", gradients, factors) / self.groups

    def _of_masks(self, theta):
        return self.of_samples(theta[..., None, :], self.masks[:, None, :])


def deep(keep_prob, per_sample, closed_form):
    """The network with four samples, or two with a mask each, and where it starts."""
    generator = np.random.default_rng(3)
    x, y, theta0 = (torch.from_numpy(generator.standard_normal(size)) for size in (4, 4, 8))
    samples = 2 if per_sample else 4
    made = DeepInClosedForm if closed_form else Deep
    return made(x[:samples], y[:samples] / 2, keep_prob, per_sample), 0.8 * theta0


def iterated_loss(problem, theta0, lr, steps):
    """Mean loss of the iteration over all sequences of masks, those of the first step one after the other."""
    draws, weights = problem.all_draws()
    starts = problem.step(theta0, draws, lr)
    means = [enumerated_expectation(problem, start, lr, steps - 1, "loss") for start in starts]
    return float(weights @ torch.tensor(means, dtype=weights.dtype))


def readout_module(keep_prob):
    """The readout of `harness.linear_problem` as a module."""
    base, _ = harness.linear_problem(keep_prob)
    layers = nn.Dropout(1 - keep_prob), nn.Linear(2, 1, bias=False)
    return sme.ModuleProblem(nn.Sequential(*layers).double(), base.x, base.y, loss="squared_error", masks="shared")


def under_schedule(problem, name, keep_prob, horizon):
    """The problem of a case, which may follow a schedule."""
    if name.endswith("cosine"):
        return sme.ScheduledProblem(problem, lr_factor=cosine(horizon, 0.1))
    if name.endswith("keep_prob"):
        return sme.ScheduledProblem(problem, keep_prob=lambda t: keep_prob + 0.15 * t / horizon)
    return problem


def problem_and_errors(name, keep_prob, horizon, lrs):
    """A problem, its start, and its errors with their uncertainty by (lr, order)."""
    errors = {}
    if name.startswith("readout"):
        problem, theta0 = harness.linear_problem(keep_prob)
        problem = under_schedule(problem, name, keep_prob, horizon)
        exact = LinearMoments(problem, theta0) if problem.autonomous else ScheduledMoments(problem, theta0, MOMENTS)
        for lr, order in itertools.product(lrs, (1, 2)):
            errors[lr, order] = exact.error(lr, order, horizon), 0.0
        if "draws" in name:
            problem = under_schedule(readout_module(keep_prob), name, keep_prob, horizon)
        return problem, theta0, errors
    known, theta0 = deep(keep_prob, "per sample" in name, True)
    for lr in lrs:
        iteration = iterated_loss(known, theta0, lr, round(horizon / lr))
        for order in (1, 2):
            found = equation_mean(known, theta0, lr, order, horizon)
            errors[lr, order] = found.value - iteration, np.hypot(found.stderr, found.bias)
    return deep(keep_prob, "per sample" in name, False)[0], theta0, errors


def defects(count):
    """Coverage of the intervals of errors by defects, without and with the bound on their bias."""
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(partial(_replicates, count=count))(*case) for case in CASES)
    return pd.concat(found, ignore_index=True)


def _replicates(name, keep_prob, horizon, lrs, count):
    """A row for each order and learning rate: how often its two intervals cover, and it is resolved."""
    problem, theta0, exact = problem_and_errors(name, keep_prob, horizon, lrs)
    design = StudyDesign.of(
        problem, theta0, lrs, horizon, orders=[1, 2], observables=["loss"], times=[horizon], control="none"
    )
    budgets, rows = [DefectBudget(design, lr, Runner()) for lr in lrs], []
    for budget in budgets:
        vars(budget.sampler)["block_size"] = AT_ONCE * PATHS  # paths of a block are independent: cut it into replicates
        for block in range(-(-count // AT_ONCE)):
            values = budget.sampler.values(block).reshape(AT_ONCE, PATHS, 1, -1)
            for replicate in range(min(AT_ONCE, count - block * AT_ONCE)):
                budget.statistics = PathStatistics.of(np.stack([values[replicate]] * 2), antithetic=False, order=4)
                of = {"observable": f"loss of replicate {block * AT_ONCE + replicate}"}  # intervals are made for each
                rows += [row | of for row in budget.rows(None)]
    table = with_bias(pd.DataFrame(rows))
    error, noise = np.array([exact[at] for at in zip(table.lr, table.order, strict=True)]).T
    covered = (table.low <= error) & (error <= table.high)
    reliable = table.reason.map(lambda reason: Status(reason).has_interval)
    table = table.assign(
        exact=error,
        noise=noise,
        measured=table.error,
        reliable=reliable,
        monte_carlo=((table.error - error).abs() <= table.half_width).where(reliable),
        interval=covered.where(reliable),
        covered=covered.where(table.resolved),
    )
    columns = [
        "exact",
        "noise",
        "stderr",
        "measured",
        "bias",
        "reliable",
        "monte_carlo",
        "interval",
        "resolved",
        "covered",
    ]
    groups = table[columns].astype(float).groupby([table.order, table.lr])
    means = groups.mean().reset_index()
    counts = zip(groups.interval.sum(), groups.interval.count(), strict=True)
    low, high = np.array([binomtest(int(hits), int(of)).proportion_ci() for hits, of in counts]).T
    return pd.DataFrame(
        {
            "problem": name,
            "keep_prob": keep_prob,
            "order": means.order,
            "lr": means.lr,
            "exact": means.exact,
            "stderr": means.stderr,
            "reference error": means.noise / means.stderr,
            "bias": (means.measured - means.exact) / means.stderr,
            "bound": means.bias / means.stderr,
            "monte_carlo": means.monte_carlo,
            "interval": means.interval,
            "low": low,
            "high": high,
            "heavy tails": 1 - means.reliable,
            "resolved": means.resolved,
            "of resolved": means.covered,
            "replicates": count,
        }
    )
