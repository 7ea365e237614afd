"""Paths of three random iterations and of the equations derived from them: python examples/derived_paths.py.

The iterations are those of derive_dropout.yaml, derive_momentum.yaml and derive_own.yaml. Each figure shows mean and
standard deviation over time of the first state variable, and its distribution at the end.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import sympy
import torch
import torchsde
from matplotlib.figure import Figure

import smesolve as sme
from smesolve.symbolic import (
    ExplicitNetwork,
    Iteration,
    SymbolicModifiedEquation,
    dropout,
    modified_equation,
    momentum,
    sgd,
)

Draw = Callable[[int, np.random.Generator], np.ndarray]


class Example(NamedTuple):
    """A derived equation with numbers for its symbols."""

    equation: SymbolicModifiedEquation
    constants: dict[str, float]
    draw: Draw
    """(paths, generator) -> (paths,): numbers of each random symbol."""
    start: list[float]
    lr: float
    """The number of the small parameter, which is the time of a step."""
    steps: int


def derive_dropout() -> Example:
    """Dropout on a network with two neurons."""
    p = sympy.Symbol("p", positive=True)
    network = ExplicitNetwork(in_features=1, hidden=2, samples=1, activation="tanh")
    equation = modified_equation(dropout(network, sme.BernoulliMasks(p)), order=2)
    constants = {"p": 0.8, "x_1_1": 1.0, "y_1_1": 0.8}
    return Example(equation, constants, _masks(sme.BernoulliMasks(0.8)), [0.5, -0.3, 0.5, 0.4], 0.1, 40)


def derive_momentum() -> Example:
    """SGD on two samples with heavy-ball momentum, in its own time scale h = sqrt(lr)."""
    network = ExplicitNetwork(in_features=1, hidden=1, samples=2, activation="tanh")
    equation = modified_equation(momentum(sgd(network, batch=1)), order=1)
    constants = {"x_1_1": 1.0, "x_2_1": -0.5, "y_1_1": 0.8, "y_2_1": 0.3, "m": 0.5}
    start = [0.5, 0.5, 0.0, 0.0]  # weight, readout, and their velocities
    return Example(equation, constants, lambda count, generator: generator.integers(1, 3, count), start, 0.1, 60)


def derive_own() -> Example:
    """An iteration of one's own: weight decay and Gaussian noise on the only weight of a linear model."""
    a, x, y, c, eta = sympy.symbols("a x y c eta", real=True)
    lr, v = sympy.symbols("lr v", positive=True)
    step = -lr * (eta * x * (eta * a * x - y) + c * a)
    random = {eta: sme.GaussianMasks(v)}
    equation = modified_equation(Iteration([a], [step], random, lr, [x, y, c]), order=2)
    constants = {"x": 1.0, "y": 1.0, "c": 0.1, "v": 0.25}
    return Example(equation, constants, _masks(sme.GaussianMasks(0.25)), [0.0], 0.05, 60)


def main(paths: int = 20000) -> dict[str, Figure]:
    """Derive, prove, and compare paths."""
    figures = {}
    for example in (derive_dropout, derive_momentum, derive_own):
        derived = example()
        print(derived.equation.verify())
        figures[example.__name__] = figure(derived, paths)
    return figures


def figure(example: Example, paths: int) -> Figure:
    """Return paths of the iteration beside those of the equation."""
    times = np.arange(example.steps + 1) * example.lr
    picture = Figure(figsize=(6.8, 2.6), layout="constrained")
    left, right = picture.subplots(1, 2)
    ends = {}
    for name, values in (("iteration", _iteration(example, paths)), ("equation", _equation(example, paths))):
        mean, deviation = values.mean(1), values.std(1)
        (line,) = left.plot(times, mean, label=name)
        left.fill_between(times, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.15, linewidth=0)
        ends[name] = values[-1]
    bins = np.linspace(*np.quantile(np.concatenate(list(ends.values())), [0.001, 0.999]), 30)
    for name, values in ends.items():
        right.hist(values, bins, histtype="step", density=True, label=name)
    symbol = sympy.latex(example.equation.iteration.state[0])
    left.set(xlabel="time", ylabel=f"${symbol}$: mean and standard deviation")
    right.set(xlabel=f"${symbol}$ at the end", ylabel="density")
    left.legend()
    return picture


def _equation(example: Example, paths: int) -> np.ndarray:
    """(steps + 1, paths): the first state variable."""
    equation, lr = example.equation, example.lr
    times = torch.linspace(0, example.steps * lr, example.steps + 1, dtype=torch.float64)
    start = torch.tensor(example.start, dtype=torch.float64).repeat(paths, 1)
    shape = (paths, equation.diffusion.cols)
    noise = torchsde.BrownianInterval(0.0, float(times[-1]), size=shape, dtype=torch.float64, entropy=0)
    sde = equation.to_torch(example.constants, lr)
    return torchsde.sdeint(sde, start, times, bm=noise, method="euler", dt=lr / 8)[..., 0].numpy()


def _iteration(example: Example, paths: int) -> np.ndarray:
    """(steps + 1, paths): the first state variable."""
    iteration, generator = example.equation.iteration, np.random.default_rng(0)
    numbers = {symbol: example.constants[symbol.name] for symbol in iteration.constants} | {iteration.small: example.lr}
    entries = [entry.rewrite(sympy.Piecewise).subs(numbers) for entry in iteration.step]
    step = sympy.lambdify([iteration.state, list(iteration.random)], entries, "numpy")
    state = np.repeat(np.array(example.start)[:, None], paths, axis=1)
    history = [state[0]]
    for _ in range(example.steps):
        state = state + np.array(step(state, [example.draw(paths, generator) for _ in iteration.random]))
        history.append(state[0])
    return np.array(history)


def _masks(law: sme.MaskLaw) -> Draw:
    return lambda count, generator: law.sample((count,), generator).numpy()


if __name__ == "__main__":
    for name, picture in main().items():
        picture.savefig(f"{name}.png", dpi=300)
