"""Which noise aligns with the Hessian: dropout, mini-batches, both, noise on parameters and labels, batches of one."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import NOISES, initial_points, noise_alignment, noisy_problem
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_noises import noises_figure
from smesolve.study.landscape_section import checkpoints


def main(samples: int = 500, steps: int = 1000, runs: int = 4, draws: int = 200, probes: int = 60) -> Figure:
    """Train under each noise, and measure along the way."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    problems = {name: noisy_problem(problem, name) for name in NOISES}
    table = noise_alignment(problems, starts, 0.1, checkpoints(steps, 5), draws, probes)
    print(table.groupby(["points", "noise"]).cosine.mean())
    return noises_figure(table)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_noises")
