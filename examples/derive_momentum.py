"""SGD on two samples with heavy-ball momentum, in its own time scale h = sqrt(lr)."""

from pathlib import Path

import derived_paths
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import save_figure
from smesolve.symbolic import ExplicitNetwork, modified_equation, momentum, sgd


def main(paths: int = 20000) -> Figure:
    """Derive, prove, and compare paths."""
    network = ExplicitNetwork(in_features=1, hidden=1, samples=2, activation="tanh")
    equation = modified_equation(momentum(sgd(network, batch=1)), order=1)
    print(equation.verify())
    print(equation.latex())
    constants = {"x_1_1": 1.0, "x_2_1": -0.5, "y_1_1": 0.8, "y_2_1": 0.3, "m": 0.5}
    draws = {"I": lambda count, generator: generator.integers(1, 3, count)}
    start = [0.5, 0.5, 0.0, 0.0]  # weight, readout, and their velocities
    return derived_paths.figure(equation, constants, draws, start, lr=0.1, steps=60, paths=paths)


if __name__ == "__main__":
    save_figure(main(), Path("."), "derive_momentum")
