"""Dropout on handwritten digits beside its stochastic modified equation."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import comparison_figure, save_figure
from smesolve.study.configuration import DataConfig


def main(
    samples: int = 500, width: int = 32, lrs: tuple[float, ...] = (0.05, 0.025), horizon: float = 0.5, paths: int = 256
) -> Figure:
    """Compare, and draw means, errors and distributions."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=width, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    study = sme.weak_error(
        problem,
        problem.initial(seed=0),
        lrs=lrs,
        horizon=horizon,
        times=horizon * np.arange(1, 11) / 10,
        observables=["loss", "modified_loss"],
        paths=paths,
        scheme="small_noise_rk4",
        control="second",
        seed=0,
        progress=True,
        keep=paths,
    )
    print(study.fit())
    return comparison_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "digits")
