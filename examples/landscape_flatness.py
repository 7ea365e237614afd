"""How flat are the solutions, and which half of dropout makes them so: its drift or its noise?"""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import (
    HALVES,
    HalfIteration,
    NoiseScales,
    flatness,
    half_effects,
    initial_points,
    noisy_problem,
    train,
)
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_flatness import flatness_figure


def main(samples: int = 500, steps: int = 2000, runs: int = 8, directions: int = 20, probes: int = 100) -> Figure:
    """Train in every way, and compare the solutions."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    scales = NoiseScales(batch_size=50, parameter_noise=0.02)
    processes = {name: HalfIteration(problem, 0.1, 0, name, runs) for name in HALVES}
    for name in ("mini-batch", "parameter noise"):
        processes[name] = HalfIteration(noisy_problem(problem, name, scales), 0.1, 0, runs=runs)
    solutions = {name: train(process, starts, [steps])[-1] for name, process in processes.items()}
    study = flatness(problem, solutions, directions, rise=0.05, probes=probes)
    effects = half_effects(study.table)
    print(effects)
    return flatness_figure(study, effects)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_flatness")
