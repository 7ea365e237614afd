"""Do the 95% intervals cover? A section for each kind of interval, against answers that are known.

- Measured errors: linear regression with dropout, where the exact weak error is known. A replicate is a study of one
  block of paths (1024) on each side, as `weak_error` makes it: same control variates, same estimates, its own random
  numbers. Two counts: how often the Monte Carlo interval covers the difference of the scheme's solution and the
  iteration (exact by `LinearMoments.scheme`), which should be 95%; and how often the whole budget, with the solver bias
  taken off, covers the error of the equation.
- Fits: slopes and constants of errors with third-order terms, five shapes, at four learning rates. The room that a fit
  leaves for missing terms makes its slopes conservative at every precision, and its constants where errors are precise.
- Constants: those predicted without Monte Carlo against exact errors extrapolated to lr = 0.
- Heavy tails: the worst cases of `heavy_tails.py`.
- Defects: the networks of `defect_coverage.py`, one linear, one with two hidden layers under dropout.
- Landscape: the cases of `landscape_coverage.py`.

    python benchmarks/coverage.py [--replicates 1000] [--sections fits 'heavy tails'] [--out coverage.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
from functools import partial

import defect_coverage
import harness
import heavy_tails
import joblib
import landscape_coverage
import numpy as np
import pandas as pd
import torch
from harness import NORMAL_QUANTILE

from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.leading_constants import leading_constants
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.sampler import PairSampler
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.observables import named_observables
from smesolve.sampling.runner import Runner

LR, HORIZON, SCHEME = 0.1, 0.5, "small_noise_rk4"

KEEP_PROBS = (0.8, 0.5)

POINTS, FIT_REPLICATES, TAIL_REPLICATES = 4, 500, 200

SMALL_PATHS, SMALL_BLOCK = 256, 16

SHAPES = {
    "polynomial": lambda x: 1 + 0.5 * x + 0.3 * x**2 + 0.2 * x**3,
    "alternating polynomial": lambda x: 1 - 0.4 * x + 0.3 * x**2 - 0.2 * x**3,
    "exponential": lambda x: np.exp(-0.8 * x),
    "geometric series": lambda x: 1 / (1 - 0.4 * x),
    "even": lambda x: 1 + 0.4 * x**2 + 0.1 * x**4,
}
"""error / (c lr^order) against lr / max lr."""


def coverage(replicates, count):
    """Share of the replicates whose intervals cover: a row for each keep_prob and order."""
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(replicates)(keep_prob, count) for keep_prob in KEEP_PROBS)
    means = pd.concat(found).groupby(["keep_prob", "order"], as_index=False).mean()
    return means.assign(replicates=count)


def errors(keep_prob, count):
    """A row for each replicate and order: whether its two intervals cover."""
    problem, theta0 = harness.linear_problem(keep_prob)
    moments = LinearMoments(problem, theta0)
    observables = named_observables(problem, ["loss"])
    with torch.no_grad():
        hessians = value_hessians(problem, theta0, [HORIZON], observables, LR)
        design = StudyDesign(problem, theta0, [LR], [HORIZON], [1, 2], observables, SCHEME, LR, "second")
        budget = ErrorBudget(design, LR, hessians, Runner())
    rows = []
    iteration = moments.iteration(LR, round(HORIZON / LR))
    dropout = [MeanEstimate.of(budget.sampler.statistics(block)) for block in range(count)]
    for side in budget.sides:
        order = side.order
        error = moments.error(LR, order, HORIZON)
        scheme = moments.scheme(LR, order, HORIZON, SCHEME, LR) - iteration
        paired = next(work for work in side.work.values() if isinstance(work, PairSampler))
        for block, other in enumerate(dropout):
            equation, pairs = (MeanEstimate.of(part) for part in paired.statistics(block))
            measured = (equation.mean - other.mean).item()
            half = NORMAL_QUANTILE * np.hypot(equation.stderr, other.stderr).item()
            bias = side.bias(pairs)
            whole = np.hypot(half, bias.half_width.item())
            covered = abs(measured - bias.value.item() - error) <= whole
            rows.append((keep_prob, order, abs(measured - scheme) <= half, covered))
    return pd.DataFrame(rows, columns=["keep_prob", "order", "monte_carlo", "budget"])


def small_studies(keep_prob, count):
    """A row for each replicate and order: whether the whole interval covers."""
    problem, theta0 = harness.linear_problem(keep_prob)
    moments = LinearMoments(problem, theta0)
    observables = named_observables(problem, ["loss"])
    blocks = problem.in_blocks_for(SMALL_BLOCK)
    rows = []
    with torch.no_grad():
        hessians = value_hessians(problem, theta0, [HORIZON], observables, LR)
        for seed in range(count):
            design = StudyDesign(blocks, theta0, [LR], [HORIZON], [1, 2], observables, SCHEME, LR, "second", seed=seed)
            budget = ErrorBudget(design, LR, hessians, Runner())
            budget.draw(SMALL_PATHS, None, SMALL_PATHS)
            for row in budget.rows(None):
                error = moments.error(LR, row["order"], HORIZON)
                rows.append((keep_prob, row["order"], row["low"] <= error <= row["high"]))
    return pd.DataFrame(rows, columns=["keep_prob", "order", "budget"])


def fits(count):
    """Coverage of fitted slopes and constants, and how often the fit says "another order", for each shape."""
    lrs, order, constant = 0.2 / 2.0 ** np.arange(POINTS), 2, 0.3
    rows = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        exact = constant * lrs**order * shape(lrs / lrs[0])
        for level, relative in enumerate((3e-2, 1e-3, 1e-6)):
            stderr = relative * exact
            studies = []
            for seed in range(count):
                # Rows with noise of their own: with shared noise all would miss in the same replicates.
                generator = np.random.default_rng([seed, number, level])
                measured = exact + stderr * generator.standard_normal(POINTS)
                study = {"order": order, "lr": lrs, "observable": f"{seed}", "error": measured, "stderr": stderr}
                resolved = np.abs(measured) > NORMAL_QUANTILE * stderr
                studies.append(
                    pd.DataFrame(study | {"solver_bias": 0.0, "solver_bias_stderr": 0.0, "resolved": resolved})
                )
            fit = fit_orders(pd.concat(studies))
            more = fit[fit.points > 2]  # two points have a local slope only
            rows.append(
                {
                    "shape": name,
                    "stderr/error": relative,
                    "slope": ((more.slope_low <= order) & (order <= more.slope_high)).mean(),
                    "constant": ((fit.constant_low <= constant) & (constant <= fit.constant_high)).mean(),
                    "another order": (fit.verdict == "another order").mean(),
                    "certified": (fit.verdict == "certified").mean(),
                    "replicates": count,
                }
            )
    return pd.DataFrame(rows)


def constants():
    """Predicted constants with their numerical error beside exact ones."""
    rows = []
    for keep_prob in KEEP_PROBS:
        problem, theta0 = harness.linear_problem(keep_prob)
        moments = LinearMoments(problem, theta0)
        observables = named_observables(problem, ["loss", "squared_norm", "theta[0]"])
        for horizon in (1.0, 8.0):
            for row in leading_constants(problem, theta0, [horizon], observables, LR, [1, 2]).itertuples():
                steps = round(64 * horizon)
                scaled = [
                    moments.error(horizon / n, row.order, horizon, row.observable) / (horizon / n) ** row.order
                    for n in (steps, 2 * steps, 4 * steps)
                ]
                once = 2 * scaled[1] - scaled[0], 2 * scaled[2] - scaled[1]
                twice = (4 * once[1] - once[0]) / 3
                room = NORMAL_QUANTILE * row.stderr + abs(twice - once[1])
                rows.append(
                    {
                        "keep_prob": keep_prob,
                        "horizon": horizon,
                        "order": row.order,
                        "observable": row.observable,
                        "predicted": row.constant,
                        "stderr": row.stderr,
                        "exact": twice,
                        "covered": abs(row.constant - twice) <= room,
                    }
                )
    return pd.DataFrame(rows)


SECTIONS = {
    "errors": partial(coverage, errors),
    "small studies": partial(coverage, small_studies),
    "fits": lambda count: fits(min(count, FIT_REPLICATES)),
    "constants": lambda _: constants(),
    "heavy tails": lambda count: heavy_tails.worst(heavy_tails.all_cases(min(count, TAIL_REPLICATES))),
    "defects": defect_coverage.defects,
    "landscape": landscape_coverage.landscape,
}
"""What takes the number of replicates and returns a table."""


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    arguments = parser.parse_args()
    results = {}
    for name in arguments.sections:
        table = SECTIONS[name](arguments.replicates)
        print(f"{name}\n{harness.shown(table, 4)}\n", flush=True)
        results[name] = table.to_dict("records")
    harness.write(arguments.out, {"replicates": arguments.replicates, "results": results})


if __name__ == "__main__":
    main()
