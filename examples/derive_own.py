"""An iteration of one's own: weight decay and Gaussian noise on the only weight of a linear model."""

from pathlib import Path

import derived_paths
from matplotlib.figure import Figure
from sympy import symbols

import smesolve as sme
from smesolve.experiments.shared.figures import save_figure
from smesolve.symbolic import Iteration, modified_equation


def main(paths: int = 20000, variance: float = 0.25) -> Figure:
    """Derive, prove, and compare paths."""
    a, x, y, c, eta = symbols("a x y c eta", real=True)
    lr, v = symbols("lr v", positive=True)
    step = -lr * (eta * x * (eta * a * x - y) + c * a)
    random = {eta: sme.GaussianMasks(v)}
    iteration = Iteration(state=[a], step=[step], random=random, small=lr, constants=[x, y, c])
    equation = modified_equation(iteration, order=2)
    print(equation.verify())
    print(equation.latex())
    constants = {"x": 1.0, "y": 1.0, "c": 0.1, "v": variance}
    masks = sme.GaussianMasks(variance)
    draws = {"eta": lambda count, generator: masks.sample((count,), generator).numpy()}
    return derived_paths.figure(equation, constants, draws, start=[0.0], lr=0.05, steps=60, paths=paths)


if __name__ == "__main__":
    save_figure(main(), Path("."), "derive_own")
