"""Alignment of Hessian and covariance of dropout noise along training, compared with random eigenvectors."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import smesolve as sme
from smesolve.experiments import alignment_along
from smesolve.landscape import AblatedIteration, checkpoints, initial_points, train


def main(samples: int = 500, steps: int = 3000, runs: int = 8, probes: int = 100, eigenpairs: int = 10) -> Figure:
    """Train, and measure along the way."""
    digits = load_digits()
    x, y = digits.data[:samples] / 16, torch.eye(10, dtype=torch.float64)[digits.target[:samples]]
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    saved = checkpoints(steps, 10)
    states = train(AblatedIteration(problem, lr=0.1, seed=0, runs=runs), starts, saved)
    study = alignment_along(problem, states, saved, probes=probes, eigenpairs=eigenpairs)
    print(study.table.groupby(["covariance", "step"])[["cosine", "null_high"]].mean())
    return study.plot()


if __name__ == "__main__":
    main().savefig(Path("landscape_alignment.png"), dpi=300)
