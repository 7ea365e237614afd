"""Order 3 measured: its errors and slope, what control variates save, and what a step costs beside order 2.

python benchmarks/order_3.py [paths]      takes minutes with the default of 2^15 paths

- errors of orders 2 and 3 of a tanh 2-4-1 network at four learning rates with the fitted slopes;
- the reduction of the standard error by control variates at lr = 0.1;
- errors of long steps on a readout, exact: means, covariances and third cumulants under order 2 with small_noise_rk4
  and under order 3 with skewed_rk4, beside the gradients that they take;
- central moments of the loss of the network at keep_prob 0.6 under both, with intervals, beside those of training;
- processor time a path and unit of time of order 3 and "poisson" over that of order 2 with small_noise_rk4 and dt = lr:
  the median of five runs that take turns, on one thread, of a small and of a wider network.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch

import smesolve as sme
from smesolve.comparison.cost import step_cost
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.exact.affine_gradient import affine_matrix
from smesolve.experiments.scaling.small_keep_prob import statistics_of
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.small_noise_rk4 import SmallNoiseRK4
from smesolve.solver.skewed_rk4 import INNER, OUTER, SkewedRK4

LR, HORIZON, TIMED_PATHS, REPEATS = 0.05, 2.0, 2048, 5

STATISTICS = ("mean", "moment 2", "moment 3")


def main(paths: int) -> None:
    """Print the tables."""
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, torch.sin(2 * x[:, :1]), keep_prob=0.8)
    theta0 = 2 * problem.initial(seed=0)
    study = sme.weak_error(
        problem, theta0, [0.25, 0.2, 0.125, 0.1], HORIZON, orders=(2, 3), times=[HORIZON], paths=paths
    )
    print(study.table[["order", "lr", "error", "low", "high", "resolved"]].to_string(index=False))
    print(study.fit()[["order", "slope", "slope_low", "slope_high", "constant", "verdict"]].to_string(index=False))
    small = sme.weak_error(problem, problem.initial(seed=0), [0.1], HORIZON, orders=(2, 3), times=[HORIZON], paths=8192)
    print(small.table[["order", "lr", "stderr", "stderr_reduction"]].to_string(index=False))
    accelerated()
    moments_of_the_loss(problem.with_keep_prob(0.6), theta0, 4 * paths)
    costs("tanh 2-4-1", problem, theta0, TIMED_PATHS)
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    wide = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(wide, x, torch.sin(x[:, :10]), keep_prob=0.8)
    costs("tanh 64-32-10", problem, problem.initial(seed=0), TIMED_PATHS // 32)


def accelerated() -> None:
    """Print errors of long steps on a readout, exact: order 2 under its scheme, and order 3 under `skewed_rk4`."""
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    readout = sme.DropoutProblem(sme.LinearNetwork(2), x, torch.sin(2 * x[:, :1]), keep_prob=0.7)
    theta0 = torch.tensor([1.0, 0.8], dtype=torch.float64)
    lr, steps = 2.0**-7, 128
    iteration = LinearMoments(readout, theta0).moments(lr, None, steps * lr)
    rows = []
    for factor in (1, 2, 4, 8, 16, 32):
        dt = factor * lr
        maps = {"order 2, small_noise_rk4": (rk4_map(readout, lr, dt), step_cost(2, "small_noise_rk4"))}
        if factor > 1:
            maps["order 3, skewed_rk4"] = (skewed_map(readout, lr, dt), SkewedRK4.gradients)
        for name, (moment_map, gradients) in maps.items():
            psi = np.concatenate([[1.0], theta0.numpy()])
            end = np.linalg.matrix_power(moment_map, steps // factor) @ np.kron(np.kron(psi, psi), psi)
            found, exact = (cumulants(moments) for moments in (end.reshape(3, 3, 3), iteration))
            errors = {key: np.abs(found[key] - exact[key]).max() / np.abs(exact[key]).max() for key in exact}
            rows.append({"equation": name, "dt / lr": factor, "gradients / lr": gradients / factor} | errors)
    print("relative errors of cumulants of a readout, exact, keep_prob 0.7, lr = 1/128, T = 1:")
    print(pd.DataFrame(rows).sort_values(["equation", "dt / lr"]).to_string(index=False, float_format="{:.2g}".format))


def moments_of_the_loss(problem: sme.DropoutProblem, theta0: torch.Tensor, paths: int) -> None:
    """Print central moments of the loss of a network with 95% intervals: training, and equations in long steps."""
    ways = {"order 2": (2, None, (1, 4, 8)), "order 3, skewed_rk4": (3, "skewed_rk4", (4, 8))}
    ends = {"training": sme.iterate(problem, theta0, LR, round(HORIZON / LR), paths, seed=1)[-1]}
    for name, (order, scheme, factors) in ways.items():
        sde = sme.ModifiedEquation(problem, LR, order)
        for factor in factors:
            solved = sme.solve(sde, theta0, [0.0, HORIZON], scheme, dt=factor * LR, paths=paths, seed=2)
            ends[f"{name}, dt = {factor} lr"] = solved[-1]
    print(f"central moments of the loss, tanh 2-4-1, keep_prob 0.6, lr = {LR}, T = {HORIZON:g}, {paths} paths:")
    for name, end in ends.items():
        rows = {row["statistic"]: row for row in statistics_of(problem.loss(end).numpy(), [])}
        words = [
            f"{key} {rows[key]['value']:.4g} [{rows[key]['low']:.4g}, {rows[key]['high']:.4g}]" for key in STATISTICS
        ]
        print(f"{name:>28}: {', '.join(words)}")


def cumulants(moments: np.ndarray) -> dict[str, np.ndarray]:
    """Return means, covariances and third cumulants from the third moments of (1, theta)."""
    mean, second, third = moments[0, 0, 1:], moments[0, 1:, 1:], moments[1:, 1:, 1:]
    covariance = second - np.outer(mean, mean)
    mixed = np.einsum("i,jk->ijk", mean, covariance)
    mixed = mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)
    return {"mean": mean, "covariance": covariance, "third": third - mixed - np.einsum("i,j,k->ijk", mean, mean, mean)}


def moment_map(step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], normals: int) -> np.ndarray:
    """Return the map of third moments of (1, theta) in a step that is affine in theta and in its normals."""
    still = torch.zeros(normals, dtype=torch.float64)
    fixed = affine_matrix(lambda theta: step(theta, still) - theta, 2) + np.eye(3)
    total = np.kron(np.kron(fixed, fixed), fixed)
    for unit in torch.eye(normals, dtype=torch.float64):
        column = affine_matrix(lambda theta, unit=unit: step(theta, unit) - theta, 2) + np.eye(3) - fixed
        for places in ((0, 1), (0, 2), (1, 2)):
            total += reduce(np.kron, [column if place in places else fixed for place in range(3)])
    return np.asarray(total)


def skewed_map(problem: sme.DropoutProblem, lr: float, dt: float) -> np.ndarray:
    """Return the map of a step of `skewed_rk4`."""
    scheme = SkewedRK4(problem, lr, dt)
    draws, weights = problem.all_draws()
    kicks = sum(
        float(weight) * moment_map(lambda y, chi, draw=draw: scheme.kick(y, draw, chi), problem.noise_dim)
        for draw, weight in zip(draws, weights, strict=True)
    )
    outer, inner = (moment_map(lambda y, _, t=t: scheme.flow(y, t * dt), 0) for t in (OUTER, INNER))
    return np.asarray(outer @ kicks @ inner @ kicks @ outer)


def rk4_map(problem: sme.DropoutProblem, lr: float, dt: float) -> np.ndarray:
    """Return the map of a step of `small_noise_rk4` on the equation of order 2."""
    sde, scheme = PerturbedSDE(sme.ModifiedEquation(problem, lr, 2)), SmallNoiseRK4()

    def step(y: torch.Tensor, chi: torch.Tensor) -> torch.Tensor:
        return scheme.advance(sde, 0.0, dt, y, dt**0.5 * chi.expand(len(y), -1))

    return moment_map(step, problem.noise_dim)


def costs(name: str, problem: sme.DropoutProblem, theta0: torch.Tensor, paths: int) -> None:
    """Print seconds over those of order 2, the median of runs that take turns."""
    ways: dict[str, tuple[Any, int, str | None]] = {"order 2, dt = lr": (2, 1, None)}
    ways |= {f"{order}, dt = {factor} lr": (order, factor, None) for order in (3, "poisson") for factor in (1, 4)}
    ways |= {f"order 3, skewed_rk4, dt = {factor} lr": (3, factor, "skewed_rk4") for factor in (4, 8)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, (order, factor, scheme) in ways.items():
            equation, begin = sme.ModifiedEquation(problem, LR, order), time.process_time()
            sme.solve(equation, theta0, [0.0, HORIZON], scheme, dt=factor * LR, paths=paths)
            seconds[way].append(time.process_time() - begin)
    unit = statistics.median(seconds["order 2, dt = lr"])
    for way, runs in seconds.items():
        print(f"{name}, {way:>32}: {statistics.median(runs) / unit:.2f} times the processor time of order 2")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2**15)
