"""Observables that are quadratic in theta, whose expectations follow from first and second moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable, named_observables
from smesolve.problem.one_at_a_time import hessian
from smesolve.problem.problem import Problem
from smesolve.problem.reverse_derivative import value_and_gradient
from smesolve.validation import check_observable

__all__ = ["QuadraticObservable"]


@dataclass(frozen=True)
class QuadraticObservable:
    """g(theta) = g(0) + < grad g(0), theta > + 1/2 < theta, Hess g theta >."""

    constant: Tensor
    slope: Tensor
    """grad g(0) (D,)."""
    curvature: Tensor
    """Hess g (D, D)."""

    @classmethod
    def of(cls, problem: Problem, observable: str | Observable) -> QuadraticObservable:
        """Expand an observable of a problem's parameters, given by a name or a callable.

        Raises:
            SmesolveError: the observable is not quadratic in theta.
        """
        (function,) = named_observables(problem, [check_observable("observable", observable)]).values()
        zero = torch.zeros(problem.dim, dtype=problem.dtype, device=problem.device)
        made = cls(*value_and_gradient(function, zero), hessian(function, zero))
        trial = torch.linspace(-1.3, 2.1, problem.dim, dtype=zero.dtype, device=zero.device)
        quadratic = made.constant + made.slope @ trial + 0.5 * trial @ made.curvature @ trial
        if not torch.allclose(function(trial), quadratic, rtol=1e-9, atol=1e-9):
            raise SmesolveError("observable must be quadratic in theta for exact moments; use weak_error for others.")
        return made

    def expectation(self, P: np.ndarray) -> float:
        """Return E g(theta) from the second moments P (D + 1, D + 1) of (1, theta)."""
        moments = torch.as_tensor(P, dtype=self.slope.dtype, device=self.slope.device)
        return float(self.constant + self.slope @ moments[0, 1:] + 0.5 * (self.curvature * moments[1:, 1:]).sum())
