"""Traces of products of symmetric operators, with intervals.

Hutch++ (Meyer, Musco, Musco, Woodruff, SOSA 2021): with Q an orthonormal basis of what the operators make of a few
random vectors and P = I - Q Q^T,

    tr W = tr(Q^T W Q) + tr(P W P),      tr(P W P) = E z^T P W P z  for random signs z.

The first term is exact and holds the leading part; the second is a mean of independent samples, so it has Student's
interval, conditionally on Q. All traces are taken with the same vectors: ratios of them get their interval from the
joint covariance. Where the budget of vectors reaches D, unit vectors take their place and the traces are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.arguments import Instance, Parameters, checked
from smesolve.landscape.estimates import Estimate, Interval, over_root
from smesolve.landscape.operators import DRAWS, check_draws

__all__ = ["Traces", "frobenius_norm", "sampled_covariance_error", "sampled_traces", "trace", "traces"]

CHUNK = 64
"""Vectors that are multiplied together: memory CHUNK D numbers an operator."""


@dataclass(frozen=True)
class Traces:
    """Traces of words in the operators' names, such as "H", "HS" for tr(H S), with their joint covariance."""

    words: tuple[str, ...]
    values: np.ndarray
    """(W,)."""
    covariance: np.ndarray
    """(W, W), of the estimates; zero where they are exact."""
    freedom: float
    """Degrees of freedom of the intervals."""
    dim: int
    """D."""

    def __getitem__(self, word: str) -> Estimate:
        i = self.words.index(word)
        return Estimate(float(self.values[i]), float(self.covariance[i, i]) ** 0.5, self.freedom)

    def derived(self, function: Callable[[Mapping[str, Tensor]], Tensor]) -> Estimate:
        """A smooth function of the traces, such as a ratio, with its interval by the delta method."""
        value, slope = self._linearised(function)
        return Estimate(value, self._covariance(slope, slope) ** 0.5, self.freedom)

    def over_root(
        self, numerator: Callable[[Mapping[str, Tensor]], Tensor], square: Callable[[Mapping[str, Tensor]], Tensor]
    ) -> Interval:
        """numerator / sqrt(square) of two smooth functions of the traces; see `estimates.over_root`."""
        slopes = [self._linearised(function)[1] for function in (numerator, square)]
        return over_root(self.derived(numerator), self.derived(square), self._covariance(*slopes))

    def _covariance(self, first: np.ndarray, second: np.ndarray) -> float:
        """Of two linear functions of the traces; NaN where one of them has no slope, as at 0/0."""
        with np.errstate(invalid="ignore"):
            covariance = float(first @ self.covariance @ second)
        return max(covariance, 0.0) if first is second else covariance

    def _linearised(self, function: Callable[[Mapping[str, Tensor]], Tensor]) -> tuple[float, np.ndarray]:
        """Value and gradient of a function of the traces."""

        def of_vector(values: Tensor) -> Tensor:
            return function(dict(zip(self.words, values, strict=True)))

        slope, value = torch.func.grad_and_value(of_vector)(torch.from_numpy(self.values))
        return float(value), slope.numpy()


@checked(words=Instance((str,), "a word"), operators=Instance((LinearOperator,), "a LinearOperator"))
def traces(operators: Mapping[str, LinearOperator], words: Sequence[str], probes: int = 100, seed: int = 0) -> Traces:
    """Traces of products of symmetric operators.

    Args:
        operators: symmetric D x D operators by one-letter names.
        words: what to take the trace of: "H", "HS", "HHH", up to three letters.
        probes: vectors in all; a third of them goes into the basis Q, shared out among the operators.
        seed: of the random vectors.

    Returns:
        Estimates with joint covariance; exact for probes >= D. Cost: about one product (two for words of three
        letters) a vector and operator, and as many more for the basis. Memory: probes/3 + 64 vectors.

    Raises:
        ValueError: fewer than 12 probes, or than 4 more than operators, unless D is smaller still.
    """
    dim = next(iter(operators.values())).shape[0]
    for word in words:
        if not 1 <= len(word) <= 3 or not operators.keys() >= set(word):
            raise ValueError(f"words must be of one to three letters of {', '.join(operators)}, got {word!r}.")
    least = max(12, len(operators) + 4)
    if probes < min(least, dim):
        raise ValueError(f"probes must be at least {least}, got {probes!r}: fewer leave no sample for an interval.")
    if probes >= dim:
        values = _quadratic(operators, words, np.eye(dim)).sum(1)
        return Traces(tuple(words), values, np.zeros((len(words),) * 2), np.inf, dim)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    share = max(1, probes // 3 // len(operators))
    sketch = [operator @ generator.standard_normal((dim, share)) for operator in operators.values()]
    basis, _ = np.linalg.qr(np.concatenate(sketch, axis=1))
    exact = _quadratic(operators, words, basis).sum(1)
    samples = []
    left = probes - basis.shape[1]
    while left > 0:
        signs = generator.choice([-1.0, 1.0], size=(dim, min(left, CHUNK)))
        samples.append(_quadratic(operators, words, signs - basis @ (basis.T @ signs)))
        left -= CHUNK
    rest = np.concatenate(samples, axis=1)
    count = rest.shape[1]
    covariance = np.atleast_2d(np.cov(rest)) / count
    return Traces(tuple(words), exact + rest.mean(1), covariance, count - 1, dim)


@checked
def trace(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Estimate:
    """tr(A) of a symmetric operator; see `traces`."""
    return traces({"A": operator}, ["A"], probes, seed)["A"]


@checked
def frobenius_norm(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Estimate:
    """|A|_F = sqrt(tr(A A)) of a symmetric operator; see `traces`."""
    return traces({"A": operator}, ["AA"], probes, seed).derived(lambda of: of["AA"].sqrt())


def _quadratic(operators: Mapping[str, LinearOperator], words: Sequence[str], X: np.ndarray) -> np.ndarray:
    """x^T W x for every word (rows) and column x of X (columns); products are shared between words."""
    images = {"": X}

    def image(word: str) -> np.ndarray:
        if word not in images:
            images[word] = operators[word[0]] @ image(word[1:])
        return images[word]

    # x^T A B C x = (A x) . (B C x): at most two products deep.
    return np.stack([(image(word[: len(word) // 2][::-1]) * image(word[len(word) // 2 :])).sum(0) for word in words])


@checked(gradients=DRAWS, mean=Parameters())
def sampled_covariance_error(gradients: Tensor, mean: Tensor) -> tuple[Estimate, float]:
    """Frobenius norm of Sigma, and the relative error of its sampled estimate, from N >= 4 independent gradients.

    With centred c_j: |Sigma|_F^2 = E (c_i . c_j)^2 over independent pairs, and the estimate Sigma_N of
    `sampled_covariance_operator` has E |Sigma_N - Sigma|_F^2 = (E |c|^4 - |Sigma|_F^2) / N.

    Args:
        gradients: (N, D).
        mean: (D,), their known mean.

    Returns:
        |Sigma|_F with its interval (a U-statistic, by its projection on single gradients), and
        sqrt(E |Sigma_N - Sigma|_F^2) / |Sigma|_F. Memory N^2 numbers.
    """
    check_draws("gradients", gradients, len(mean), mean.dtype, "mean")
    squares, gram = _products("gradients", gradients - mean)
    N = len(squares)
    others, squared_variance = _pair_means(gram)
    squared = float(others.mean())
    norm = squared**0.5
    variance = max(float((squares**2).mean()) - squared, 0.0) / N
    if not norm:
        return Estimate(0.0), 0.0
    return Estimate(norm, squared_variance**0.5 / (2 * norm), N - 1), variance**0.5 / norm


def _products(name: str, centred: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """|c_j|^2 (N,), and c_i . c_j (N, N) with zeros on the diagonal."""
    if len(centred) < 4:
        raise ValueError(f"{name} must hold at least 4 draws, got {len(centred)}.")
    gram = (centred.double() @ centred.double().mT).cpu().numpy()
    squares = gram.diagonal().copy()
    np.fill_diagonal(gram, 0.0)
    return squares, gram


def _pair_means(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """Means over j of (c_i . c_j)^2 for each i (N,), and the variance of their mean U, a U-statistic of degree 2.

    With P the variance of the means over i and h that of single pairs, Hoeffding's formula for Var U is without bias

        4 P/N - 2 h/(N (N - 1)),    at least    2 h/(N (N - 1)),

    its value where single draws tell nothing of their pairs.
    """
    N = len(gram)
    pairs = gram[~np.eye(N, dtype=bool)] ** 2
    means = (gram**2).sum(1) / (N - 1)
    least = 2 * float(pairs.var()) / (N * (N - 1))
    return means, max(4 * float(means.var(ddof=1)) / N - least, least)


@checked(noise=DRAWS)
def sampled_traces(operator: LinearOperator, noise: Tensor, probes: int = 100, seed: int = 0) -> Traces:
    """Traces of H and of a covariance S = E c c^T that is known by N independent draws c of mean zero.

    tr(H S) = E c^T H c, tr S^2 = E (c . c')^2 and tr S^3 = E (c . c')(c' . c'')(c'' . c) over independent draws: all
    are means or U-statistics, hence unbiased, with standard errors from their projections on single draws. The naive
    tr S_N^2 of the sampled S_N is not: it is too large by about (tr S)^2 / N.

    Args:
        operator: H, symmetric.
        noise: (N, D), N >= 4.
        probes: vectors for tr H, tr H^2 and tr H^3.
        seed: of these.

    Returns:
        Estimates of "H", "HH", "HHH", "S", "SS", "SSS", "HS". Cost: N + 3 probes products; memory N D + N^2.
    """
    check_draws("noise", noise, operator.shape[0], noise.dtype, "operator")
    squares, gram = _products("noise", noise)
    N = len(noise)
    alone = traces({"H": operator}, ["H", "HH", "HHH"], probes, seed)
    rows = noise.double().cpu().numpy()
    images = np.concatenate([operator @ part.T for part in np.array_split(rows, -(-N // CHUNK))], axis=1).T
    pairs, pair_variance = _pair_means(gram)
    single = [squares, pairs, ((gram @ gram) * gram).sum(1) / ((N - 1) * (N - 2)), (rows * images).sum(1)]
    values = np.concatenate([alone.values, np.mean(single, axis=1)])
    covariance = np.zeros((7, 7))
    covariance[:3, :3] = alone.covariance
    # A U-statistic of degree k has k times the fluctuation of its projection.
    covariance[3:, 3:] = np.cov(np.array(single) * np.array([[1], [2], [3], [1]])) / N
    scale = np.ones(7)
    scale[4] = (pair_variance / covariance[4, 4]) ** 0.5 if pair_variance else 0.0
    covariance *= scale[:, None] * scale  # so that no combination of traces has a negative variance
    words = ("H", "HH", "HHH", "S", "SS", "SSS", "HS")
    return Traces(words, values, covariance, min(alone.freedom, N - 1), operator.shape[0])
