"""Likelihoods of generalised linear models: -log p(y_i | f_i) = a(f_i) - <y_i, f_i> + const, outputs f (..., o).

The Fisher information of one sample's outputs is F = Hess a(f), which does not depend on the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from smesolve.validation import check_choice

__all__ = ["LIKELIHOODS", "Likelihood", "likelihood_named"]


@dataclass(frozen=True)
class Likelihood:
    """A likelihood, given by its log-partition function a."""

    partition: Callable[[Tensor], Tensor]
    """The function a: (..., o) -> (...,)."""
    information: Callable[[Tensor, Tensor], Tensor]
    """The product F d for f and d (..., o)."""

    def quadratic(self, f: Tensor, d: Tensor) -> Tensor:
        """Return d^T F d, (...,)."""
        return (d * self.information(f, d)).sum(-1)


def _softmax_information(f: Tensor, d: Tensor) -> Tensor:
    """Return (diag p - p p^T) d with the probabilities p."""
    weighted = f.softmax(-1) * d
    return weighted - f.softmax(-1) * weighted.sum(-1, keepdim=True)


LIKELIHOODS = {
    "gaussian": Likelihood(lambda f: f.square().sum(-1) / 2, lambda f, d: d),
    "categorical": Likelihood(lambda f: f.logsumexp(-1), _softmax_information),
}
"""Likelihoods by name: the normal law of unit variance around the outputs, the categorical law with these as logits."""


def likelihood_named(name: str) -> Likelihood:
    """Return the likelihood with a name in `LIKELIHOODS`."""
    return LIKELIHOODS[check_choice("likelihood", name, LIKELIHOODS)]
