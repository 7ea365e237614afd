"""Coverage of landscape's intervals, against spectra that are given, so that the answers are known.

- Draws: `sampled_alignment` and `sampled_covariance_error` from N normal draws, for spectra k^-p of both operators in
  a common basis. With equal decays the cosine is 1, its maximum, and intervals are wider than they need be.
- Probes: `alignment` of one operator with two covariances, and `frobenius_norm`, from random vectors. `share` and
  `part` are those of the second covariance.
- Means: Student's intervals of few independent runs, as all sections print them, and the sampled error of the Fisher
  form of the penalty against a reference of many draws.
"""

from __future__ import annotations

import joblib
import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from smesolve.landscape import (
    alignment,
    dropout_penalty_error,
    frobenius_norm,
    mean_over,
    sampled_alignment,
    sampled_covariance_error,
)
from smesolve.problem.masks import BernoulliMasks

__all__ = ["landscape"]

D = 100
"""Dimension."""

DECAYS = ((1.0, 0.2), (1.0, 0.5), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0), (2.0, 3.0))
"""Of the eigenvalues of Hessian and covariance."""

DRAWS = (30, 60, 100, 300)

PROBES, PROBED = (12, 30, 60), ((1.0, 0.5), (1.0, 2.0), (2.0, 1.0))
"""Numbers of probes and decays."""

COLUMNS = ("trace", "cosine", "ratio", "score", "share", "part")


def landscape(count: int) -> pd.DataFrame:
    """Coverage of each printed number: a row for each case."""
    jobs = [joblib.delayed(_draws)(p, q, N, count) for p, q in DECAYS for N in DRAWS]
    jobs += [joblib.delayed(_probes)(p, q, probes, count) for p, q in PROBED for probes in PROBES]
    jobs += [joblib.delayed(_means)(runs, count) for runs in (2, 4, 10)]
    jobs += [joblib.delayed(_penalty)(keep_prob, count) for keep_prob in (0.8, 0.5)]
    return pd.DataFrame(joblib.Parallel(n_jobs=2)(jobs)).assign(replicates=count)


class _Hits:
    """How often intervals hold the exact values, by name."""

    def __init__(self, exact: dict[str, float]) -> None:
        self.exact = exact
        self.hits = dict.fromkeys(exact, 0)

    def add(self, row: dict[str, float]) -> None:
        """One replicate: columns name_low and name_high."""
        for name, value in self.exact.items():
            self.hits[name] += row[f"{name}_low"] <= value <= row[f"{name}_high"]

    def shares(self, case: str, count: int) -> dict[str, object]:
        """The row of the case."""
        return {"case": case} | {name: hit / count for name, hit in self.hits.items()}


def _exact(
    hessian: LinearOperator, covariances: dict[str, LinearOperator], columns: tuple[str, ...]
) -> dict[str, float]:
    """Those columns of the last covariance."""
    row = alignment(hessian, covariances, D).iloc[-1]
    return {name: float(row[name]) for name in columns}


def _draws(hessian: float, covariance: float, draws: int, count: int) -> dict[str, object]:
    k, rng = np.arange(1.0, D + 1), np.random.default_rng(draws)
    operator, spread = aslinearoperator(np.diag(k**-hessian)), k ** (-covariance / 2)
    # with one covariance the share is 1 and the part is the cosine
    exact = _exact(operator, {"S": aslinearoperator(np.diag(spread**2))}, COLUMNS[:4])
    found = _Hits(exact | {"norm": float(np.linalg.norm(spread**2))})
    for _ in range(count):
        noise = torch.from_numpy(rng.standard_normal((draws, D)) * spread)
        norm, _ = sampled_covariance_error(noise, torch.zeros(D, dtype=torch.float64))
        found.add(sampled_alignment(operator, noise, D) | norm.columns("norm"))
    return found.shares(f"{draws} draws, decays {hessian:g} and {covariance:g}", count)


def _probes(hessian: float, covariance: float, probes: int, count: int) -> dict[str, object]:
    k, rotation = np.arange(1.0, D + 1), np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
    first, second, third = (
        aslinearoperator(rotation * k**-decay @ rotation.T) for decay in (hessian, hessian, covariance)
    )
    covariances = {"S": second, "T": third}
    exact = _exact(first, covariances, COLUMNS)
    found = _Hits(exact | {"norm": float(np.linalg.norm(k**-covariance))})
    for seed in range(count):
        row = alignment(first, covariances, probes, seed).iloc[-1].to_dict()
        found.add(row | frobenius_norm(third, probes, seed).columns("norm"))
    return found.shares(f"{probes} probes, decays {hessian:g} and {covariance:g}", count)


def _means(runs: int, count: int) -> dict[str, object]:
    rng, found = np.random.default_rng(runs), _Hits({"mean": 0.0})
    for _ in range(count):
        found.add(mean_over(rng.standard_normal(runs)).columns("mean"))
    return found.shares(f"mean of {runs} runs", count)


def _penalty(keep_prob: float, count: int) -> dict[str, object]:
    rng, law = np.random.default_rng(0), BernoulliMasks(keep_prob)
    features, weights = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((8, 5), (5, 3)))
    exact = dropout_penalty_error(features, weights, law, "categorical", 40_000, count)
    found = _Hits({"mean": exact.value})
    for seed in range(count):
        found.add(dropout_penalty_error(features, weights, law, "categorical", 100, seed).columns("mean"))
    return found.shares(f"penalty, keep_prob {keep_prob:g}", count)
