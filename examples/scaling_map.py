"""Weak error over learning rate and keep_prob, limits of stability, and the natural parameter."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.comparison.scaling.error_map import error_map
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_map import map_figure


def main(
    keep_probs: tuple[float, ...] = (0.8, 0.3, 0.1, 0.03, 0.01),
    multiples: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8),
    paths: int = 1024,
) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    result = error_map(problem, problem.initial(seed=1), keep_probs, multiples, effort=SamplingEffort(paths))
    print(result.limits)
    print(result.collapse(seed=0))
    return map_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_map")
