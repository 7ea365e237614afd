"""A deep classifier as torch trains it, beside the modified equation of its noise."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import nn

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import comparison_figure, save_figure
from smesolve.study.configuration import DataConfig


def main(
    samples: int = 200, lrs: tuple[float, ...] = (0.4, 0.2), horizon: float = 8.0, dt: float = 0.05, paths: int = 96
) -> Figure:
    """Compare, and draw means, errors and distributions."""
    x, y = load_data(DataConfig("digits", samples=samples))
    drop = 1 - 0.8  # 1 - keep_prob
    module = nn.Sequential(
        nn.Linear(64, 50),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(50, 50),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(50, 10),
    ).double()
    problem = sme.ModuleProblem(module, x, y, loss="cross_entropy")
    study = sme.weak_error(
        problem,
        problem.initial(seed=0),
        lrs=lrs,
        horizon=horizon,
        orders=[1],
        times=horizon * np.arange(1, 11) / 10,
        observables=["loss"],
        paths=paths,
        scheme="svag",
        dt=dt,
        seed=0,
        progress=True,
        keep=paths,
    )
    print(study.fit())
    return comparison_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "digits_deep")
