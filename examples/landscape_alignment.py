"""Hessian against the covariance of dropout noise along training, beside random eigenvectors."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import HalfIteration, alignment_along, initial_points, train
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_alignment import alignment_figure
from smesolve.study.landscape_section import checkpoints


def main(samples: int = 500, steps: int = 3000, runs: int = 8, probes: int = 100, eigenpairs: int = 10) -> Figure:
    """Train, and measure along the way."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    saved = checkpoints(steps, 10)
    states = train(HalfIteration(problem, lr=0.1, seed=0, runs=runs), starts, saved)
    study = alignment_along(problem, states, saved, probes=probes, eigenpairs=eigenpairs)
    print(study.table.groupby(["covariance", "step"])[["cosine", "null_high"]].mean())
    return alignment_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_alignment")
