"""Is the noise of dropout larger along sharper directions? Two data sets, two relations."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import HalfIteration, initial_points, train, variance_principle
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_variance import variance_figure


def main(samples: int = 500, steps: int = 5000, runs: int = 8, draws: int = 1000, directions: int = 30) -> Figure:
    """Train, and measure both relations on both data sets."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    states = train(HalfIteration(problem, lr=0.3, seed=0, runs=runs), starts, [steps])[-1]
    study = variance_principle(problem, states, lr=0.3, draws=draws, directions=directions, seed=1)
    print(study.slopes.groupby(["data", "relation"]).slope.mean())
    return variance_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_variance")
