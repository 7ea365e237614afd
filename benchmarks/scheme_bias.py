"""Bias of every scheme against dt/lr, beside the weak error of the order-2 equation that it must not hide.

Linear regression: exact, by `LinearMoments`. Tanh 2-4-1 network: measured, with the 95% half-width of the measurement.

    python benchmarks/scheme_bias.py [--lr 0.05] [--out scheme_bias.json]
"""

import argparse
import json

import numpy as np
import pandas as pd
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments

RATIOS = (2.0, 1.0, 0.5, 0.25)
HORIZON = 2.0
"""Of the tanh network; the linear error at 2.0 happens to be near a change of sign, so it is taken at 1.0."""


def linear(lr):
    rng = np.random.default_rng(2)
    problem = sme.DropoutProblem(
        sme.LinearNetwork(2), rng.standard_normal((6, 2)), rng.standard_normal((6, 1)), keep_prob=0.7
    )
    moments = LinearMoments(problem, torch.tensor([1.0, -0.5], dtype=torch.float64))
    error = moments.error(lr, 2, 1.0)
    for scheme in ("euler", "small_noise_heun", "small_noise_rk4"):  # the others have no exact moments
        for ratio in RATIOS:
            bias = moments.scheme(lr, 2, 1.0, scheme, ratio * lr) - moments.equation(lr, 2, 1.0)
            yield {"problem": "linear", "scheme": scheme, "dt/lr": ratio, "bias": bias, "+-": 0.0, "error": error}


def tanh(lr):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 2))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 4), x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    for scheme in sme.SCHEMES:
        for ratio in RATIOS:
            study = sme.weak_error(
                problem, problem.initial(), [lr], HORIZON, orders=[2], scheme=scheme, dt=ratio * lr, times=[HORIZON],
                paths=8192,
            )  # fmt: skip
            row = study.table.iloc[0]
            yield {
                "problem": "tanh 2-4-1", "scheme": scheme, "dt/lr": ratio, "bias": row.solver_bias,
                "+-": 1.96 * row.solver_bias_stderr, "error": row.error - row.solver_bias,
            }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    table = pd.DataFrame([*linear(arguments.lr), *tanh(arguments.lr)])
    table["bias/error"] = table["bias"].abs() / table["error"].abs()
    print(f"lr {arguments.lr:g}, order 2, observable loss; error: of the equation, bias taken off")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(table.to_dict("records"), file, indent=1)


if __name__ == "__main__":
    main()
