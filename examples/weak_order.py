"""The weak orders 1 and 2, certified on a small network."""

import numpy as np
from matplotlib.figure import Figure

import smesolve as sme


def main(
    lrs: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025, 0.0125), horizon: float = 2.0, rel_tol: float = 0.1
) -> Figure:
    """Measure both orders until each error is known to 10%."""
    x = np.random.default_rng(0).standard_normal((8, 2))
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    theta0 = problem.initial(seed=1)
    study = sme.weak_error(problem, theta0, lrs=lrs, horizon=horizon, observables=["loss"], rel_tol=rel_tol, seed=0)
    print(study.fit())
    return study.plot()


if __name__ == "__main__":
    main().savefig("weak_order.png", dpi=300)
