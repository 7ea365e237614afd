"""Order 3 measured: its errors and slope, what control variates save, and what a step costs beside order 2.

python benchmarks/order_3.py [paths]      takes minutes with the default of 2^15 paths

- errors of orders 2 and 3 of a tanh 2-4-1 network at four learning rates with the fitted slopes;
- the reduction of the standard error by control variates at lr = 0.1;
- seconds a path and unit of time of order 3 and "poisson", with dt of 1, 2 and 4 lr, over those of order 2 with
  small_noise_rk4 and dt = lr: the median of five runs that take turns.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

import smesolve as sme

LR, HORIZON, TIMED_PATHS, REPEATS = 0.05, 2.0, 2048, 5


def main(paths: int) -> None:
    """Print the three tables."""
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
    ways = {"order 2, dt = lr": (2, 1)} | {
        f"order {order}, dt = {factor} lr": (order, factor) for order in (3, "poisson") for factor in (1, 2, 4)
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (order, factor) in ways.items():
            equation, begin = sme.ModifiedEquation(problem, LR, order), time.perf_counter()
            sme.solve(equation, theta0, [0.0, HORIZON], dt=factor * LR, paths=TIMED_PATHS)
            seconds[name].append(time.perf_counter() - begin)
    unit = statistics.median(seconds["order 2, dt = lr"])
    for name, runs in seconds.items():
        print(f"{name:>24}: {statistics.median(runs) / unit:.2f} times the time of order 2")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2**15)
