"""Do the 95% intervals of landscape numbers cover? Against spectra that are given, so that the answers are known.

- Draws: `sampled_alignment` and `sampled_covariance_error` from N normal draws, for spectra k^-p of both operators.
  With equal decays the cosine is 1, its maximum, and intervals of N = 30 draws are wider than they need be.
- Probes: traces and Frobenius norm of one operator from random vectors.
- Means: Student's intervals of few independent runs, as all sections print them, and the sampled error of the Fisher
  form of the penalty against a reference of many draws.

    python benchmarks/landscape_coverage.py [--replicates 400] [--out landscape_coverage.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import aslinearoperator

from smesolve.landscape import (
    alignment,
    dropout_penalty_error,
    frobenius_norm,
    mean_over,
    sampled_alignment,
    sampled_covariance_error,
    trace,
)
from smesolve.problem.masks import BernoulliMasks

D = 100

DECAYS = ((1.0, 0.2), (1.0, 0.5), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0), (2.0, 3.0))
"""Of the eigenvalues of Hessian and covariance, in a common basis."""

DRAWS = (30, 60, 100, 300)

COLUMNS = ("trace", "cosine", "ratio", "score")


def landscape(count: int) -> pd.DataFrame:
    """Coverage of each printed number: a row for each case."""
    rows = [_draws(p, q, N, count) for p, q in DECAYS for N in DRAWS]
    rows += [_probes(q, probes, count) for q in (0.5, 1.0, 2.0) for probes in (12, 30, 60)]
    rows += [_means(runs, count) for runs in (2, 4, 10)]
    rows += [_penalty(keep_prob, count) for keep_prob in (0.8, 0.5)]
    return pd.DataFrame(rows).assign(replicates=count)


def _covers(row: dict[str, float], exact: dict[str, float], name: str) -> bool:
    return row[f"{name}_low"] <= exact[name] <= row[f"{name}_high"]


def _draws(hessian: float, covariance: float, draws: int, count: int) -> dict[str, object]:
    k, rng = np.arange(1.0, D + 1), np.random.default_rng(draws)
    operator, spread = aslinearoperator(np.diag(k**-hessian)), k ** (-covariance / 2)
    exact = alignment(operator, {"S": aslinearoperator(np.diag(spread**2))}, D).iloc[0].to_dict()
    norm = float(np.linalg.norm(spread**2))
    hits = {name: 0 for name in (*COLUMNS, "norm")}
    for _ in range(count):
        noise = torch.from_numpy(rng.standard_normal((draws, D)) * spread)
        row = sampled_alignment(operator, noise, D)
        for name in COLUMNS:
            hits[name] += _covers(row, exact, name)
        found, _ = sampled_covariance_error(noise, torch.zeros(D, dtype=torch.float64))
        hits["norm"] += found.low <= norm <= found.high
    case = f"draws {draws}, decays {hessian:g} and {covariance:g}"
    return {"case": case} | {name: hit / count for name, hit in hits.items()}


def _probes(decay: float, probes: int, count: int) -> dict[str, object]:
    eigenvalues = np.arange(1.0, D + 1) ** -decay
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))
    operator = aslinearoperator(rotation * eigenvalues @ rotation.T)
    hits = {"trace": 0, "norm": 0}
    for seed in range(count):
        of_trace, of_norm = trace(operator, probes, seed), frobenius_norm(operator, probes, seed)
        hits["trace"] += of_trace.low <= eigenvalues.sum() <= of_trace.high
        hits["norm"] += of_norm.low <= np.linalg.norm(eigenvalues) <= of_norm.high
    return {"case": f"probes {probes}, decay {decay:g}"} | {name: hit / count for name, hit in hits.items()}


def _means(runs: int, count: int) -> dict[str, object]:
    rng = np.random.default_rng(runs)
    found = [mean_over(rng.standard_normal(runs)) for _ in range(count)]
    return {"case": f"mean of {runs} runs", "mean": np.mean([one.low <= 0 <= one.high for one in found])}


def _penalty(keep_prob: float, count: int) -> dict[str, object]:
    rng, law = np.random.default_rng(0), BernoulliMasks(keep_prob)
    features, weights = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((8, 5), (5, 3)))
    exact = dropout_penalty_error(features, weights, law, "categorical", 40_000, count)
    found = [dropout_penalty_error(features, weights, law, "categorical", 100, seed) for seed in range(count)]
    covered = np.mean([one.low <= exact.value <= one.high for one in found])
    return {"case": f"penalty, keep_prob {keep_prob:g}", "mean": covered}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--replicates", type=int, default=400)
    arguments = parser.parse_args()
    table = landscape(arguments.replicates)
    print(harness.shown(table))
    harness.write(arguments.out, table.to_dict("records"))


if __name__ == "__main__":
    main()
