"""Likelihoods of generalised linear models: -log p(y_i | f_i) = a(f_i) - <y_i, f_i> + const, outputs f (..., o).

The Fisher information of one sample's outputs is F = Hess a(f); the targets do not enter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from smesolve.errors import SmesolveError

__all__ = ["LIKELIHOODS", "Likelihood", "likelihood_named"]


@dataclass(frozen=True)
class Likelihood:
    """One likelihood by its log-partition function a."""

    partition: Callable[[Tensor], Tensor]
    """a(f): (..., o) -> (...,)."""
    information: Callable[[Tensor, Tensor], Tensor]
    """F d for f and d (..., o)."""

    def quadratic(self, f: Tensor, d: Tensor) -> Tensor:
        """d^T F d (...,)."""
        return (d * self.information(f, d)).sum(-1)


def _softmax_information(f: Tensor, d: Tensor) -> Tensor:
    """(diag p - p p^T) d."""
    weighted = f.softmax(-1) * d
    return weighted - f.softmax(-1) * weighted.sum(-1, keepdim=True)


LIKELIHOODS = {
    "gaussian": Likelihood(lambda f: f.square().sum(-1) / 2, lambda f, d: d),
    "categorical": Likelihood(lambda f: f.logsumexp(-1), _softmax_information),
}
"""By name: the unit-variance normal law around the outputs, and the categorical law with the outputs as logits."""


def likelihood_named(name: str) -> Likelihood:
    """The likelihood of a name in `LIKELIHOODS`.

    Raises:
        SmesolveError: an unknown name.
    """
    if name not in LIKELIHOODS:
        raise SmesolveError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {name!r}.")
    return LIKELIHOODS[name]
