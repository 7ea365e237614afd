"""Paths of a random iteration beside those of the equation derived from it, for the three examples of derivations."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sympy
import torch
import torchsde
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import DROPOUT, ORDERS, PAGE, drawing
from smesolve.symbolic import SymbolicModifiedEquation

Draw = Callable[[int, np.random.Generator], np.ndarray]


def figure(
    equation: SymbolicModifiedEquation,
    constants: Mapping[str, float],
    draws: Mapping[str, Draw],
    start: Sequence[float],
    lr: float,
    steps: int,
    paths: int,
) -> Figure:
    """Mean and standard deviation over time of the first state variable, and its distribution at the end.

    `draws` gives the numbers of each random symbol: (paths, generator) -> (paths,). `lr` is the number of the small
    parameter, which is the time of a step.
    """
    discrete = _iteration(equation, constants, draws, start, lr, steps, paths)
    times = torch.linspace(0, steps * lr, steps + 1, dtype=torch.float64)
    y0 = torch.tensor(start, dtype=torch.float64).repeat(paths, 1)
    shape = (paths, equation.diffusion.cols)
    noise = torchsde.BrownianInterval(0.0, float(times[-1]), size=shape, dtype=torch.float64, entropy=0)
    sde = equation.to_torch(constants, lr)
    continuous = torchsde.sdeint(sde, y0, times, bm=noise, method="euler", dt=lr / 8)[..., 0].numpy()
    with drawing():
        picture = Figure(figsize=(PAGE, 2.6), layout="constrained")
        left, right = picture.subplots(1, 2)
        bins = np.linspace(*np.quantile(np.concatenate([discrete[-1], continuous[-1]]), [0.001, 0.999]), 30)
        iteration, modified = DROPOUT._replace(label="iteration"), ORDERS[equation.order]
        for look, values in ((iteration, discrete), (modified, continuous)):
            mean, deviation = values.mean(1), values.std(1)
            left.plot(times, mean, color=look.colour, linestyle=look.line, label=look.label)
            left.fill_between(times, mean - deviation, mean + deviation, color=look.colour, alpha=0.15, linewidth=0)
            right.hist(values[-1], bins, histtype="step", color=look.colour, linestyle=look.line, density=True)
        name = sympy.latex(equation.iteration.state[0])
        left.set_xlabel("time")
        left.set_ylabel(f"${name}$: mean and standard deviation")
        left.legend()
        right.set_xlabel(f"${name}$ at the end")
        right.set_ylabel("density")
    return picture


def _iteration(
    equation: SymbolicModifiedEquation,
    constants: Mapping[str, float],
    draws: Mapping[str, Draw],
    start: Sequence[float],
    lr: float,
    steps: int,
    paths: int,
) -> np.ndarray:
    """(steps + 1, paths): the first state variable."""
    iteration, generator = equation.iteration, np.random.default_rng(0)
    numbers = {symbol: constants[symbol.name] for symbol in iteration.constants} | {iteration.small: lr}
    entries = [entry.rewrite(sympy.Piecewise).subs(numbers) for entry in iteration.step]
    step = sympy.lambdify([iteration.state, list(iteration.random)], entries, "numpy")
    state = np.repeat(np.array(start, dtype=float)[:, None], paths, axis=1)
    history = [state[0]]
    for _ in range(steps):
        state = state + np.array(step(state, [draws[symbol.name](paths, generator) for symbol in iteration.random]))
        history.append(state[0])
    return np.array(history)
