"""The weak orders 1 and 2, certified on a small network."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure, weak_error_figure
from smesolve.study.configuration import DataConfig


def main(
    lrs: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025, 0.0125), horizon: float = 2.0, rel_tol: float = 0.1
) -> Figure:
    """Measure both orders until each error is known to 10%."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    study = sme.weak_error(
        problem, problem.initial(seed=1), lrs=lrs, horizon=horizon, observables=["loss"], rel_tol=rel_tol, seed=0
    )
    print(study.fit())
    return weak_error_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "weak_order")
