"""Condensation where orientations are seen best: one input and a bias, relu, from the network's own initialisation."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import condensation, initial_points
from smesolve.landscape.estimates import over_runs
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_condensation import condensation_figure
from smesolve.study.landscape_section import checkpoints


def main(steps: int = 20000, runs: int = 8) -> Figure:
    """Train in four ways."""
    x, y = load_data(DataConfig("random", samples=30, in_features=1, seed=0))
    network = sme.TwoLayerNetwork(in_features=1, width=50, out_features=1, activation="relu", bias=True)
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.9)
    study = condensation(problem, initial_points(problem, runs), 0.1, checkpoints(steps, 8))
    means = over_runs(
        study.table.assign(scale=1.0), ["scale", "training", "step"], ["effective_ratio", "participation"]
    )
    print(means[means.step == steps])
    return condensation_figure({1.0: study}, means)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_condensation_1d")
