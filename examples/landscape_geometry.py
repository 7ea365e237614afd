"""The dropout penalty in Fisher form, and the flattening of the model manifold along training."""

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.landscape import HalfIteration, initial_points, manifold_geometry, penalty_comparison, train
from smesolve.landscape.estimates import over_runs
from smesolve.study.configuration import DataConfig
from smesolve.study.landscape_geometry import geometry_figure
from smesolve.study.landscape_section import checkpoints


def main(samples: int = 500, steps: int = 2000, runs: int = 4, draws: int = 200, probes: int = 60) -> Figure:
    """Compare the penalty with its Fisher form, and measure the manifold along training."""
    x, y = load_data(DataConfig("digits", samples=samples))
    network = sme.TwoLayerNetwork(in_features=64, width=32, out_features=10, activation="tanh")
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
    starts = initial_points(problem, runs)
    fit = LogisticRegression(C=500 / samples, fit_intercept=False, tol=1e-8, max_iter=1000).fit(x, y.argmax(1))
    laws = {keep_prob: sme.BernoulliMasks(keep_prob) for keep_prob in (0.99, 0.95, 0.9, 0.8, 0.65, 0.5)}
    logistic = penalty_comparison(problem.x, torch.from_numpy(fit.coef_.T), laws, draws=draws)
    print(logistic)
    rows, saved = [], checkpoints(steps, 5)
    for name in ("gradient descent", "drift only", "dropout"):
        states = train(HalfIteration(problem, 0.1, 0, name, runs), starts, saved)
        for step, points in zip(saved, states, strict=True):
            for run, theta in enumerate(points):
                found = manifold_geometry(problem, theta, probes, directions=4, seed=run)
                values = {"fisher_trace": found.trace.value, "top_eigenvalue": found.top_eigenvalue}
                values |= {"curvature": found.curvature.value}
                rows.append({"training": name, "run": run, "step": step} | values)
    means = over_runs(pd.DataFrame(rows), ["training", "step"], ["fisher_trace", "top_eigenvalue", "curvature"])
    return geometry_figure(logistic, means)


if __name__ == "__main__":
    save_figure(main(), Path("."), "landscape_geometry")
