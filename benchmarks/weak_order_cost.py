"""Time to resolve the order-2 error to 10%: this package beside plain Monte Carlo with torchsde.

Plain Monte Carlo runs independent paths of the iteration and of the order-2 equation by torchsde's `euler`, the only
scheme that it has for Ito SDEs with general noise. Its work is predicted from what is measured in the same run: the
standard deviations of the observable on both sides, the cost of a path, and the bias of `euler` at dt. The standard
deviations are checked by running it. Two plain ways are printed: dt = lr/4 with its bias left aside, which is generous,
and the dt at which the bias is a tenth of the error.

    python benchmarks/weak_order_cost.py [--lrs 0.1 0.05 0.025 0.0125] [--out weak_order_cost.json]
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness
import pandas as pd
import torch
import torchsde
from harness import NORMAL_QUANTILE

import smesolve as sme

HORIZON, REL_TOL, CHECK_PATHS = 2.0, 0.1, 2**14


@torch.no_grad()
def plain(problem: sme.DropoutProblem, theta0: torch.Tensor, lr: float, dt: float, paths: int) -> dict[str, float]:
    """Standard deviations and seconds a path of both sides."""
    steps = round(HORIZON / lr)
    iterated, states = harness.timed(sme.iterate, problem, theta0, lr, steps, paths, save=[steps])
    discrete = problem.loss(states[-1])
    equation = sme.ModifiedEquation(problem, lr, 2)
    brownian = sme.KeyedBrownian(paths, problem.noise_dim, dt)
    ts, starts = torch.tensor([0.0, HORIZON], dtype=torch.float64), theta0.expand(paths, -1)
    solved, states = harness.timed(torchsde.sdeint, equation, starts, ts, bm=brownian, method="euler", dt=dt)
    ends = states[-1]
    return {
        "error": float(discrete.mean() - problem.loss(ends).mean()),
        "deviation": float((discrete.var() + problem.loss(ends).var()) ** 0.5),
        "seconds_discrete": iterated / paths,
        "seconds_step": solved / paths / round(HORIZON / dt),
    }


def row(problem: sme.DropoutProblem, theta0: torch.Tensor, lr: float) -> dict[str, float]:
    options = {"orders": [2], "times": [HORIZON]}
    seconds, study = harness.timed(sme.weak_error, problem, theta0, [lr], HORIZON, rel_tol=REL_TOL, **options)
    ours = study.table.iloc[0]
    biased = sme.weak_error(
        problem, theta0, [lr], HORIZON, scheme="euler", dt=lr / 4, paths=4096, **options
    ).table.iloc[0]
    true = ours.error
    peer = plain(problem, theta0, lr, lr / 4, CHECK_PATHS)
    paths = (NORMAL_QUANTILE * peer["deviation"] / (REL_TOL * true)) ** 2
    small = lr / 4 * min(1.0, REL_TOL * abs(true) / abs(biased.solver_bias))  # the bias of Euler is proportional to dt

    def work(dt: float) -> float:
        return paths * (peer["seconds_discrete"] + peer["seconds_step"] * HORIZON / dt)

    return {
        "lr": lr,
        "error": true,
        "half-width": NORMAL_QUANTILE * ours.stderr,
        "resolved": bool(ours.resolved),
        "seconds": seconds,
        "euler bias at lr/4": biased.solver_bias,
        "plain paths": paths,
        "plain seconds, dt = lr/4": work(lr / 4),
        "times ours": work(lr / 4) / seconds,
        "dt for the bias": small,
        "plain seconds, that dt": work(small),
        "times ours ": work(small) / seconds,
        f"plain error at {CHECK_PATHS} paths": peer["error"],
        "+-": NORMAL_QUANTILE * peer["deviation"] / CHECK_PATHS**0.5,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--lrs", nargs="+", type=float, default=[0.1, 0.05, 0.025, 0.0125])
    arguments = parser.parse_args()
    problem = harness.small_problem()
    theta0 = problem.initial(seed=1)
    print(f"{harness.SMALL}, T = {HORIZON:g}, loss, order 2, error to {REL_TOL:.0%}; {harness.threads()}")
    table = pd.DataFrame([row(problem, theta0, lr) for lr in arguments.lrs])
    print(harness.shown(table.T, header=False, index=True))
    harness.write(arguments.out, table.to_dict("records"))


if __name__ == "__main__":
    main()
