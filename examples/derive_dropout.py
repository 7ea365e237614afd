"""Dropout on a network with two neurons: equation, proof, what obstructs order 3, the papers' formulas."""

from pathlib import Path

import derived_paths
from matplotlib.figure import Figure
from sympy import Symbol

import smesolve as sme
from smesolve.experiments.shared.figures import save_figure
from smesolve.symbolic import DropoutFormulas, ExplicitNetwork, dropout, modified_equation, third_cumulant


def main(paths: int = 20000, keep_prob: float = 0.8) -> Figure:
    """Derive, prove, and compare paths."""
    p = Symbol("p", positive=True)
    law = sme.BernoulliMasks(p)
    network = ExplicitNetwork(in_features=1, hidden=2, samples=1, activation="tanh")
    iteration = dropout(network, law)
    equation = modified_equation(iteration, order=2)
    print(equation.verify())
    print(f"order 3 is not obstructed for p in {third_cumulant(iteration).roots(p)}")
    for claim in DropoutFormulas(network, law).claims:
        print(claim)
    constants = {"p": keep_prob, "x_1_1": 1.0, "y_1_1": 0.8}
    masks = sme.BernoulliMasks(keep_prob)
    draws = {
        symbol.name: lambda count, generator: masks.sample((count,), generator).numpy() for symbol in iteration.random
    }
    return derived_paths.figure(equation, constants, draws, [0.5, -0.3, 0.5, 0.4], lr=0.1, steps=40, paths=paths)


if __name__ == "__main__":
    save_figure(main(), Path("."), "derive_dropout")
