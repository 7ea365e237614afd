"""Which scheme to take where drift and noise are known by sampling only: exact errors at equal work.

    python benchmarks/sampled_schemes.py [--lr 0.1] [--out sampled_schemes.json]

Dropout on a linear model with two weights, whose moments are known: those of the order-1 equation and of training by
`LinearMoments`, those of a scheme by enumeration of the masks of all its draws in a step, so no number has an error
bar. For each scheme with dt = lr/l: gradients in a time lr, and the bias E g(scheme) - E g(equation) in units of the
equation's own error, E g(equation) - E g(training), for |theta|^2 and theta_1^3. "Richardson" is twice the mean at
dt/2 less the mean at dt; its work is that of both.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import itertools

import harness
import numpy as np
import pandas as pd
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.solver.schemes import SCHEMES

DEGREE, HORIZON = 3, 1.0
REFINEMENTS = (1, 2, 4, 8, 16, 32)


def affine_gradients(problem: sme.DropoutProblem) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (K, D + 1, D + 1) of (0, gradient) on (1, theta) for every mask, and its probability (K,)."""
    masks, weights = problem.all_draws()
    points = torch.cat([torch.zeros(1, problem.dim), torch.eye(problem.dim)]).double()
    values = problem.gradient(points, masks[:, None])  # (K, D + 1, D)
    matrices = np.zeros((len(masks), problem.dim + 1, problem.dim + 1))
    matrices[:, 1:, 0] = values[:, 0]
    matrices[:, 1:, 1:] = (values[:, 1:] - values[:, :1]).mT
    return matrices, weights.numpy()


def moments(problem: sme.DropoutProblem, theta0: torch.Tensor, scheme: str, lr: float, refinement: int) -> np.ndarray:
    """E (1, theta)^(x 3) of the scheme at the horizon, by enumeration of the draws of a step."""
    matrices, probabilities = affine_gradients(problem)
    dt = lr / refinement
    weights = np.add(*SCHEMES[scheme].weights(lr / dt))
    size = matrices.shape[1]
    step = np.zeros((size**DEGREE, size**DEGREE))
    for chosen in itertools.product(range(len(matrices)), repeat=len(weights)):
        one = np.eye(size) - dt * sum(weight * matrices[k] for weight, k in zip(weights, chosen, strict=True))
        step += np.prod(probabilities[list(chosen)]) * np.kron(np.kron(one, one), one)
    start = np.concatenate([[1.0], theta0.numpy()])
    power = np.linalg.matrix_power(step, round(HORIZON / dt))
    return (power @ np.kron(np.kron(start, start), start)).reshape(size, size, size)


def observed(tensor: np.ndarray) -> np.ndarray:
    """E |theta|^2 and E theta_1^3."""
    return np.array([np.trace(tensor[0, 1:, 1:]), tensor[1, 1, 1]])


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()
    problem, theta0 = harness.linear_problem(0.8)
    exact = LinearMoments(problem, theta0)
    size = (problem.dim + 1,) * DEGREE
    equation, training = (
        observed(np.asarray(exact.moments(arguments.lr, order, HORIZON, DEGREE)).reshape(size)) for order in (1, None)
    )
    own = equation - training
    print(f"linear model, keep_prob 0.8, lr {arguments.lr:g}, time {HORIZON:g}; errors of the order-1 equation:")
    print(f"  |theta|^2 {own[0]:.3g}, theta_1^3 {own[1]:.3g}")
    rows = []
    for scheme in ("svag", "sampled_euler"):
        work = SCHEMES[scheme].drift_evaluations
        means = {k: observed(moments(problem, theta0, scheme, arguments.lr, k)) for k in REFINEMENTS}
        for k in REFINEMENTS:
            found = {"": (means[k], work * k)}
            if 2 * k in means:
                found[", Richardson"] = 2 * means[2 * k] - means[k], 3 * work * k
            for kind, (mean, gradients) in found.items():
                share = (mean - equation) / own
                rows.append(
                    {
                        "scheme": scheme + kind,
                        "l": k,
                        "gradients": gradients,
                        "|theta|^2": share[0],
                        "theta_1^3": share[1],
                    }
                )
    table = pd.DataFrame(rows).sort_values(["gradients", "scheme"])
    print("bias in units of these errors, by gradients in a time lr:")
    print(harness.shown(table))
    harness.write(arguments.out, {"lr": arguments.lr, "own": own.tolist(), "rows": rows})


if __name__ == "__main__":
    main()
