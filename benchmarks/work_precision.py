"""Work-precision: time to reach a given total error of E g, for every scheme and peer, both orders.

Total error is the root of bias^2 + variance/paths. The bias of each scheme at each dt is measured with its interval (by
`weak_error`, paths at dt and dt/2 under one noise), the cost of a path step in the same run, and the best dt is taken
for each error; torchsde, diffrax and jax integrate by Euler and so have its bias. "sampling alone" is the fastest step
at the largest dt without a bias: nothing that averages independent paths is below it. Control variates shrink the
variance, and their line (small_noise_rk4, dt = lr) counts the time of the iteration's side and of the pairs, too.
The prediction is checked: RMS error over 16 seeds at one error, with its 95% interval.

    python benchmarks/work_precision.py [--out work_precision.json] [--figure work_precision.png]
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import warnings

import harness
import numpy as np
import step_cost
import torch
from harness import NORMAL_QUANTILE
from scipy.stats import chi2

import smesolve as sme

LR, HORIZON, RATIOS = step_cost.LR * 5, 2.0, (2.0, 1.0, 0.5, 0.25, 0.125)
SCHEMES = ("euler", "small_noise_heun", "small_noise_rk4")
ERRORS = 10.0 ** -np.arange(3.0, 6.51, 0.25)
PAIRS, SEEDS, CHECKED = 4096, 16, 10**-3.75
LEAST_PATHS = 64
"""An interval needs some."""


def biases(problem: sme.DropoutProblem, theta0: torch.Tensor, order: int) -> dict[tuple[str, float], dict[str, float]]:
    """Bias with its standard error, plain deviation and mean of the equation, for every scheme and dt/lr."""
    found = {}
    for scheme in SCHEMES:
        for ratio in RATIOS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", sme.NothingTestedWarning)  # the bias is wanted, not the weak error
                row = sme.weak_error(
                    problem,
                    theta0,
                    [LR],
                    HORIZON,
                    orders=[order],
                    times=[HORIZON],
                    scheme=scheme,
                    dt=ratio * LR,
                    paths=PAIRS,
                ).table.iloc[0]
            found[scheme, ratio] = {
                "bias": row.solver_bias,
                "stderr": row.solver_bias_stderr,
                "reference": row.sde,
                "controlled": row.stderr * PAIRS**0.5,
            }
    return found


def costs(problem: sme.DropoutProblem, theta0: torch.Tensor, order: int, seconds: float) -> dict[str, float]:
    """Seconds a path step."""
    B = problem.block_size
    equation = sme.ModifiedEquation(problem, LR, order)
    runs = {scheme: step_cost.steps(equation, problem, theta0, B, scheme) for scheme in SCHEMES}
    peers = step_cost.torch_peers(problem, theta0, B, order)
    if order == 1:  # written for the equation of order 1
        peers |= step_cost.jax_peers(problem, theta0, B)
    for name in ("torchsde", "jax", "diffrax"):
        if name in peers:
            runs[name] = peers[name], B * step_cost.STEPS
    return {name: value / 1e6 for name, (value, _) in step_cost.clocks(runs, seconds).items()}


def controlled_seconds(problem: sme.DropoutProblem, theta0: torch.Tensor, order: int) -> float:
    """Seconds for one more path with control variates, with one of the iteration and its share of pairs."""
    times = []
    for paths in (PAIRS, 4 * PAIRS):
        options = {"times": [HORIZON], "dt": LR, "paths": paths}
        times.append(harness.timed(sme.weak_error, problem, theta0, [LR], HORIZON, orders=[order], **options)[0])
    return (times[1] - times[0]) / (3 * PAIRS)


def curve(error: float, deviation: float, points: list[tuple[float, float]]) -> float:
    """Least time over points (bias, seconds a path) for a total error; NaN where every bias is larger."""
    times = [
        max(LEAST_PATHS, deviation**2 / (error**2 - bias**2)) * seconds for bias, seconds in points if abs(bias) < error
    ]
    return min(times, default=float("nan"))


@torch.no_grad()
def check(problem: sme.DropoutProblem, theta0: torch.Tensor, order: int, dt: float, paths: int, truth: float) -> str:
    """RMS error of plain means by small_noise_rk4 over seeds."""
    equation = sme.ModifiedEquation(problem, LR, order)
    means = [
        float(problem.loss(sme.solve(equation, theta0, [0.0, HORIZON], dt=dt, paths=paths, seed=seed)[-1]).mean())
        for seed in range(SEEDS)
    ]
    squares = float(np.sum((np.array(means) - truth) ** 2))
    low, high = (squares / chi2.ppf([0.975, 0.025], SEEDS)) ** 0.5
    return f"{(squares / SEEDS) ** 0.5:.3g} [{low:.3g}, {high:.3g}]"


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for the costs of one order")
    parser.add_argument("--figure", help="PNG file")
    arguments = parser.parse_args()
    problem, theta0, _ = step_cost.make("S")
    print(f"size S, lr {LR:g}, T = {HORIZON:g}, loss; {harness.threads()}")
    results = {}
    for order in (1, 2):
        bias, cost = biases(problem, theta0, order), costs(problem, theta0, order, arguments.seconds)
        truth = bias["small_noise_rk4", RATIOS[-1]]["reference"]
        equation = sme.ModifiedEquation(problem, LR, order)
        with torch.no_grad():
            sample = problem.loss(sme.solve(equation, theta0, [0.0, HORIZON], dt=LR, paths=2**14)[-1])
        deviation = float(sample.std())

        def points(
            scheme: str, seconds: float, bias: dict[tuple[str, float], dict[str, float]] = bias
        ) -> list[tuple[float, float]]:
            """An unresolved bias counts with the half-width of its interval."""
            found = []
            for ratio in RATIOS:
                one = bias[scheme, ratio]
                found.append((max(abs(one["bias"]), NORMAL_QUANTILE * one["stderr"]), seconds * HORIZON / (ratio * LR)))
            return found

        lines = {
            f"{name}{'' if name in SCHEMES else ' (euler)'}": [
                curve(error, deviation, points(name if name in SCHEMES else "euler", seconds)) for error in ERRORS
            ]
            for name, seconds in cost.items()
        }
        fastest = min(cost[scheme] for scheme in SCHEMES) * HORIZON / (RATIOS[0] * LR)
        lines["sampling alone"] = [curve(error, deviation, [(0.0, fastest)]) for error in ERRORS]
        one = bias["small_noise_rk4", 1.0]
        point = [(max(abs(one["bias"]), NORMAL_QUANTILE * one["stderr"]), controlled_seconds(problem, theta0, order))]
        lines["rk4, control variates"] = [curve(error, one["controlled"], point) for error in ERRORS]
        print(f"\norder {order}: deviation of the loss {deviation:.3g}, with control variates {one['controlled']:.3g}")
        print("  bias (95%):")
        for (scheme, ratio), value in bias.items():
            print(
                f"    {scheme:18} dt = {ratio:5g} lr  {value['bias']:10.2e} +- {NORMAL_QUANTILE * value['stderr']:.1e}"
            )
        print("  microseconds a path step: " + ", ".join(f"{name} {1e6 * value:.3g}" for name, value in cost.items()))
        print("  seconds to a total error of")
        print("    " + " " * 24 + "".join(f"{error:>10.1e}" for error in ERRORS[::2]))
        for name, line in lines.items():
            print(f"    {name:24}" + "".join(f"{value:>10.3g}" for value in line[::2]))
        paths = round((deviation / CHECKED) ** 2)
        seen = check(problem, theta0, order, LR, paths, truth)
        print(
            f"  check: {paths} paths of small_noise_rk4 at dt = lr promise {CHECKED:.3g}; RMS over {SEEDS} seeds {seen}"
        )
        results[order] = {"errors": ERRORS.tolist(), "seconds": lines, "cost": cost, "deviation": deviation}
    harness.write(arguments.out, results)
    if arguments.figure:
        draw(results, arguments.figure)


def draw(results: dict[int, dict], path: str) -> None:
    """Time against error, a panel for each order."""
    from matplotlib.figure import Figure

    from smesolve.figures import drawing

    looks = {"euler": "o", "small_noise_heun": "s", "small_noise_rk4": "^", "torchsde (euler)": "v", "jax (euler)": "x",
             "diffrax (euler)": "+", "rk4, control variates": "D", "sampling alone": ""}  # fmt: skip
    with drawing():
        figure = Figure(figsize=(6.8, 3.0), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (order, result) in zip(axes, results.items(), strict=True):
            for name, line in result["seconds"].items():
                style = ":" if name == "sampling alone" else "-"
                colour = f"C{list(looks).index(name)}"  # the same in both panels
                axis.plot(result["errors"], line, style, color=colour, marker=looks[name], markersize=4, label=name)
            axis.set(xscale="log", yscale="log", title=f"order {order}", xlabel="total error of E loss")
        axes[0].set_ylabel("seconds")
        axes[0].legend()
        figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
