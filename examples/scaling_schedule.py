"""Weak orders 1 and 2 under schedules of the learning rate and of keep_prob."""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.comparison.scaling.schedules import schedules
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_schedule import schedule_figure


def main(
    lrs: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025, 0.0125),
    horizon: float = 2.0,
    names: tuple[str, ...] = ("constant", "step", "cosine", "warm_up", "keep_prob"),
    rel_tol: float = 0.05,
) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    effort = SamplingEffort(rel_tol=rel_tol, max_paths=2**15)
    result = schedules(problem, problem.initial(seed=1), lrs, horizon, names, observable="modified_loss", effort=effort)
    print(result.fit)
    return schedule_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_schedule")
