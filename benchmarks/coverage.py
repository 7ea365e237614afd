"""Do the 95% intervals cover? Linear regression with dropout, where the exact weak error is known.

A replicate is a study of one block of paths (1024) on each side, as `weak_error` makes it: same control variates, same
estimates, its own random numbers. Two counts: how often the Monte Carlo interval covers the difference of the scheme's
solution and the iteration (exact by `LinearMoments.scheme`), which should be 95%; and how often the whole budget, Monte
Carlo and solver bias, covers the error of the equation, which may be more.

    python benchmarks/coverage.py [--replicates 1000] [--out coverage.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import joblib
import numpy as np
import torch
from harness import NORMAL_QUANTILE

from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.estimate import PairSampler, estimate
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.observables import named_observables
from smesolve.comparison.value_hessians import value_hessians
from smesolve.sampling.runner import Runner

LR, HORIZON, SCHEME = 0.1, 0.5, "small_noise_rk4"


def replicates(keep_prob, count):
    problem, theta0 = harness.linear_problem(keep_prob)
    moments = LinearMoments(problem, theta0)
    observables = named_observables(problem, ["loss"])
    with torch.no_grad():
        hessians = value_hessians(problem, theta0, [HORIZON], observables, LR)
        budget = ErrorBudget(
            problem, theta0, LR, [HORIZON], [1, 2], observables, SCHEME, LR, "second", hessians, 0, Runner()
        )
    rows = []
    iteration = moments.iteration(LR, round(HORIZON / LR))
    dropout = [estimate(budget.sampler.statistics(block)) for block in range(count)]
    for side in budget.sides:
        order = side.equation.order
        error = moments.error(LR, order, HORIZON)
        scheme = moments.scheme(LR, order, HORIZON, SCHEME, LR) - iteration
        paired = next(work for work in side.work.values() if isinstance(work, PairSampler))
        for block, other in enumerate(dropout):
            equation, pairs = (estimate(part) for part in paired.statistics(block))
            measured = (equation.mean - other.mean).item()
            half = NORMAL_QUANTILE * np.hypot(equation.stderr, other.stderr).item()
            bias = side.bias_of(pairs).item()
            whole = half + abs(bias) + NORMAL_QUANTILE * 2 * pairs.stderr.item()
            rows.append((order, abs(measured - scheme) <= half, abs(measured - error) <= whole))
    return rows


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    arguments = parser.parse_args()
    keep_probs = (0.8, 0.5)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(replicates)(keep, arguments.replicates) for keep in keep_probs)
    results = []
    print("keep_prob  order  replicates  Monte Carlo interval  whole budget   (binomial 95%: +- 1.96 sqrt(p(1-p)/n))")
    for keep_prob, rows in zip(keep_probs, found, strict=True):
        for order in (1, 2):
            sampling, budget = (np.mean([row[k] for row in rows if row[0] == order]) for k in (1, 2))
            results.append({"keep_prob": keep_prob, "order": order, "monte_carlo": sampling, "budget": budget})
            print(f"{keep_prob:9}  {order:5}  {arguments.replicates:10}  {sampling:20.3f}  {budget:12.3f}")
    harness.write(arguments.out, {"replicates": arguments.replicates, "results": results})


if __name__ == "__main__":
    main()
