"""How time and memory grow: exponents fitted to time of a step and to peak memory of a weak-error measurement.

One size varies, the others stay. Time is that of Euler steps of order 1, normal and weak noise, and of dropout steps,
a path step, minimum of several runs; for B it is the time of all paths, for the number of observables that of the
measurement. Memory is the growth of the process's peak during `weak_error` with first-order control variates; it is
not fitted where it grows by less than 5 MiB. Every size runs in a process of its own. Intervals: 95%, of the fit.

    python benchmarks/growth.py [--only n m d B observables] [--out growth.json]
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness
import numpy as np
import pandas as pd
import torch
from scipy.stats import linregress, t

import smesolve as sme
from smesolve.problem.iteration import DropoutIteration
from smesolve.solver.integration import integration

BASE = {"n": 256, "d": 64, "m": 64, "B": 64, "observables": 1}
VALUES = {
    "n": (256, 512, 1024, 2048),
    "d": (128, 256, 512, 1024),
    "m": (32, 64, 128, 256),
    "B": (64, 128, 256, 512),
    "observables": (1, 4, 16, 64),
}
LR, STEPS = 0.05, 4


def measure(sizes: dict[str, int]) -> dict[str, float]:
    n, d, m, B = (sizes[name] for name in ("n", "d", "m", "B"))
    problem = harness.sine_problem(n, d, m, frequency=3.0)
    theta0 = problem.initial()
    processes = {"dropout": DropoutIteration(problem, LR)}
    for label, one in (("euler", problem), ("euler, weak noise", problem.with_weak_noise())):
        processes[label] = integration(sme.ModifiedEquation(one, LR, 1), theta0, "euler", LR / 2)

    @torch.no_grad()
    def run(process: object) -> None:
        for block in range(-(-B // process.block_size)):
            theta = theta0.expand(process.block_size, -1)
            for step in range(STEPS):
                theta = process.advance(theta, block, step)

    result = {"D": problem.dim}
    for name, process in processes.items():
        run(process)
        times = []
        while len(times) < 5 or sum(times) < 1.0:
            times.append(harness.timed(run, process)[0])
        result[name] = min(times)
    before = harness.peak()
    observables = [f"theta[{j}]" for j in range(sizes["observables"])]
    options = {"orders": [1], "observables": observables, "paths": B, "control": "first", "dt": LR}
    result["weak_error"], _ = harness.timed(sme.weak_error, problem, theta0, [LR], 4 * LR, **options)
    result["MiB"] = harness.peak() - before
    return result


def fitted(sizes: pd.Series, values: pd.Series) -> tuple[float, float]:
    """Exponent and the half-width of its interval."""
    fit = linregress(np.log(sizes), np.log(values))
    return fit.slope, t.ppf(0.975, len(sizes) - 2) * fit.stderr


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", nargs="+", default=list(VALUES), choices=list(VALUES))
    arguments = parser.parse_args()
    print(f"base sizes {BASE}; {harness.threads()}")
    rows = []
    for name in arguments.only:
        for value in VALUES[name]:
            found = harness.in_a_process_of_its_own(measure, BASE | {name: value})
            rows.append({"varied": name, "size": value} | found)
        part = pd.DataFrame([row for row in rows if row["varied"] == name])
        print("\n" + harness.shown(part, 4))
        timed = ["weak_error"] if name == "observables" else ["dropout", "euler", "euler, weak noise", "weak_error"]
        fits = {column: fitted(part["size"], part[column]) for column in timed}
        if part.MiB.max() - part.MiB.min() > 5 and (part.MiB > 0).all():
            fits["MiB"] = fitted(part["size"], part.MiB)
        print(
            "  exponents: " + ", ".join(f"{column} {slope:.2f} +- {half:.2f}" for column, (slope, half) in fits.items())
        )
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
