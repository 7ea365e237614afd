"""Growth of the weak error with the horizon; stationary variances of orders 1, 2 and the quadratic equation."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.comparison.scaling.long_horizon import long_horizon
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_horizon import horizon_figure


def main(
    times: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0),
    multiples: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4),
    paths: int = 2048,
) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    result = long_horizon(
        problem, problem.initial(seed=1), lr=0.2, times=times, lrs=multiples, effort=SamplingEffort(paths)
    )
    print(result.worse())
    print(result.nearest())
    return horizon_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_horizon")
