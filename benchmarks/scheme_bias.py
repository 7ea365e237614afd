"""Bias of every scheme against dt/lr, beside the weak error of the order-2 equation that it must not hide.

Linear regression: exact, by `LinearMoments`. Tanh 2-4-1 network: measured, with the 95% half-width of the measurement.

    python benchmarks/scheme_bias.py [--lr 0.05] [--out scheme_bias.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import pandas as pd

import smesolve as sme
from smesolve.comparison.exact import LinearMoments

RATIOS = (2.0, 1.0, 0.5, 0.25)
HORIZON = 2.0
"""Of the tanh network; the linear error at 2.0 happens to be near a change of sign, so it is taken at 1.0."""


def linear(lr):
    moments = LinearMoments(*harness.linear_problem(0.7))
    error = moments.error(lr, 2, 1.0)
    for scheme in ("euler", "small_noise_heun", "small_noise_rk4"):  # the others have no exact moments
        for ratio in RATIOS:
            bias = moments.scheme(lr, 2, 1.0, scheme, ratio * lr) - moments.equation(lr, 2, 1.0)
            yield {"problem": "linear", "scheme": scheme, "dt/lr": ratio, "bias": bias, "+-": 0.0, "error": error}


def tanh(lr):
    problem = harness.small_problem()
    for scheme in sme.SCHEMES:
        for ratio in RATIOS:
            study = sme.weak_error(
                problem, problem.initial(), [lr], HORIZON, orders=[2], scheme=scheme, dt=ratio * lr, times=[HORIZON],
                paths=8192,
            )  # fmt: skip
            row = study.table.iloc[0]
            yield {
                "problem": "tanh 2-4-1", "scheme": scheme, "dt/lr": ratio, "bias": row.solver_bias,
                "+-": row.solver_bias_half_width, "error": row.error,
            }  # fmt: skip


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--lr", type=float, default=0.05)
    arguments = parser.parse_args()
    table = pd.DataFrame([*linear(arguments.lr), *tanh(arguments.lr)])
    table["bias/error"] = table["bias"].abs() / table["error"].abs()
    print(f"lr {arguments.lr:g}, order 2, observable loss; error: of the equation, bias taken off")
    print(harness.shown(table))
    harness.write(arguments.out, table.to_dict("records"))


if __name__ == "__main__":
    main()
