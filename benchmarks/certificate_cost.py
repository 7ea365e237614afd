"""Time to resolve the order-2 error to 10%: this package beside plain Monte Carlo with torchsde.

Plain Monte Carlo runs independent paths of the iteration and of the order-2 equation by torchsde's `euler`, the only
scheme that it has for Ito SDEs with general noise. Its work is predicted from what is measured in the same run: the
standard deviations of the observable on both sides, the cost of a path, and the bias of `euler` at dt. The standard
deviations are checked by running it. Two plain ways are printed: dt = lr/4 with its bias left aside, which is generous,
and the dt at which the bias is a tenth of the error.

    python benchmarks/certificate_cost.py [--lrs 0.1 0.05 0.025 0.0125] [--out certificate_cost.json]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import time

import numpy as np
import pandas as pd
import torch
import torchsde

import smesolve as sme

HORIZON, REL_TOL, CHECK_PATHS = 2.0, 0.1, 2**14


def make() -> tuple[sme.DropoutProblem, torch.Tensor]:
    x = np.random.default_rng(0).standard_normal((8, 2))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 4), x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    return problem, problem.initial(seed=1)


@torch.no_grad()
def plain(problem: sme.DropoutProblem, theta0: torch.Tensor, lr: float, dt: float, paths: int) -> dict[str, float]:
    """Standard deviations and seconds a path of both sides."""
    steps = round(HORIZON / lr)
    start = time.perf_counter()
    discrete = problem.loss(sme.iterate(problem, theta0, lr, steps, paths, save=[steps])[-1])
    middle = time.perf_counter()
    equation = sme.ModifiedEquation(problem, lr, 2)
    brownian = sme.KeyedBrownian(paths, problem.noise_dim, dt)
    ts = torch.tensor([0.0, HORIZON], dtype=torch.float64)
    ends = torchsde.sdeint(equation, theta0.expand(paths, -1), ts, bm=brownian, method="euler", dt=dt)[-1]
    end = time.perf_counter()
    return {
        "error": float(discrete.mean() - problem.loss(ends).mean()),
        "deviation": float((discrete.var() + problem.loss(ends).var()) ** 0.5),
        "seconds_discrete": (middle - start) / paths,
        "seconds_step": (end - middle) / paths / round(HORIZON / dt),
    }


def row(problem: sme.DropoutProblem, theta0: torch.Tensor, lr: float) -> dict[str, float]:
    start = time.perf_counter()
    ours = sme.weak_error(problem, theta0, [lr], HORIZON, orders=[2], times=[HORIZON], rel_tol=REL_TOL).table.iloc[0]
    seconds = time.perf_counter() - start
    biased = sme.weak_error(
        problem, theta0, [lr], HORIZON, orders=[2], times=[HORIZON], scheme="euler", dt=lr / 4, paths=4096
    ).table.iloc[0]
    true = ours.error - ours.solver_bias
    peer = plain(problem, theta0, lr, lr / 4, CHECK_PATHS)
    paths = (1.96 * peer["deviation"] / (REL_TOL * true)) ** 2
    small = lr / 4 * min(1.0, REL_TOL * abs(true) / abs(biased.solver_bias))  # the bias of Euler is proportional to dt

    def work(dt: float) -> float:
        return paths * (peer["seconds_discrete"] + peer["seconds_step"] * HORIZON / dt)

    return {
        "lr": lr,
        "error": true,
        "half-width": 1.96 * ours.stderr,
        "resolved": bool(ours.resolved),
        "seconds": seconds,
        "euler bias at lr/4": biased.solver_bias,
        "plain paths": paths,
        "plain seconds, dt = lr/4": work(lr / 4),
        "times ours": work(lr / 4) / seconds,
        "dt for the bias": small,
        "plain seconds, that dt": work(small),
        "times ours ": work(small) / seconds,
        f"plain error at {CHECK_PATHS} paths": peer["error"],
        "+-": 1.96 * peer["deviation"] / CHECK_PATHS**0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lrs", nargs="+", type=float, default=[0.1, 0.05, 0.025, 0.0125])
    parser.add_argument("--out", help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem, theta0 = make()
    print(
        f"tanh 2-4-1, 8 samples, keep_prob 0.8, T = {HORIZON:g}, loss, order 2, error to {REL_TOL:.0%}; "
        f"torch {torch.__version__}, threads {torch.get_num_threads()}"
    )
    table = pd.DataFrame([row(problem, theta0, lr) for lr in arguments.lrs])
    print(table.T.to_string(header=False, float_format=lambda value: f"{value:.3g}"))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(table.to_dict("records"), file, indent=1)


if __name__ == "__main__":
    main()
