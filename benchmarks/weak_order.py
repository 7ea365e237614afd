"""The certificate on a tanh 2-4-1 network: slopes, constants, wall time, and what the control variates gain.

`stderr_reduction` is plain standard error over the one reached, at equal paths: its square is the factor in paths. The
last column is the work of plain Monte Carlo for the same error bar, in paths a side.

    python benchmarks/weak_order.py [--rel_tol 0.05] [--out weak_order.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness

import smesolve as sme

LRS, HORIZON = [0.2, 0.1, 0.05, 0.025, 0.0125], 2.0


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--rel_tol", type=float, default=0.05)
    arguments = parser.parse_args()
    problem = harness.small_problem()
    theta0 = problem.initial(seed=1)
    measured, study = harness.timed(sme.weak_error, problem, theta0, LRS, HORIZON, rel_tol=arguments.rel_tol)
    fitted, fit = harness.timed(study.fit)
    total = measured + fitted
    print(f"{harness.SMALL}, T = {HORIZON:g}, loss, rel_tol {arguments.rel_tol:g}; {harness.threads()}")
    print(f"measured in {measured:.1f} s; with the fit and the predicted constants {total:.1f} s\n")
    table = study.table[study.table.time == HORIZON]
    table = table.assign(plain_paths=(table.stderr_reduction**2 * table[["discrete_paths", "sde_paths"]].mean(axis=1)))
    columns = [
        "order",
        "lr",
        "error",
        "stderr",
        "solver_bias",
        "discrete_paths",
        "sde_paths",
        "kurtosis",
        "stderr_reduction",
    ]
    print(harness.shown(table[[*columns, "resolved", "plain_paths"]]))
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
    print("\n" + harness.shown(fit[columns], 6))
    result = {"seconds": total, "fit": fit.to_dict("records"), "table": table.to_dict("records")}
    harness.write(arguments.out, result)


if __name__ == "__main__":
    main()
