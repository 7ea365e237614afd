"""What the second-order control variate loses when the value Hessian is cut to a low rank.

    python benchmarks/value_hessian_rank.py

The Hessian of the loss on digits (500 images, 64-32-10, D = 2368) after 20 mean steps at lr 0.05, whole and cut to its
leading eigenpairs; d and nu are independent noise products there. Printed: standard deviation of <(Lam - Lam_r) d, nu>
over that of <Lam d, nu>, from 1024 pairs, with the interval of the ratio by bootstrap.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import numpy as np
import torch

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.settings import DataSettings

RANKS, PAIRS = (8, 16, 32, 64, 128), 1024


def main() -> None:
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(64, 32, 10), *load_data(DataSettings(samples=500)), keep_prob=0.8)
    theta = problem.initial()
    for _ in range(20):
        theta = theta - 0.05 * problem.mean_gradient(theta)
    slope = torch.func.vmap(torch.func.grad(problem.loss))
    columns = [
        torch.func.jvp(slope, (theta.expand_as(part).contiguous(),), (part.contiguous(),))[1]
        for part in torch.eye(problem.dim, dtype=torch.float64).split(64)
    ]
    values, vectors = torch.linalg.eigh(torch.cat(columns))
    leading = values.abs().argsort(descending=True)
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(2, PAIRS, problem.noise_dim, generator=generator, dtype=torch.float64)
    d, nu = (problem.noise_product(theta, part) @ vectors[:, leading] for part in normals)
    terms = (d * values[leading] * nu).numpy()
    whole, rng = terms.sum(1), np.random.default_rng(0)
    print(f"D {problem.dim}; rank, share of cv_2 that is left out [95%]")
    for rank in RANKS:
        left = terms[:, rank:].sum(1)
        again = [(left[draw].std() / whole[draw].std()) for draw in rng.integers(PAIRS, size=(500, PAIRS))]
        low, high = np.quantile(again, [0.025, 0.975])
        print(f"{rank:6}  {left.std() / whole.std():.2%} [{low:.2%}, {high:.2%}]")


if __name__ == "__main__":
    main()
