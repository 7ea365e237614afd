"""A network with kinks beside a smooth one: weak errors over the learning rate, and the predicted constant.

python benchmarks/kinks.py [--horizon 0.5] [--lrs 0.1 0.05 0.025] [--rel_tol 0.1] [--out FILE]

Three layers, 10-16-8-1, relu and tanh, on 64 samples of scikit-learn's diabetes data (x and y standardised), masks per
sample, keep_prob 0.8. Printed: error / lr with its 95% interval for both orders, which at order 2 falls like lr where
the network is smooth and ends at a constant where it has kinks; and the predicted constant of order 1.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)
from harness import NORMAL_QUANTILE, parser, shown, threads, timed, write
from sklearn.datasets import load_diabetes
from torch import nn

import smesolve as sme
from smesolve.comparison.leading_constants import first_constants
from smesolve.problem.observables import named_observables


def diabetes_problem(activation: type[nn.Module]) -> sme.DropoutProblem:
    """Its layers are initialised anew by `initial`."""
    data = load_diabetes()
    x, y = data.data[:64], data.target[:64, None]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    features = nn.Sequential(nn.Linear(10, 16), activation(), nn.Linear(16, 8), activation())
    network = sme.FeatureNetwork(features, nn.Linear(8, 1)).double()
    return sme.DropoutProblem(network, x, y, keep_prob=0.8, masks="per_sample")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--horizon", type=float, default=0.5)
    arguments.add_argument("--lrs", type=float, nargs="+", default=[0.1, 0.05, 0.025])
    arguments.add_argument("--rel_tol", type=float, default=0.1)
    given = arguments.parse_args()
    print(threads())
    result = {}
    for activation in (nn.ReLU, nn.Tanh):
        problem = diabetes_problem(activation)
        theta0 = problem.initial(seed=0)
        seconds, study = timed(
            sme.weak_error,
            problem,
            theta0,
            given.lrs,
            given.horizon,
            times=[given.horizon],
            rel_tol=given.rel_tol,
            control="first",
        )
        per_lr = study.table[["order", "lr"]].copy()
        for name in ("error", "low", "high"):
            per_lr[f"{name} / lr"] = study.table[name] / study.table.lr
        functions = named_observables(problem, ["loss"])
        constant, stderr = first_constants(problem, theta0, given.horizon, functions, min(given.lrs))["loss"]
        print(f"\n{activation.__name__}, D = {problem.dim}, T = {given.horizon:g}: {seconds:.0f} s")
        print(shown(per_lr, 4))
        print(f"predicted for order 1: {constant:.5f} +- {NORMAL_QUANTILE * stderr:.5f}")
        result[activation.__name__] = {
            "table": study.table.to_dict("records"),
            "predicted": constant,
            "stderr": stderr,
            "seconds": seconds,
        }
    write(given.out, result)


if __name__ == "__main__":
    main()
