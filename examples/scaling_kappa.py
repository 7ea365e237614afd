"""kappa masks a step at kappa times the learning rate: up to which kappa does the iteration follow the equation?"""

from pathlib import Path

from matplotlib.figure import Figure

import smesolve as sme
from smesolve.comparison.scaling.linear_scaling_rule import linear_scaling_rule
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_kappa import kappa_figure


def main(kappas: tuple[int, ...] = (1, 2, 4, 8, 16, 40), horizon: float = 2.0, rel_tol: float = 0.1) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    result = linear_scaling_rule(
        problem,
        problem.initial(seed=1),
        lr=0.025,
        kappas=kappas,
        horizon=horizon,
        tolerance=0.01,
        effort=SamplingEffort(rel_tol=rel_tol),
    )
    print(result.reach())
    return kappa_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_kappa")
