"""Are errors covered, or said to have heavy tails? Scalar dropout and linear regression, where every error is exact.

The scalar model multiplies theta by 1 or 1 - lr/keep_prob^2 in each step, and its equations are geometric Brownian
motions: moments of any order are closed forms. At small keep_prob, and for high powers of theta, they rest on paths
that no sample holds. A replicate is a study as `weak_error` makes it, with its own random numbers; it counts as wrong
where the row is believed and its interval does not hold the exact error. That must be at most 7% of them.

    python benchmarks/heavy_tails.py [--replicates 200] [--out heavy_tails.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import harness
import joblib
import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

import smesolve as sme
from smesolve.comparison.budget_row import budget_row
from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.sampler import PairSampler
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.observables import Observable, named_observables
from smesolve.sampling.runner import Runner

KEEP_PROBS, MULTIPLES, POWERS = (0.8, 0.5, 0.3), (0.1, 0.3, 1.0, 1.67), (1, 2, 3, 4)
"""Keep probabilities, learning rates in units of keep_prob^2, and powers of theta."""

STEPS, PATHS, BLOCK = 8, (64, 256, 1024, 8192), 8192


class LargeBlocks(sme.DropoutProblem):
    """In blocks of 8,192 paths: steps of one or two parameters cost little more than their calls."""

    block_size = BLOCK


def power(exponent: int) -> Observable:
    """theta[0]^exponent."""

    def observable(theta: Tensor) -> Tensor:
        return theta[..., 0] ** exponent

    observable.__name__ = f"theta^{exponent}"
    return observable


def scalar_problem(keep_prob: float) -> tuple[sme.DropoutProblem, Tensor]:
    """L = (eta theta)^2 / 2, from theta = 1."""
    problem = LargeBlocks(sme.LinearNetwork(1), np.ones((1, 1)), np.zeros((1, 1)), keep_prob=keep_prob)
    return problem, torch.ones(1, dtype=torch.float64)


def scalar_error(keep_prob: float, lr: float, steps: int, exponent: int, order: int) -> float:
    """The exact E Theta^exponent - E theta^exponent."""
    k = keep_prob
    rate = 1 / k * (1 + (order - 1) * lr / (2 * k))
    spread = lr * (1 / k - 1) / k**2
    equation = np.exp((-exponent * rate + exponent * (exponent - 1) / 2 * spread) * lr * steps)
    return float(equation - (1 - k + k * (1 - lr / k**2) ** exponent) ** steps)


def slices(block: np.ndarray, paths: int, antithetic: bool, order: int) -> Iterator[MeanEstimate]:
    """Estimates of groups of `paths` paths of a block (2 + c, B, T, O)."""
    # Path b + B/2 is the partner of path b.
    rows = np.arange(BLOCK).reshape(2, -1) if antithetic else np.arange(BLOCK)
    for part in np.split(rows, BLOCK // paths, axis=-1):
        yield MeanEstimate.of(PathStatistics.of(block[:, part.flatten()], antithetic, order))


@torch.no_grad()
def replicates(
    problem: sme.DropoutProblem,
    theta0: Tensor,
    lr: float,
    steps: int,
    observables: Sequence[str | Observable],
    exact: Mapping[tuple[int, str], float],
    paths: Sequence[int] = PATHS,
    count: int = 200,
    control: str = "second",
) -> pd.DataFrame:
    """Rows of independent studies, with `covered` (the interval holds the exact error), `heavy`, and `wrong` (neither).

    Args:
        problem, theta0, lr, observables, control: as `weak_error` takes them.
        steps: of the iteration.
        exact: the exact error by order and name of the observable.
        paths: of a study; each divides the size of a block.
        count: replicates of each.
    """
    functions, horizon = named_observables(problem, observables), lr * steps
    hessians = value_hessians(problem, theta0, [horizon], functions, lr) if control == "second" else None
    design = StudyDesign(problem, theta0, [lr], [horizon], [1, 2], functions, "small_noise_rk4", lr, control)
    budget = ErrorBudget(design, lr, hessians, Runner())
    rows = []
    for block in range(-(-count * max(paths) // BLOCK)):
        iteration = budget.sampler.values(block)
        for side in budget.sides:
            (pair,) = (work for work in side.work.values() if isinstance(work, PairSampler))
            coarse, fine = pair.first.values(block), pair.second.values(block)
            gap = np.concatenate([coarse - fine, fine[2:]])
            for number in paths:
                estimates = zip(
                    slices(iteration, number, False, 4),
                    slices(coarse, number, True, 4),
                    slices(gap, number, True, 2),
                    strict=True,
                )
                missing = max(0, count - block * (BLOCK // number))
                for dropout, equation, pairs in islice(estimates, missing):
                    for column, name in enumerate(functions):
                        row = budget_row(
                            (0, column), dropout, equation, pairs, side.bias(pairs), budget.noise_free,
                            float(side.solution.error[0, column]), True, (False, False), None,
                        )  # fmt: skip
                        error = exact[side.order, name]
                        covered, heavy = row["low"] <= error <= row["high"], row["reason"].heavy_tailed
                        rows.append({
                            "order": side.order, "observable": name, "paths": number, "covered": covered,
                            "heavy": heavy, "wrong": not (covered or heavy), "resolved": row["resolved"],
                        })  # fmt: skip
    return pd.DataFrame(rows)


def scalar_replicates(keep_prob: float, multiple: float, **options: object) -> pd.DataFrame:
    """Replicates of scalar dropout at lr = multiple keep_prob^2."""
    problem, theta0 = scalar_problem(keep_prob)
    lr = multiple * keep_prob**2
    exact = {
        (order, f"theta^{exponent}"): scalar_error(keep_prob, lr, STEPS, exponent, order)
        for order in (1, 2)
        for exponent in POWERS
    }
    table = replicates(problem, theta0, lr, STEPS, [power(exponent) for exponent in POWERS], exact, **options)
    return table.assign(problem="scalar", keep_prob=keep_prob, multiple=multiple)


def linear_replicates(keep_prob: float, lr: float = 0.1, **options: object) -> pd.DataFrame:
    """Replicates of linear regression, whose tails are light."""
    small, theta0 = harness.linear_problem(keep_prob)
    problem = LargeBlocks(small.network, small.x, small.y, keep_prob=keep_prob)
    moments = LinearMoments(problem, theta0)
    exact = {(order, "loss"): moments.error(lr, order, STEPS * lr) for order in (1, 2)}
    table = replicates(problem, theta0, lr, STEPS, ["loss"], exact, **options)
    return table.assign(problem="linear regression", keep_prob=keep_prob, multiple=lr / keep_prob**2)


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of the replicates of each case, that of wrong ones with its 95% interval (Clopper and Pearson)."""
    case = ["problem", "keep_prob", "multiple", "observable", "order", "paths"]
    groups = table.groupby(case, sort=False)
    counted = groups[["covered", "heavy", "wrong", "resolved"]].mean().assign(replicates=groups.size())
    intervals = [
        binomtest(int(k), int(n)).proportion_ci() for k, n in zip(groups.wrong.sum(), groups.size(), strict=True)
    ]
    lows, highs = zip(*intervals, strict=True)
    return counted.assign(wrong_low=lows, wrong_high=highs).reset_index()


def worst(cases: pd.DataFrame) -> pd.DataFrame:
    """Of all keep_probs, learning rates and orders: the case with most wrong replicates, and how many are heavy."""
    groups = cases.groupby(["problem", "observable", "paths"])
    table = cases.loc[groups.wrong.idxmax()].set_index(["problem", "observable", "paths"])
    table = table.assign(cases=groups.size(), heavy_from=groups.heavy.min(), heavy_to=groups.heavy.max())
    columns = ["cases", "keep_prob", "multiple", "order", "wrong", "wrong_low", "wrong_high", "heavy_from", "heavy_to"]
    return table[columns].reset_index()


def all_cases(count: int) -> pd.DataFrame:
    """Shares of all cases (`shares`), `count` replicates of each."""
    jobs = [joblib.delayed(linear_replicates)(keep_prob, count=count) for keep_prob in (0.8, 0.5)]
    jobs += [
        joblib.delayed(scalar_replicates)(keep_prob, multiple, count=count)
        for keep_prob in KEEP_PROBS
        for multiple in MULTIPLES
    ]
    return shares(pd.concat(joblib.Parallel(n_jobs=2)(jobs)))


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--replicates", type=int, default=200)
    arguments = parser.parse_args()
    result = all_cases(arguments.replicates)
    print(harness.shown(worst(result)))
    print(f"\n{(result.wrong > 0.07).sum()} of {len(result)} cases have more than 7% wrong replicates")
    harness.write(arguments.out, result.to_dict("records"))


if __name__ == "__main__":
    main()
