"""Training by torch's optimisers: its time beside a hand-written loop, and the weak orders of Adam.

    python benchmarks/training.py [--sections time orders cold] [--orders 1 2] [--paths 256] [--rounds 40]

"time": one step of `sme.iterate` on a torch module with nn.Dropout, with SGD, momentum and Adam, beside the same step
written by hand with `torch.func.vmap` over paths, masks and the optimiser's formulas included; least and median CPU
seconds of rounds in which both take turns, after 40 steps, by which time `iterate` runs a recording of the gradient.
"orders": weak errors of Adam with dropout on tanh 2-4-1 by defects, from a warm start, and the fitted orders.
"cold": what happens at a start that is cold, or warm for a few steps only. Of the iteration: the change of its mean
loss at the horizon when lr is halved, which is halved with it where there is an equation of order 1. Of the equation:
the share of its paths that are lost, as their second moments become negative; a cold start is refused.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional

import smesolve as sme
from smesolve.problem.iteration import DropoutIteration

KEEP, LR, BETAS, EPS = 0.8, 1e-3, (0.9, 0.99), 1e-8
WARM = 40


@dataclass(frozen=True)
class Case:
    """A module with dropout, and its loss written by hand for one path: (parameters, masks, x, y) -> ()."""

    module: nn.Module
    x: Tensor
    y: Tensor
    loss: str
    by_hand: Callable[..., Tensor]
    masks: list[tuple[int, ...]]
    """Shapes of the masks of one path."""


def small() -> Case:
    data = harness.sine_problem(8, 2, 4, normalised=False)
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(1 - KEEP), nn.Linear(4, 1)).double()

    def loss(p: list[Tensor], masks: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(functional.linear(x, p[0], p[1])) * masks[0]
        return (functional.linear(hidden, p[2], p[3]) - y).square().sum() / (2 * len(x))

    return Case(module, data.x, data.y, "squared_error", loss, [(8, 4)])


def deep() -> Case:
    x, y = classes(200)
    layers = [nn.Linear(64, 50), nn.ReLU(), nn.Dropout(1 - KEEP), nn.Linear(50, 50), nn.ReLU(), nn.Dropout(1 - KEEP)]

    def loss(p: list[Tensor], masks: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.relu(functional.linear(x, p[0], p[1])) * masks[0]
        hidden = torch.relu(functional.linear(hidden, p[2], p[3])) * masks[1]
        return functional.cross_entropy(functional.linear(hidden, p[4], p[5]), y)

    module = nn.Sequential(*layers, nn.Linear(50, 10)).double()
    return Case(module, x, y, "cross_entropy", loss, [(200, 50), (200, 50)])


def convolutional() -> Case:
    x, y = classes(32)
    first, second = nn.Conv2d(1, 6, 3, stride=2), nn.Conv2d(6, 8, 3)
    dropped = [nn.Tanh(), nn.Dropout2d(1 - KEEP), second, nn.Tanh(), nn.Flatten(), nn.Dropout(1 - KEEP)]
    module = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), first, *dropped, nn.Linear(8, 10)).double()

    def loss(p: list[Tensor], masks: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(functional.conv2d(x.view(-1, 1, 8, 8), p[0], p[1], stride=2)) * masks[0]
        hidden = torch.tanh(functional.conv2d(hidden, p[2], p[3])).flatten(1) * masks[1]
        return functional.cross_entropy(functional.linear(hidden, p[4], p[5]), y)

    return Case(module, x, y, "cross_entropy", loss, [(32, 6, 1, 1), (32, 8)])


def classes(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 64, dtype=torch.float64, generator=generator)
    return x, torch.randint(10, (samples,), generator=generator)


CASES = {"2-4-1": small, "64-50-50-10": deep, "CNN": convolutional}
OPTIMIZERS = {"SGD": {}, "momentum": {"momentum": 0.9}, "Adam": {"betas": BETAS, "eps": EPS}}


def iterate_beside_a_loop(case: Case, optimizer: str, rounds: int) -> dict[str, float]:
    """Return least and median seconds of a step of a block of paths, and their ratios."""
    problem = sme.ModuleProblem(case.module, case.x, case.y, loss=case.loss)
    kind = torch.optim.Adam if optimizer == "Adam" else torch.optim.SGD
    training = sme.Training(problem, kind, lr=LR, **OPTIMIZERS[optimizer])
    process, start = DropoutIteration(training, LR), training.warm(training.initial(), 3)
    paths, generator = process.block_size, torch.Generator().manual_seed(0)
    shapes, sizes = zip(*((p.shape, p.numel()) for p in case.module.parameters()), strict=True)

    def loss(vector: Tensor, masks: list[Tensor]) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return case.by_hand(parts, masks, case.x, case.y)

    gradient = torch.func.vmap(torch.func.grad(loss))
    theta = training.parameters(start).expand(paths, -1).clone()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)

    def by_hand(step: int) -> None:
        drawn = [torch.rand(paths, *shape, generator=generator, dtype=torch.float64) for shape in case.masks]
        g = gradient(theta, [(uniforms < KEEP).double() / KEEP for uniforms in drawn])
        if optimizer == "SGD":
            theta.sub_(g, alpha=LR)
        elif optimizer == "momentum":
            m.mul_(0.9).add_(g)
            theta.sub_(m, alpha=LR)
        else:
            m.lerp_(g, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            denominator = (v / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
            theta.addcdiv_(m, denominator, value=-LR / (1 - BETAS[0] ** (step + 1)))

    states = [start.expand(paths, -1)]

    def ours(step: int) -> None:
        states[0] = process.advance(states[0], 0, step)

    times: dict[str, list[float]] = {"iterate": [], "by hand": []}
    with torch.no_grad():
        for step in range(WARM + rounds):
            for name, function in (("iterate", ours), ("by hand", by_hand)):
                began = time.process_time()
                function(step)
                times[name].append(time.process_time() - began)
    found: dict[str, float] = {"paths": paths}
    for what, of in (("least", min), ("median", median)):
        for name, each in times.items():
            found[f"{name}, {what}"] = of(each[WARM:])
        found[f"ratio, {what}"] = found[f"iterate, {what}"] / found[f"by hand, {what}"]
    return found


def weak_errors(orders: list[int], paths: int) -> sme.WeakErrorStudy:
    """Return the weak errors of Adam."""
    training = sme.Training(harness.small_problem(), torch.optim.Adam, lr=0.02, betas=BETAS)
    state = training.warm(training.initial(seed=1), steps=400)
    lrs, horizon = [0.01, 0.005, 0.0025, 0.00125], 0.32
    return sme.weak_error(
        training, state, lrs, horizon, times=[horizon], orders=orders, estimator="defects", paths=paths
    )


def cold_starts(paths: int) -> None:
    """Print what becomes of the iteration and of its equation after 0, 5 and 400 steps of warming."""
    training = sme.Training(harness.small_problem(), torch.optim.Adam, lr=0.02, betas=BETAS)
    horizon, lrs, cold = 0.32, [0.02 / 2**k for k in range(4)], training.initial(seed=1)
    for warm in (0, 5, 400):
        start = training.warm(cold, warm)
        means = []
        for number, lr in enumerate(lrs):
            steps = round(horizon / lr)
            table = sme.iterate(training, start, lr, steps, paths, number, save=[steps], observables=["loss"])
            means.append((table["mean"].item(), table["stderr"].item()))
        changes = [f"{a - b:+.2e} +- {1.96 * (u**2 + v**2) ** 0.5:.0e}" for (a, u), (b, v) in pairwise(means)]
        equation = sme.ModifiedEquation(training, 0.02, order=1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ends = sme.solve(equation, start, [0.0, horizon], "svag", dt=0.01, paths=1024)[-1]
            lost = f"{1 - float(ends.isfinite().all(-1).double().mean()):.1%} of its paths are lost"
        except sme.SmesolveError:
            lost = "refused"
        print(
            f"warm {warm}: loss(lr) - loss(lr/2) from lr {lrs[0]:g}: {', '.join(changes)}; equation: {lost}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", default=["time", "orders"], choices=["time", "orders", "cold"])
    parser.add_argument("--orders", nargs="+", type=int, default=[1], choices=[1, 2])
    parser.add_argument("--paths", type=int, default=256, help="of orders; of cold starts 64 times as many")
    parser.add_argument("--rounds", type=int, default=40, help="of time")
    arguments = parser.parse_args()
    if "time" in arguments.sections:
        for name, case in CASES.items():
            for optimizer in OPTIMIZERS:
                torch.manual_seed(0)
                found = iterate_beside_a_loop(case(), optimizer, arguments.rounds)
                print(f"{name}, {optimizer}:", ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    if "orders" in arguments.sections:
        study = weak_errors(arguments.orders, arguments.paths)
        print(study.table[["order", "lr", "error", "low", "high", "bias", "reason"]].to_string())
        print(study.fit().to_string())
    if "cold" in arguments.sections:
        cold_starts(64 * arguments.paths)


if __name__ == "__main__":
    main()
