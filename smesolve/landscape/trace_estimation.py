"""Traces of products of symmetric operators, with intervals.

Hutch++ (Meyer, Musco, Musco, Woodruff, SOSA 2021): with Q an orthonormal basis of the products of the operators with a
few random vectors, and P = I - Q Q^T,

    tr W = tr(Q^T W Q) + tr(P W P),      tr(P W P) = E z^T P W P z  for random signs z.                              (1)

The first term is exact and holds the leading part. The second is a mean of independent samples, whose interval is
conditional on Q. All traces are computed with the same vectors, which the jackknife leaves out one by one, so that a
ratio of traces gets one joint interval. With D vectors or more, unit vectors are used, and the traces are exact.

For a covariance S that is known only from N independent draws c of mean zero,

    tr(H S) = E c^T H c,    tr S^2 = E (c . c')^2,    tr S^3 = E (c . c')(c' . c'')(c'' . c)                         (2)

over independent draws: means or U-statistics, hence unbiased. tr S_N^2 of the sampled S_N is not: it is too large by
about (tr S)^2 / N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.landscape.estimates import Estimate, Interval, over_root
from smesolve.landscape.jackknife import LeftOut, jackknife, pairs_of, without_samples
from smesolve.landscape.operators import check_sampled_noise
from smesolve.landscape.spectrum import check_operator, check_operators
from smesolve.validation import check_instance, check_integer, check_list, check_seed, check_tensor

__all__ = ["Traces", "frobenius_norm", "sampled_covariance_error", "sampled_traces", "trace", "traces"]

CHUNK = 64
"""Number of vectors in one product: memory CHUNK D floats per operator."""

Function = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""A function of traces, which are arrays of any shape, by word."""


@dataclass(frozen=True)
class Traces:
    """Traces of words in the names of operators, such as "H" or "HS" for tr(H S), with their joint errors."""

    words: tuple[str, ...]
    values: np.ndarray
    """(W,)."""
    samples: tuple[LeftOut, ...]
    """Independent sets of samples behind the traces; none if they are exact."""
    dim: int
    """D."""

    def __getitem__(self, word: str) -> Estimate:
        return self.derived(lambda t: t[word])

    def derived(self, function: Function) -> Estimate:
        """Return a smooth function of the traces, such as a ratio, with its interval by the jackknife."""
        return self._jackknife(function)[0]

    def positive(self, function: Function) -> Interval:
        """Return a positive function of the traces, with an interval from its logarithm, as means of squares are
        skewed."""
        replicates = [self.values, *(part.one for part in self.samples), *(part.two for part in self.samples)]
        with np.errstate(divide="ignore", invalid="ignore"):
            has_logarithm = all((np.asarray(function(self._by_word(part))) > 0).all() for part in replicates)
        if not has_logarithm:
            return self.derived(function).interval
        logarithm = self.derived(lambda t: np.log(function(t)))
        low, value, high = np.exp([logarithm.low, logarithm.value, logarithm.high])
        return Interval(float(value), float(low), float(high))

    def over_root(self, numerator: Function, square: Function) -> Interval:
        """Return numerator / sqrt(square) of two smooth functions of the traces.

        The interval comes from the jackknife, or from `estimates.over_root` where the half-width of the square's
        interval is at least half of the square, so that the root is far from linear.
        """
        (a, firsts), (b, seconds) = self._jackknife(numerator), self._jackknife(square)
        if b.half < b.value / 2:
            return self.derived(lambda t: numerator(t) / np.sqrt(square(t))).interval
        parts = (np.cov(first, second)[0, 1] / len(first) for first, second in zip(firsts, seconds, strict=True))
        return over_root(a, b, float(sum(parts)))

    def _jackknife(self, function: Function) -> tuple[Estimate, list[np.ndarray]]:
        return jackknife(lambda values: function(self._by_word(values)), self.values, self.samples)

    def _by_word(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.words, np.moveaxis(values, -1, 0), strict=True))


@entry_point
def traces(operators: Mapping[str, LinearOperator], words: Sequence[str], probes: int = 100, seed: int = 0) -> Traces:
    """Estimate traces of products of symmetric operators by (1).

    Cost: about one product (two for words of three letters) per vector and operator, for probes and basis alike.
    Memory: probes/3 + 64 vectors.

    Args:
        operators: symmetric D x D operators by one-letter names.
        words: products whose traces are estimated, such as "H", "HS", "HHH", of up to three letters.
        probes: number of vectors, of which a third are for the basis Q, shared among the operators. At least 12, and 4
            more than the number of operators, unless D is smaller.
        seed: seed of the random vectors.

    Raises:
        SmesolveError: bad arguments, such as operators of different sizes, or too few probes for an interval.

    Returns:
        Estimates, which are exact for probes >= D.
    """
    operators = check_operators("operators", operators)
    words = check_list("words", words, lambda name, word: check_instance(name, word, str, "a string"))
    dim = next(iter(operators.values())).shape[0]
    for k, word in enumerate(words):
        if not 1 <= len(word) <= 3 or not operators.keys() >= set(word):
            raise invalid(f"words[{k}]", f"be one to three letters of {', '.join(map(str, operators))}", word)
    least = min(max(12, len(operators) + 4), dim)
    check_integer("probes", probes, least, remedy="fewer leave no sample for an interval")
    check_seed("seed", seed)
    if probes >= dim:
        values = _quadratic(operators, words, np.eye(dim)).sum(1)
        return Traces(tuple(words), values, (), dim)
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
    rows = exact + np.concatenate(samples, axis=1).T  # (1), one row for each z
    return Traces(tuple(words), rows.mean(0), (without_samples(rows),), dim)


@entry_point
def trace(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Estimate:
    """Estimate tr(A) of a symmetric operator; see `traces`."""
    check_operator("operator", operator)
    return traces({"A": operator}, ["A"], probes, seed)["A"]


@entry_point
def frobenius_norm(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Interval:
    """Estimate |A|_F = sqrt(tr(A A)) of a symmetric operator; see `traces`."""
    check_operator("operator", operator)
    return traces({"A": operator}, ["AA"], probes, seed).positive(lambda of: np.sqrt(of["AA"]))


def _quadratic(operators: Mapping[str, LinearOperator], words: Sequence[str], X: np.ndarray) -> np.ndarray:
    """Return x^T W x for every word (rows) and column x of X (columns); products are shared between words."""
    images = {"": X}

    def image(word: str) -> np.ndarray:
        if word not in images:
            images[word] = operators[word[0]] @ image(word[1:])
        return images[word]

    # x^T A B C x = (A x) . (B C x): at most two products deep.
    return np.stack([(image(word[: len(word) // 2][::-1]) * image(word[len(word) // 2 :])).sum(0) for word in words])


@entry_point
def sampled_covariance_error(gradients: Tensor, mean: Tensor) -> tuple[Interval, float]:
    """Estimate |Sigma|_F, and the relative error of the sampled Sigma, from N >= 5 independent gradients.

    With centred c_j: |Sigma|_F^2 = E (c_i . c_j)^2 over independent pairs, and the estimate Sigma_N of
    `sampled_covariance_operator` has E |Sigma_N - Sigma|_F^2 = (E |c|^4 - |Sigma|_F^2) / N.

    Args:
        gradients: independent gradients (N, D).
        mean: their known mean (D,).

    Returns:
        |Sigma|_F with its interval, and sqrt(E |Sigma_N - Sigma|_F^2) / |Sigma|_F. Memory N^2 floats.
    """
    mean = check_tensor("mean", mean, "D")
    gradients = check_sampled_noise("gradients", gradients, len(mean), mean.dtype, "mean")
    squares, gram = _products("gradients", gradients - mean)
    found = Traces(("S", "SS", "SSS"), *_moments(squares, gram), len(mean))
    squared = float(found.values[1])
    if not squared:
        return Interval(0.0, 0.0, 0.0), 0.0
    variance = max(float((squares**2).mean()) - squared, 0.0) / len(squares)
    return found.positive(lambda t: np.sqrt(t["SS"])), (variance / squared) ** 0.5


def _products(name: str, centred: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return |c_j|^2 (N,), and c_i . c_j (N, N) with zeros on the diagonal."""
    if len(centred) < 5:
        raise invalid(name, "hold at least 5 draws", len(centred))
    gram = (centred.double() @ centred.double().mT).cpu().numpy()
    squares = gram.diagonal().copy()
    np.fill_diagonal(gram, 0.0)
    return squares, gram


def _moments(squares: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, tuple[LeftOut]]:
    """Return tr S, tr S^2 and tr S^3 of (2) from all draws, and without one and without two of them."""
    N, squared, paths = len(gram), gram**2, gram @ gram
    pairs = pairs_of(N)
    i, j = pairs
    twice, thrice = squared.sum(1), (paths * gram).sum(1)
    sums = np.array([squares.sum(), twice.sum(), thrice.sum()])
    # A draw has one place in |c|^2, two in (c . c')^2, three in (c . c')(c' . c'')(c'' . c).
    single = np.stack([squares, 2 * twice, 3 * thrice], axis=1)
    # Terms with both draws of a pair are subtracted twice below.
    both = np.stack([np.zeros(len(i)), 2 * squared[i, j], 6 * gram[i, j] * paths[i, j]], axis=1)

    def tuples(n: int) -> np.ndarray:
        return np.array([n, n * (n - 1), n * (n - 1) * (n - 2)], dtype=float)

    left_out = LeftOut((sums - single) / tuples(N - 1), (sums - single[i] - single[j] + both) / tuples(N - 2), pairs)
    return sums / tuples(N), (left_out,)


@entry_point
def sampled_traces(operator: LinearOperator, noise: Tensor, probes: int = 100, seed: int = 0) -> Traces:
    """Estimate traces of H and of a covariance S = E c c^T that is known from draws c of mean zero, by (1) and (2).

    The jackknife leaves out draws and probes. Cost: N + 3 probes products with H; memory N D + N^2.

    Args:
        operator: symmetric operator H.
        noise: independent draws (N, D), N >= 5.
        probes: vectors for tr H, tr H^2 and tr H^3.
        seed: seed of the vectors.

    Returns:
        Estimates of "H", "HH", "HHH", "S", "SS", "SSS", "HS".
    """
    check_operator("operator", operator)
    noise = check_sampled_noise("noise", noise, operator.shape[0], None, "operator")
    squares, gram = _products("noise", noise)
    of_operator = traces({"H": operator}, ["H", "HH", "HHH"], probes, seed)
    rows = noise.double().cpu().numpy()
    images = np.concatenate([operator @ part.T for part in np.array_split(rows, -(-len(rows) // CHUNK))], axis=1).T
    moments, (of_moments,) = _moments(squares, gram)
    products = (rows * images).sum(1)
    of_products = without_samples(products[:, None])
    draws = LeftOut(
        np.hstack([of_moments.one, of_products.one]), np.hstack([of_moments.two, of_products.two]), of_moments.pairs
    )
    noise_values = np.append(moments, products.mean())
    values = np.concatenate([of_operator.values, noise_values])
    samples = [
        _beside(draws, of_operator.values, None),
        *(_beside(part, None, noise_values) for part in of_operator.samples),
    ]
    return Traces(("H", "HH", "HHH", "S", "SS", "SSS", "HS"), values, tuple(samples), operator.shape[0])


def _beside(left_out: LeftOut, before: np.ndarray | None, after: np.ndarray | None) -> LeftOut:
    """Return the statistics without samples, with constant statistics of other samples before or after them."""

    def widened(rows: np.ndarray) -> np.ndarray:
        constants = [None if part is None else np.tile(part, (len(rows), 1)) for part in (before, after)]
        return np.hstack([part for part in (constants[0], rows, constants[1]) if part is not None])

    return LeftOut(widened(left_out.one), widened(left_out.two), left_out.pairs)
