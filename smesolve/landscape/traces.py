"""Traces of products of symmetric operators, with intervals.

Hutch++ (Meyer, Musco, Musco, Woodruff, SOSA 2021): with Q an orthonormal basis of what the operators make of a few
random vectors and P = I - Q Q^T,

    tr W = tr(Q^T W Q) + tr(P W P),      tr(P W P) = E z^T P W P z  for random signs z.

The first term is exact and holds the leading part; the second is a mean of independent samples, so it has an interval
conditionally on Q. All traces are taken with the same vectors, which the jackknife leaves out one by one: ratios of
traces get their interval as a whole. Where the budget of vectors reaches D, unit vectors take their place and the
traces are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.arguments import Instance, Parameters, checked
from smesolve.errors import SmesolveError
from smesolve.landscape.estimates import Estimate, Interval, over_root
from smesolve.landscape.jackknife import LeftOut, jackknife, pairs_of, without_samples
from smesolve.landscape.operators import DRAWS, check_draws

__all__ = ["Traces", "frobenius_norm", "sampled_covariance_error", "sampled_traces", "trace", "traces"]

CHUNK = 64
"""Vectors that are multiplied together: memory CHUNK D numbers an operator."""

Function = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Of traces by word, each an array of any shape."""


@dataclass(frozen=True)
class Traces:
    """Traces of words in the operators' names, such as "H", "HS" for tr(H S), with what their errors have in common."""

    words: tuple[str, ...]
    values: np.ndarray
    """(W,)."""
    samples: tuple[LeftOut, ...]
    """Independent sets of samples from which the traces are known; none where they are exact."""
    dim: int
    """D."""

    def __getitem__(self, word: str) -> Estimate:
        return self.derived(lambda t: t[word])

    def derived(self, function: Function) -> Estimate:
        """A smooth function of the traces, such as a ratio, with its interval by the jackknife."""
        return self._jackknife(function)[0]

    def positive(self, function: Function) -> Interval:
        """A function with positive values, with the interval of its logarithm: means of squares are skewed."""
        replicates = [self.values, *(part.one for part in self.samples), *(part.two for part in self.samples)]
        with np.errstate(divide="ignore", invalid="ignore"):
            has_logarithm = all((np.asarray(function(self._by_word(part))) > 0).all() for part in replicates)
        if not has_logarithm:
            plain = self.derived(function)
            return Interval(plain.value, plain.low, plain.high)
        logarithm = self.derived(lambda t: np.log(function(t)))
        low, value, high = np.exp([logarithm.low, logarithm.value, logarithm.high])
        return Interval(float(value), float(low), float(high))

    def over_root(self, numerator: Function, square: Function) -> Interval:
        """numerator / sqrt(square) of two smooth functions of the traces.

        By the jackknife, or by `estimates.over_root` where the square is known to no better than half of itself: there
        a root is far from linear.
        """
        (a, firsts), (b, seconds) = self._jackknife(numerator), self._jackknife(square)
        if b.half < b.value / 2:
            found = self.derived(lambda t: numerator(t) / np.sqrt(square(t)))
            return Interval(found.value, found.low, found.high)
        parts = (np.cov(first, second)[0, 1] / len(first) for first, second in zip(firsts, seconds, strict=True))
        return over_root(a, b, float(sum(parts)))

    def _jackknife(self, function: Function) -> tuple[Estimate, list[np.ndarray]]:
        return jackknife(lambda values: function(self._by_word(values)), self.values, self.samples)

    def _by_word(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.words, np.moveaxis(values, -1, 0), strict=True))


@checked(words=Instance((str,), "a word"), operators=Instance((LinearOperator,), "a LinearOperator"))
def traces(operators: Mapping[str, LinearOperator], words: Sequence[str], probes: int = 100, seed: int = 0) -> Traces:
    """Traces of products of symmetric operators.

    Args:
        operators: symmetric D x D operators by one-letter names.
        words: what to take the trace of: "H", "HS", "HHH", up to three letters.
        probes: vectors in all; a third of them goes into the basis Q, shared out among the operators.
        seed: of the random vectors.

    Returns:
        Estimates; exact for probes >= D. Cost: about one product (two for words of three
        letters) a vector and operator, and as many more for the basis. Memory: probes/3 + 64 vectors.

    Raises:
        SmesolveError: fewer than 12 probes, or than 4 more than operators, unless D is smaller still.
    """
    dim = next(iter(operators.values())).shape[0]
    for word in words:
        if not 1 <= len(word) <= 3 or not operators.keys() >= set(word):
            raise SmesolveError(f"words must be of one to three letters of {', '.join(operators)}, got {word!r}.")
    least = max(12, len(operators) + 4)
    if probes < min(least, dim):
        raise SmesolveError(f"probes must be at least {least}, got {probes!r}: fewer leave no sample for an interval.")
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
    rows = exact + np.concatenate(samples, axis=1).T
    return Traces(tuple(words), rows.mean(0), (without_samples(rows),), dim)


@checked
def trace(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Estimate:
    """tr(A) of a symmetric operator; see `traces`."""
    return traces({"A": operator}, ["A"], probes, seed)["A"]


@checked
def frobenius_norm(operator: LinearOperator, probes: int = 100, seed: int = 0) -> Interval:
    """|A|_F = sqrt(tr(A A)) of a symmetric operator; see `traces`."""
    return traces({"A": operator}, ["AA"], probes, seed).positive(lambda of: np.sqrt(of["AA"]))


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
def sampled_covariance_error(gradients: Tensor, mean: Tensor) -> tuple[Interval, float]:
    """Frobenius norm of Sigma, and the relative error of its sampled estimate, from N >= 5 independent gradients.

    With centred c_j: |Sigma|_F^2 = E (c_i . c_j)^2 over independent pairs, and the estimate Sigma_N of
    `sampled_covariance_operator` has E |Sigma_N - Sigma|_F^2 = (E |c|^4 - |Sigma|_F^2) / N.

    Args:
        gradients: (N, D).
        mean: (D,), their known mean.

    Returns:
        |Sigma|_F with its interval, and sqrt(E |Sigma_N - Sigma|_F^2) / |Sigma|_F. Memory N^2 numbers.
    """
    check_draws("gradients", gradients, len(mean), mean.dtype, "mean")
    squares, gram = _products("gradients", gradients - mean)
    found = Traces(("S", "SS", "SSS"), *_moments(squares, gram), len(mean))
    squared = float(found.values[1])
    if not squared:
        return Interval(0.0, 0.0, 0.0), 0.0
    variance = max(float((squares**2).mean()) - squared, 0.0) / len(squares)
    return found.positive(lambda t: np.sqrt(t["SS"])), (variance / squared) ** 0.5


def _products(name: str, centred: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """|c_j|^2 (N,), and c_i . c_j (N, N) with zeros on the diagonal."""
    if len(centred) < 5:
        raise SmesolveError(f"{name} must hold at least 5 draws, got {len(centred)}.")
    gram = (centred.double() @ centred.double().mT).cpu().numpy()
    squares = gram.diagonal().copy()
    np.fill_diagonal(gram, 0.0)
    return squares, gram


def _moments(squares: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, tuple[LeftOut]]:
    """tr S, tr S^2 and tr S^3 as U-statistics of all draws, and without one and without two of them."""
    N, squared, paths = len(gram), gram**2, gram @ gram
    pairs = pairs_of(N)
    i, j = pairs
    twice, thrice = squared.sum(1), (paths * gram).sum(1)
    sums = np.array([squares.sum(), twice.sum(), thrice.sum()])
    # A draw is in one place of |c|^2, in two of (c . c')^2, in three of (c . c')(c' . c'')(c'' . c).
    single = np.stack([squares, 2 * twice, 3 * thrice], axis=1)
    # taken away twice with both draws of a pair: what they have with each other
    both = np.stack([np.zeros(len(i)), 2 * squared[i, j], 6 * gram[i, j] * paths[i, j]], axis=1)

    def tuples(n: int) -> np.ndarray:
        return np.array([n, n * (n - 1), n * (n - 1) * (n - 2)], dtype=float)

    left_out = LeftOut((sums - single) / tuples(N - 1), (sums - single[i] - single[j] + both) / tuples(N - 2), pairs)
    return sums / tuples(N), (left_out,)


@checked(noise=DRAWS)
def sampled_traces(operator: LinearOperator, noise: Tensor, probes: int = 100, seed: int = 0) -> Traces:
    """Traces of H and of a covariance S = E c c^T that is known by N independent draws c of mean zero.

    tr(H S) = E c^T H c, tr S^2 = E (c . c')^2 and tr S^3 = E (c . c')(c' . c'')(c'' . c) over independent draws: all
    are means or U-statistics, hence unbiased, and the jackknife leaves out draws and probes. The naive tr S_N^2 of the
    sampled S_N is not unbiased: it is too large by about (tr S)^2 / N.

    Args:
        operator: H, symmetric.
        noise: (N, D), N >= 5.
        probes: vectors for tr H, tr H^2 and tr H^3.
        seed: of these.

    Returns:
        Estimates of "H", "HH", "HHH", "S", "SS", "SSS", "HS". Cost: N + 3 probes products; memory N D + N^2.
    """
    check_draws("noise", noise, operator.shape[0], noise.dtype, "operator")
    squares, gram = _products("noise", noise)
    alone = traces({"H": operator}, ["H", "HH", "HHH"], probes, seed)
    rows = noise.double().cpu().numpy()
    images = np.concatenate([operator @ part.T for part in np.array_split(rows, -(-len(rows) // CHUNK))], axis=1).T
    moments, (of_moments,) = _moments(squares, gram)
    products = (rows * images).sum(1)
    of_products = without_samples(products[:, None])
    draws = LeftOut(
        np.hstack([of_moments.one, of_products.one]), np.hstack([of_moments.two, of_products.two]), of_moments.pairs
    )
    noise_values = np.append(moments, products.mean())
    values = np.concatenate([alone.values, noise_values])
    samples = [_beside(draws, alone.values, None), *(_beside(part, None, noise_values) for part in alone.samples)]
    return Traces(("H", "HH", "HHH", "S", "SS", "SSS", "HS"), values, tuple(samples), operator.shape[0])


def _beside(left_out: LeftOut, before: np.ndarray | None, after: np.ndarray | None) -> LeftOut:
    """With statistics of other samples beside its own, which stay as they are."""

    def widened(rows: np.ndarray) -> np.ndarray:
        constants = [None if part is None else np.tile(part, (len(rows), 1)) for part in (before, after)]
        return np.hstack([part for part in (constants[0], rows, constants[1]) if part is not None])

    return LeftOut(widened(left_out.one), widened(left_out.two), left_out.pairs)
