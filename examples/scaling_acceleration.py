"""Steps dt = c lr of the equation in place of c steps of the iteration: error, cost, break-even."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.comparison.scaling.acceleration import acceleration
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_acceleration import acceleration_figure


def main(factors: tuple[int, ...] = (4, 8, 16, 40, 80, 200), paths: int = 512) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    result = acceleration(
        problem,
        problem.initial(seed=1),
        lr=0.005,
        horizon=2.0,
        factors=factors,
        observable="modified_loss",
        effort=SamplingEffort(paths),
    )
    print(result.break_even([1e-3, 1e-4]))
    return acceleration_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_acceleration")
