"""Alignment of the Hessian H with the covariance Sigma of the gradient noise, beside its null model.

Three statistics of tr(H Sigma), which differ by factors that the two spectra fix:

    cosine   tr(H Sigma) / (|H|_F |Sigma|_F)                  Zhang, Li, Luo, Xu (ICLR 2024)
    ratio    D tr(H Sigma) / (tr H tr Sigma)                  1 for isotropic noise, Zhu et al. (ICML 2019)
    score    (tr(H Sigma) - mean) / standard deviation        under the null: `smesolve.landscape.haar_null`

and the overlap |U_k^T V_k|_F^2 / k of the leading eigenvectors of both, with its own null. A cosine has no natural
scale: the null's mean tr H tr Sigma / (D |H|_F |Sigma|_F) is what random eigenvectors with the SAME eigenvalues give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.arguments import INDEX, Instance, checked
from smesolve.comparison.confidence import CONFIDENCE
from smesolve.errors import SmesolveError
from smesolve.landscape.haar_null import haar_null
from smesolve.landscape.operators import (
    DRAWS,
    batch_of_one_operator,
    covariance_operator,
    gradient_term_operator,
    hessian_operator,
    pair_term_operator,
)
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.landscape.traces import Traces, sampled_traces, traces
from smesolve.problem.dropout import DropoutProblem

__all__ = ["COVARIANCES", "AlignmentStudy", "alignment", "alignment_along", "overlap", "sampled_alignment"]

COVARIANCES: dict[str, Callable[[DropoutProblem, Tensor], LinearOperator]] = {
    "full batch": covariance_operator,
    "gradient term": gradient_term_operator,
    "pair term": pair_term_operator,
    "batch of one": batch_of_one_operator,
}
"""Noise covariances by name: dropout's exact one, its two terms (see `operators`), and the papers' approximation."""

ROUNDING = 1e-12
"""Of a share of 1."""

TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class AlignmentStudy:
    """Alignment along a training run."""

    table: pd.DataFrame
    """A row for each run, step and covariance: the columns of `alignment`, the losses, and for the first covariance the
    columns of `overlap`."""


@checked(covariances=Instance((LinearOperator,), "a LinearOperator"))
def alignment(
    hessian: LinearOperator, covariances: Mapping[str, LinearOperator], probes: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Alignment of a Hessian with each covariance.

    Args:
        hessian: symmetric D x D.
        covariances: by name; the first one is what shares are taken of.
        probes: vectors for the traces; exact from D on. See `traces`.
        seed: of the vectors.

    Returns:
        A row for each covariance, estimates with `_low` and `_high`: `trace` of the covariance, `cosine`, `ratio`,
        `score`; the null's `null_mean`, `null_low`, `null_high` of the cosine; `share` tr Sigma / tr Sigma_1 and `part`
        tr(H Sigma) / (|H|_F |Sigma_1|_F), Sigma_1 the first covariance; `verdict`: "aligned" or "opposed" where the
        interval of the score lies outside the central 95% of the null, else "unresolved". The score of a covariance
        that cannot be told from an isotropic one has an infinite end; what is 0/0, as without noise, is NaN.

    Cost: about two products a probe with each operator, half as many for the basis.
    """
    check_dimension(hessian.shape[0])
    letters = {name: chr(ord("S") + number) for number, name in enumerate(covariances)}  # S, T, ...: never H
    operators = {"H": hessian} | {letters[name]: operator for name, operator in covariances.items()}
    words = [word for letter in operators for word in (letter, 2 * letter, 3 * letter)]
    words += ["H" + letter for letter in letters.values()]
    measured = traces(operators, words, probes, seed)
    whole = next(iter(letters.values()))
    return pd.DataFrame({"covariance": name} | _row(measured, letter, whole) for name, letter in letters.items())


@checked(noise=DRAWS)
def sampled_alignment(hessian: LinearOperator, noise: Tensor, probes: int = 200, seed: int = 0) -> dict[str, object]:
    """Alignment of a Hessian with a covariance that is known by draws (N, D) of the noise, of mean zero, alone.

    Returns:
        The columns of `alignment` for this one covariance; intervals hold the errors of both the draws and the probes.
    """
    check_dimension(hessian.shape[0])
    return _row(sampled_traces(hessian, noise, probes, seed), "S", "S")


def check_dimension(dim: int) -> None:
    """Refuse dimensions in which there is no null model."""
    if dim < 3:
        raise SmesolveError(
            f"hessian must have at least 3 dimensions, got D = {dim}: there is no null model in fewer; "
            "take a larger network."
        )


def _row(of: Traces, S: str, whole: str) -> dict[str, object]:
    """One covariance S, the first one being `whole`."""

    def cosine(t: Mapping[str, np.ndarray], letter: str) -> np.ndarray:
        return t["H" + S] / np.sqrt(t["HH"] * t[2 * letter])

    # The score is a quotient of two numbers without scale: where draws tell little of the size of S, they may well
    # tell its shape.
    def excess(t: Mapping[str, np.ndarray]) -> np.ndarray:
        return (t["H" + S] - t["H"] * t[S] / of.dim) / np.sqrt(t["HH"] * t[2 * S])

    def variance(t: Mapping[str, np.ndarray]) -> np.ndarray:
        squares = _centred_share(t, "H", of.dim) * _centred_share(t, S, of.dim)
        return 2 * squares / ((of.dim - 1) * (of.dim + 2))

    moments: Any = [tuple(float(of[letter * j].value) for j in (1, 2, 3)) for letter in ("H", S)]
    null = haar_null(moments[0], moments[1], of.dim)
    # without curvature or without noise there is no angle, and NaN says so
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
        **of.positive(lambda t: of.dim * t["H" + S] / (t["H"] * t[S])).columns("ratio"),
        **score.columns("score"),
        **of.derived(lambda t: t[S] / t[whole]).columns("share"),
        **of.derived(lambda t: cosine(t, whole)).columns("part"),
        "verdict": verdict,
    }


def _centred_share(t: Mapping[str, np.ndarray], letter: str, dim: int) -> np.ndarray:
    """|A_0|_F^2 / |A|_F^2 of A_0 = A - (tr A / D) I; 0 where it is rounding."""
    share = 1 - t[letter] ** 2 / (dim * t[2 * letter])
    return np.where(np.abs(share) < ROUNDING, 0.0, share)


@checked
def overlap(hessian: LinearOperator, covariance: LinearOperator, count: int = 10) -> dict[str, float]:
    """Overlap |U^T V|_F^2 / k of the `count` = k leading eigenvectors of both: the mean squared cosine of the angles.

    Returns:
        `overlap`, its null `overlap_null_mean` = k/D and `overlap_null_high` (97.5%), `largest_cosine` of the principal
        angles, and both leading eigenvalues. Cost: two Lanczos runs.
    """
    first, second = (leading_eigenpairs(operator, count) for operator in (hessian, covariance))
    inner = first.vectors.T @ second.vectors
    projections = (float(count),) * 3
    null = haar_null(projections, projections, hessian.shape[0])
    return {
        "overlap": float((inner**2).sum()) / count,
        "overlap_null_mean": null.mean / count,
        "overlap_null_high": null.quantile(TAILS[1]) / count,
        "largest_cosine": float(np.linalg.norm(inner, 2)),
        "top_hessian": float(first.values[0]),
        "top_covariance": float(second.values[0]),
    }


def check_eigenpairs(problem: DropoutProblem, eigenpairs: int) -> None:
    """Refuse as many eigenvectors as parameters, or more: they span all directions."""
    if eigenpairs >= problem.dim:
        raise SmesolveError(f"eigenpairs must be below the number of parameters D = {problem.dim}, got {eigenpairs}.")


@checked(steps=INDEX)
def alignment_along(
    problem: DropoutProblem,
    states: Tensor,
    steps: Sequence[int],
    covariances: Sequence[str] = tuple(COVARIANCES),
    probes: int = 200,
    eigenpairs: int = 10,
    seed: int = 0,
) -> AlignmentStudy:
    """Alignment of Hess L_S with the noise at the states of training runs.

    Args:
        problem: whose noise and Hessian.
        states: (T, B, D), as `iterate` returns them: B runs.
        steps: the T step numbers.
        covariances: names in `COVARIANCES`; the first one is what shares are taken of.
        probes: vectors for the traces of one state.
        eigenpairs: k of the overlap.
        seed: of the vectors.
    """
    for name in covariances:
        if name not in COVARIANCES:
            raise SmesolveError(f"covariances must hold names of {', '.join(COVARIANCES)}, got {name!r}.")
    check_eigenpairs(problem, eigenpairs)
    frames = []
    for step, row in zip(steps, states, strict=True):
        for run, theta in enumerate(row):
            hessian = hessian_operator(problem, theta)
            operators = {name: COVARIANCES[name](problem, theta) for name in covariances}
            frame = alignment(hessian, operators, probes, seed)
            frame.insert(0, "run", run)
            frame.insert(0, "step", step)
            frame["loss"] = float(problem.loss(theta))
            frame["modified_loss"] = float(problem.modified_loss(theta))
            whole = frame.covariance == covariances[0]
            for key, value in overlap(hessian, operators[covariances[0]], eigenpairs).items():
                frame.loc[whole, key] = value
            frames.append(frame)
    return AlignmentStudy(pd.concat(frames, ignore_index=True))
