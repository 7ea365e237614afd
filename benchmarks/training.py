"""Training by torch's optimisers: its time beside a hand-written loop, and the weak orders of Adam.

    python benchmarks/training.py [--sections time orders cold] [--orders 1 2] [--paths 256]

"time": one step of `sme.iterate` with Adam on a torch module with nn.Dropout, beside the same step written by hand with
`torch.func.vmap` over paths, masks and Adam's formulas included; least CPU time over rounds in which both take turns.
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
from itertools import pairwise

import harness
import torch
from torch import Tensor, nn

import smesolve as sme
from smesolve.problem.iteration import DropoutIteration

KEEP, BETAS, EPS = 0.8, (0.9, 0.99), 1e-8


def iterate_beside_a_loop(samples: int, width: int, rounds: int = 40) -> dict[str, float]:
    """Return seconds of a step of a block of paths, and their ratio."""
    data = harness.sine_problem(samples, 8, width, normalised=False)
    x, y = data.x, data.y
    module = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(1 - KEEP), nn.Linear(width, 1)).double()
    training = sme.Training(sme.ModuleProblem(module, x, y), torch.optim.Adam, lr=1e-3, betas=BETAS, eps=EPS)
    process, start = DropoutIteration(training, 1e-3), training.warm(training.initial(), 3)
    paths = process.block_size
    generator = torch.Generator().manual_seed(0)
    shapes = [p.shape for p in module.parameters()]
    sizes = [p.numel() for p in module.parameters()]

    def loss(vector: Tensor, mask: Tensor) -> Tensor:
        w, b, a, c = (part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True))
        hidden = torch.tanh(x @ w.mT + b) * mask
        return (hidden @ a.mT + c - y).square().sum() / (2 * samples)

    gradient = torch.func.vmap(torch.func.grad(loss))
    theta = training.parameters(start).expand(paths, -1).clone()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)

    def by_hand(step: int) -> None:
        mask = (torch.rand(paths, samples, width, generator=generator, dtype=torch.float64) < KEEP) / KEEP
        g = gradient(theta, mask.double())
        m.lerp_(g, 1 - BETAS[0])
        v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
        denominator = (v / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
        theta.addcdiv_(m, denominator, value=-1e-3 / (1 - BETAS[0] ** (step + 1)))

    states = [start.expand(paths, -1)]

    def ours(step: int) -> None:
        states[0] = process.advance(states[0], 0, step)

    times: dict[str, list[float]] = {"iterate": [], "by hand": []}
    with torch.no_grad():
        for step in range(rounds):
            for name, function in (("iterate", ours), ("by hand", by_hand)):
                began = time.process_time()
                function(step)
                times[name].append(time.process_time() - began)
    best = {name: min(each) for name, each in times.items()}
    return best | {"ratio": best["iterate"] / best["by hand"], "paths": paths}


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
    arguments = parser.parse_args()
    if "time" in arguments.sections:
        for samples, width in ((16, 32), (64, 64)):
            found = iterate_beside_a_loop(samples, width)
            print(f"n={samples}, m={width}:", ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    if "orders" in arguments.sections:
        study = weak_errors(arguments.orders, arguments.paths)
        print(study.table[["order", "lr", "error", "low", "high", "bias", "reason"]].to_string())
        print(study.fit().to_string())
    if "cold" in arguments.sections:
        cold_starts(64 * arguments.paths)


if __name__ == "__main__":
    main()
