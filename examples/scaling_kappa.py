"""kappa masks per step at kappa times the learning rate: up to which kappa does the iteration follow the equation?"""

import numpy as np
from matplotlib.figure import Figure

import smesolve as sme
from smesolve.experiments import SamplingEffort
from smesolve.experiments.scaling.kappa import linear_scaling_rule


def main(kappas: tuple[int, ...] = (1, 2, 4, 8, 16, 40), horizon: float = 2.0, rel_tol: float = 0.1) -> Figure:
    """Run the study and draw it."""
    x = np.random.default_rng(0).standard_normal((8, 2))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    theta0, effort = problem.initial(seed=1), SamplingEffort(rel_tol=rel_tol)
    result = linear_scaling_rule(problem, theta0, 0.025, kappas, horizon, tolerance=0.01, effort=effort)
    print(result.reach())
    return result.plot()


if __name__ == "__main__":
    main().savefig("scaling_kappa.png", dpi=300)
