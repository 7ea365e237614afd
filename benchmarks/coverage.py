"""Do the 95% intervals cover? Linear regression with dropout, where the exact weak error is known.

Each replicate is one call of `weak_error` with its own seed. Two counts: how often the Monte Carlo interval covers the
difference of the scheme's solution and the iteration (exact by `LinearMoments.scheme`), which should be 95%; and how
often the whole budget, Monte Carlo and solver bias, covers the error of the equation, which may be more.

    python benchmarks/coverage.py [--replicates 1000] [--out coverage.json]
"""

import argparse
import json

import joblib
import numpy as np
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments

LR, HORIZON = 0.1, 1.0


def make(keep_prob):
    rng = np.random.default_rng(2)
    problem = sme.DropoutProblem(
        sme.LinearNetwork(2), rng.standard_normal((6, 2)), rng.standard_normal((6, 1)), keep_prob=keep_prob
    )
    return problem, torch.tensor([1.0, -0.5], dtype=torch.float64)


def replicates(keep_prob, seeds):
    torch.set_num_threads(1)
    problem, theta0 = make(keep_prob)
    moments = LinearMoments(problem, theta0)
    steps = round(HORIZON / LR)
    rows = []
    for seed in seeds:
        table = sme.weak_error(problem, theta0, [LR], HORIZON, times=[HORIZON], paths=1024, seed=seed).table
        for row in table.itertuples():
            error = moments.error(LR, row.order, HORIZON)
            scheme = moments.scheme(LR, row.order, HORIZON, "small_noise_rk4", row.dt) - moments.iteration(LR, steps)
            rows.append((row.order, abs(row.error - scheme) <= 1.96 * row.stderr, row.low <= error <= row.high))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    results = []
    print("keep_prob  order  replicates  Monte Carlo interval  whole budget   (binomial 95%: +- 1.96 sqrt(p(1-p)/n))")
    for keep_prob in (0.8, 0.5):
        parts = np.array_split(np.arange(arguments.replicates), 50)
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(replicates)(keep_prob, part.tolist()) for part in parts)
        rows = [row for part in found for row in part]
        for order in (1, 2):
            sampling, budget = (np.mean([row[k] for row in rows if row[0] == order]) for k in (1, 2))
            results.append({"keep_prob": keep_prob, "order": order, "monte_carlo": sampling, "budget": budget})
            print(f"{keep_prob:9}  {order:5}  {arguments.replicates:10}  {sampling:20.3f}  {budget:12.3f}", flush=True)
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"replicates": arguments.replicates, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
