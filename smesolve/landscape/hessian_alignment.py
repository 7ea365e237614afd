"""Alignment of the Hessian H with the covariance Sigma of the gradient noise, beside its null model.

Three statistics of tr(H Sigma) differ by factors that depend only on the two spectra; a fourth compares eigenvectors:

    cosine   tr(H Sigma) / (|H|_F |Sigma|_F)                  Zhang, Li, Luo, Xu (ICLR 2024)                         (1)
    ratio    D tr(H Sigma) / (tr H tr Sigma)                  1 for isotropic noise, Zhu et al. (ICML 2019)          (2)
    score    (tr(H Sigma) - mean) / standard deviation        under the null of `null_model`                         (3)
    overlap  |U_k^T V_k|_F^2 / k                              of the leading eigenvectors of both                    (4)

The overlap has a null model of its own. A cosine has no natural scale: random eigenvectors with the SAME eigenvalues
have the mean cosine tr H tr Sigma / (D |H|_F |Sigma|_F).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.confidence import CONFIDENCE
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.landscape.null_model import HaarNull
from smesolve.landscape.operators import (
    batch_of_one_operator,
    check_sampled_noise,
    covariance_operator,
    gradient_term_operator,
    pair_term_operator,
)
from smesolve.landscape.spectrum import check_operator, check_operators, leading_eigenpairs
from smesolve.landscape.trace_estimation import Traces, sampled_traces, traces
from smesolve.problem.dropout import DropoutProblem

__all__ = ["COVARIANCES", "alignment", "check_dimension", "overlap", "sampled_alignment"]

COVARIANCES: dict[str, Callable[[DropoutProblem, Tensor], LinearOperator]] = {
    "full batch": covariance_operator,
    "gradient term": gradient_term_operator,
    "pair term": pair_term_operator,
    "batch of one": batch_of_one_operator,
}
"""Noise covariances by name: the exact covariance of dropout, its two terms, and the approximation of the papers (see
`operators`)."""

ROUNDING = 1e-12
"""Rounding error of a share of 1."""

TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""Probabilities of the quantiles of the null."""


@entry_point
def alignment(
    hessian: LinearOperator, covariances: Mapping[str, LinearOperator], probes: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Measure the alignment of a Hessian with each covariance.

    Cost: about two products per probe and operator, and half as many for the basis.

    Args:
        hessian: symmetric operator, D x D.
        covariances: covariances by name; shares refer to the first one, Sigma_1.
        probes: number of vectors for the traces, which are exact for probes >= D; see `traces`.
        seed: seed of the vectors.

    Returns:
        A row for each covariance, estimates with `_low` and `_high`: `trace` of the covariance, `cosine`, `ratio`,
        `score`; `null_mean`, `null_low`, `null_high` of the cosine under the null; `share` tr Sigma / tr Sigma_1 and
        `part` tr(H Sigma) / (|H|_F |Sigma_1|_F); `verdict`: "aligned" or "opposed" where the interval of the score lies
        outside the central 95% of the null, else "unresolved". The score has an infinite end if the covariance is not
        resolved from an isotropic one; a quotient 0/0, as without noise, is NaN.
    """
    check_dimension(check_operator("hessian", hessian).shape[0])
    covariances = check_operators("covariances", covariances, hessian.shape[0])
    letters = {name: chr(ord("S") + number) for number, name in enumerate(covariances)}  # S, T, ...: never H
    operators = {"H": hessian} | {letters[name]: operator for name, operator in covariances.items()}
    words = [word for letter in operators for word in (letter, 2 * letter, 3 * letter)]
    words += ["H" + letter for letter in letters.values()]
    measured = traces(operators, words, probes, seed)
    whole = next(iter(letters.values()))
    return pd.DataFrame({"covariance": name} | _row(measured, letter, whole) for name, letter in letters.items())


@entry_point
def sampled_alignment(hessian: LinearOperator, noise: Tensor, probes: int = 200, seed: int = 0) -> dict[str, object]:
    """Measure the alignment of a Hessian with a covariance that is known only from draws of the noise.

    Args:
        hessian: symmetric operator, D x D.
        noise: independent draws (N, D) of mean zero.
        probes: number of vectors for the traces of the Hessian.
        seed: seed of the vectors.

    Returns:
        The columns of `alignment` for this covariance; intervals include the errors of both draws and probes.
    """
    check_dimension(check_operator("hessian", hessian).shape[0])
    noise = check_sampled_noise("noise", noise, hessian.shape[0], None, "hessian")
    return _row(sampled_traces(hessian, noise, probes, seed), "S", "S")


def check_dimension(dim: int) -> None:
    """Refuse numbers of parameters for which there is no null model."""
    if dim < 3:
        raise SmesolveError(
            f"hessian must have at least 3 dimensions, got D = {dim}; there is no null model in fewer, take a larger "
            "network."
        )


def _row(of: Traces, S: str, whole: str) -> dict[str, object]:
    """Return the columns of `alignment` for the covariance S, where `whole` is the first one."""

    def cosine(t: Mapping[str, np.ndarray], letter: str) -> np.ndarray:
        found: np.ndarray = t["H" + S] / np.sqrt(t["HH"] * t[2 * letter])  # (1)
        return found

    # Numerator and denominator of the score (3) are both divided by |H|_F |S|_F: the draws may determine the shape of S
    # even where they do not determine its size.
    def excess(t: Mapping[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = (t["H" + S] - t["H"] * t[S] / of.dim) / np.sqrt(t["HH"] * t[2 * S])
        return found

    def variance(t: Mapping[str, np.ndarray]) -> np.ndarray:
        squares = _centred_share(t, "H", of.dim) * _centred_share(t, S, of.dim)
        found: np.ndarray = 2 * squares / ((of.dim - 1) * (of.dim + 2))
        return found

    moments = [[of[letter * j].value for j in (1, 2, 3)] for letter in ("H", S)]
    null = HaarNull.from_traces(moments[0], moments[1], of.dim)
    # NaN without curvature or without noise, where there is no angle
    scale = (moments[0][1] * moments[1][1]) ** 0.5 or np.nan
    score = of.over_root(excess, variance)
    low, high = (null.standardised_quantile(tail) for tail in TAILS)
    verdict = "aligned" if score.low > high else "opposed" if score.high < low else "unresolved"
    return {
        **of.positive(lambda t: t[S]).columns("trace"),
        **of.derived(lambda t: cosine(t, S)).columns("cosine"),
        "null_mean": null.mean / scale,
        "null_low": null.quantile(TAILS[0]) / scale,
        "null_high": null.quantile(TAILS[1]) / scale,
        **of.positive(lambda t: of.dim * t["H" + S] / (t["H"] * t[S])).columns("ratio"),  # (2)
        **score.columns("score"),
        **of.derived(lambda t: t[S] / t[whole]).columns("share"),
        **of.derived(lambda t: cosine(t, whole)).columns("part"),
        "verdict": verdict,
    }


def _centred_share(t: Mapping[str, np.ndarray], letter: str, dim: int) -> np.ndarray:
    """Return |A_0|_F^2 / |A|_F^2 of A_0 = A - (tr A / D) I; 0 where it is a rounding error."""
    share: np.ndarray = 1 - t[letter] ** 2 / (dim * t[2 * letter])
    return np.where(np.abs(share) < ROUNDING, 0.0, share)


@entry_point
def overlap(hessian: LinearOperator, covariance: LinearOperator, count: int = 10) -> dict[str, float]:
    """Return the overlap (4) of leading eigenvectors, the mean squared cosine of the principal angles.

    Cost: two runs of the Lanczos algorithm.

    Args:
        hessian: symmetric operator, D x D.
        covariance: symmetric operator, D x D.
        count: number k of eigenvectors of each.

    Returns:
        `overlap`, its null `overlap_null_mean` = k/D and `overlap_null_high` (97.5%), `largest_cosine` of the principal
        angles, and both leading eigenvalues.
    """
    check_dimension(check_operator("hessian", hessian).shape[0])
    check_operator("covariance", covariance, hessian.shape[0])
    first, second = (leading_eigenpairs(operator, count) for operator in (hessian, covariance))
    inner = first.vectors.T @ second.vectors
    projections = (float(count),) * 3
    null = HaarNull.from_traces(projections, projections, hessian.shape[0])
    return {
        "overlap": float((inner**2).sum()) / count,  # (4)
        "overlap_null_mean": null.mean / count,
        "overlap_null_high": null.quantile(TAILS[1]) / count,
        "largest_cosine": float(np.linalg.norm(inner, 2)),
        "top_hessian": float(first.values[0]),
        "top_covariance": float(second.values[0]),
    }
