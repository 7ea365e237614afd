"""The digits network of the main job (D = 2368): both orders resolved to 10% at three learning rates."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure, weak_error_figure
from smesolve.study.configuration import DataConfig


def main(
    samples: int = 500,
    width: int = 32,
    lrs: tuple[float, ...] = (0.05, 0.04, 0.025),
    horizon: float = 1.0,
    rel_tol: float = 0.1,
) -> Figure:
    """Measure both orders until each error is known to 10%."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=width, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    study = sme.weak_error(
        problem,
        problem.initial(seed=0),
        lrs=lrs,
        horizon=horizon,
        observables=["loss"],
        paths=256,
        rel_tol=rel_tol,
        max_paths=2**14,
        seed=0,
        progress=True,
    )
    print(study.fit())
    return weak_error_figure(study)


if __name__ == "__main__":
    save_figure(main(), Path("."), "digits_certificate")
