"""Which has which weak order: the flows of R_S, R_S + R_1, R_S + R_1 + R_2, and the SMEs of order 1 and 2."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import exact_regularisation_orders, regularisation_orders
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_regularisation import regularisation_figure


def main(
    samples: int = 100, lrs: tuple[float, ...] = (0.04, 0.02, 0.01), horizon: float = 0.4, max_paths: int = 4096
) -> Figure:
    """Measure the orders of three flows and two equations on the network, and exactly on a linear model."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=8, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    study = regularisation_orders(problem, problem.initial(seed=0), lrs, horizon, rel_tol=0.25, max_paths=max_paths)
    print(study.fits)
    components = np.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, :5] * len(x) ** 0.5
    linear = sme.DropoutProblem(sme.LinearNetwork(5), components, y[:, :1], keep_prob=0.8)
    exact = exact_regularisation_orders(linear, linear.initial(seed=0), lrs, horizon, ["theta[0]", "loss"])
    return regularisation_figure(study, exact)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_regularisation")
