"""The certificate on a tanh 2-4-1 network: slopes, constants, wall time, and what the control variates gain.

`gain` is plain standard error over the one reached, at equal paths: its square is the factor in paths. The last column
is the work of plain Monte Carlo for the same error bar, in paths a side.

    python benchmarks/certificate.py [--rel_tol 0.05] [--out certificate.json]
"""

import argparse
import json
import time

import numpy as np
import torch

import smesolve as sme

LRS, HORIZON = [0.2, 0.1, 0.05, 0.025, 0.0125], 2.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rel_tol", type=float, default=0.05)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 2))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 4), x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    start = time.perf_counter()
    study = sme.weak_error(problem, problem.initial(seed=1), LRS, HORIZON, rel_tol=arguments.rel_tol)
    measured = time.perf_counter() - start
    fit = study.fit()
    total = time.perf_counter() - start
    print(
        f"tanh 2-4-1, 8 samples, keep_prob 0.8, T = {HORIZON:g}, loss, rel_tol {arguments.rel_tol:g}, torch threads 1"
    )
    print(f"measured in {measured:.1f} s; with the fit and the predicted constants {total:.1f} s\n")
    table = study.table[study.table.time == HORIZON]
    table = table.assign(plain_paths=(table.gain**2 * table[["discrete_paths", "sde_paths"]].mean(axis=1)))
    columns = ["order", "lr", "error", "stderr", "solver_bias", "discrete_paths", "sde_paths", "kurtosis", "gain"]
    print(table[[*columns, "resolved", "plain_paths"]].to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    fit["half_width"] = (fit.slope_high - fit.slope_low) / 2
    columns = [
        "order",
        "slope",
        "half_width",
        "constant",
        "constant_low",
        "constant_high",
        "predicted_constant",
        "p_value",
    ]
    print("\n" + fit[columns].to_string(index=False, float_format=lambda v: f"{v:.6g}"))
    if arguments.out:
        with open(arguments.out, "w") as file:
            result = {"seconds": total, "fit": fit.to_dict("records"), "table": table.to_dict("records")}
            json.dump(result, file, indent=1, default=str)


if __name__ == "__main__":
    main()
