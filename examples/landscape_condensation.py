"""Do input weights gather on few orientations? Four trainings from two initial scales."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import condensation, initial_points
from smesolve.landscape.estimates import over_runs
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_condensation import condensation_figure
from smesolve.study.landscape_section import checkpoints


def main(samples: int = 100, steps: int = 2000, runs: int = 8) -> Figure:
    """Train in four ways from two initial scales."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh", bias=True)
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.5)
    saved = checkpoints(steps, 8)
    studies = {
        scale: condensation(problem, initial_points(problem, runs, scale=scale), 0.05, saved, lines=True)
        for scale in (1.0, 0.1)
    }
    table = pd.concat([study.table.assign(scale=scale) for scale, study in studies.items()])
    means = over_runs(table, ["scale", "training", "step"], ["effective_ratio", "participation", "loss"])
    print(means[means.step == steps])
    return condensation_figure(studies, means)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_condensation")
