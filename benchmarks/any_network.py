"""Any network: convergence of the sampled schemes in l and in draws, and a step with D = 100,000.

    python benchmarks/any_network.py [--paths N] [--out any_network.json]

1. D = 100,000: time of a step and peak memory, that of one D x D array beside it.
2. Bias of the sampled schemes against dt = lr/l on a deep network with dropout after each hidden layer: means at the
   horizon minus those at the finest l, with 95% intervals. svag at l = 1 is the iteration itself; sampled_euler has
   R = 2 draws for its drift, eight_draws has 8; uncorrected forgets the covariance of the sampled drift.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness
import torch
from harness import NORMAL_QUANTILE
from torch import nn

import smesolve as sme
from smesolve.solver.schemes.gradient_scheme import GradientScheme

LR, HORIZON = 0.2, 1.0


class EightDraws(GradientScheme):
    """sampled_euler with R = 8."""

    drift_evaluations = 10

    @staticmethod
    def weights(ratio: float) -> tuple[list[float], list[float]]:
        c = ((ratio - 1 / 8) / 2) ** 0.5
        return [*[1 / 8] * 8, 0.0, 0.0], [*[0.0] * 8, c, -c]


class Uncorrected(GradientScheme):
    """sampled_euler, R = 2, that forgets the covariance of its sampled drift."""

    drift_evaluations = 4

    @staticmethod
    def weights(ratio: float) -> tuple[list[float], list[float]]:
        c = (ratio / 2) ** 0.5
        return [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, c, -c]


def deep_problem(samples: int = 8) -> sme.ModuleProblem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1])
    layers = [nn.Linear(2, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 1)]
    return sme.ModuleProblem(nn.Sequential(*layers).double(), x, y, masks="shared")


def convergence(paths: int) -> list[dict[str, object]]:
    """E |theta|^2 at the horizon; |theta|^2 sees the noise at leading order."""
    problem = deep_problem()
    theta0 = problem.initial(seed=1)
    equation = sme.ModifiedEquation(problem, LR, 1)
    rows = []
    for scheme in ("svag", "sampled_euler", "eight_draws", "uncorrected"):
        for number in (1, 2, 4, 8, 16):
            if scheme == "svag" and number == 1:
                ends = sme.iterate(problem, theta0, LR, round(HORIZON / LR), paths, save=[round(HORIZON / LR)])[0]
            else:
                ends = sme.solve(equation, theta0, [0, HORIZON], scheme, dt=LR / number, paths=paths)[-1]
            for name, values in (("loss", problem.loss(ends)), ("squared_norm", ends.square().sum(-1))):
                half = NORMAL_QUANTILE * float(values.std()) / paths**0.5
                rows.append(
                    {"scheme": scheme, "l": number, "observable": name, "mean": float(values.mean()), "half": half}
                )
    return rows


def large() -> dict[str, object]:
    """A step of every kind at D = 100,000."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 100, generator=generator, dtype=torch.float64)
    y = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    hidden = [nn.Linear(100, 250), nn.ReLU(), nn.Linear(250, 250), nn.ReLU(), nn.Linear(250, 48), nn.ReLU()]
    network = sme.FeatureNetwork(nn.Sequential(*hidden), nn.Linear(48, 1)).double()
    problems = {
        "FeatureNetwork, shared masks": sme.DropoutProblem(network, x, y, keep_prob=0.8),
        "FeatureNetwork, masks per sample": sme.DropoutProblem(network, x, y, keep_prob=0.8, masks="per_sample"),
        "ModuleProblem": sme.ModuleProblem(nn.Sequential(*hidden, nn.Dropout(0.2), nn.Linear(48, 1)).double(), x, y),
    }
    result: dict[str, object] = {}
    for name, problem in problems.items():
        theta0 = problem.initial()
        equation = sme.ModifiedEquation(problem, 0.01, 1)
        sme.iterate(problem, theta0, 0.01, 1, 8)  # warm-up
        scheme = "small_noise_rk4" if problem.has_closed_form else "svag"
        iterated, _ = harness.timed(sme.iterate, problem, theta0, 0.01, 5, 8, save=[5])
        solved, _ = harness.timed(sme.solve, equation, theta0, [0, 0.05], scheme, dt=0.005, paths=8)
        result[name] = {
            "D": problem.dim,
            "M": problem.noise_dim,
            "iteration, ms a path step": 1e3 * iterated / 40,
            f"{scheme}, ms a path step": 1e3 * solved / 80,
            "peak MiB": harness.peak(),
            "D x D would be MiB": problem.dim**2 * 8 / 2**20,
        }
    return result


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--paths", type=int, default=16384)
    arguments = parser.parse_args()
    paths = arguments.paths
    sme.SCHEMES.update(eight_draws=EightDraws, uncorrected=Uncorrected)
    print(f"{harness.threads()}; lr {LR}, horizon {HORIZON}, {paths} paths")
    at_scale = large()
    for name, numbers in at_scale.items():
        print(name, *(f"{key} {value:.4g}" for key, value in numbers.items()), sep="; ")
    rows = convergence(paths)
    finest = {row["observable"]: row for row in rows if row["scheme"] == "eight_draws" and row["l"] == 16}
    print(f"\n{'scheme':15}{'l':>3}  {'observable':14}{'mean - finest':>15} +- interval")
    for row in rows:
        gap = row["mean"] - finest[row["observable"]]["mean"]
        half = (row["half"] ** 2 + finest[row["observable"]]["half"] ** 2) ** 0.5
        verdict = "" if abs(gap) > half else "  unresolved"
        print(f"{row['scheme']:15}{row['l']:3}  {row['observable']:14}{gap:15.2e} +- {half:.1e}{verdict}")
    harness.write(arguments.out, {"large": at_scale, "convergence": rows})


if __name__ == "__main__":
    main()
