"""The stochastic modified equation (SME) of dropout as an SDE that torchsde takes as it is.

    order 1:  dTheta = b dt + sqrt(lr) C dW,                b = -grad L_S
    order 2:  dTheta = (b + lr b1) dt + sqrt(lr) C dW,      b1 = -1/2 (Db) b, that is -grad(L_S + lr/4 |grad L_S|^2)

with C C^T = Cov(grad R_S(.; eta)) exactly. On a fixed horizon |E g(theta_k) - E g(Theta_{k lr})| = O(lr^order).

A third equation resums the powers of lr that a quadratic L_S with Hessian H produces, z = lr H:

    quadratic:  dTheta = phi(z) b dt + sqrt(lr) S(z) C dW,   phi = -log(1 - z)/z,   S^2 = 2 log(1 - z)/(z (z - 2)).

For quadratic L_S its mean is that of the iteration at every step, exactly, and so is, for noise that does not depend
on theta, each variance along an eigenvector of H. Covariances of two eigenvectors would need log(w)/(w - 1), with
w = (1 - z_1)(1 - z_2), in place of S(z_1) S(z_2), which differs in second order of z_1 - z_2; with it the covariance
matrix is not positive for every C, so no SDE is exact in law in general. H is taken at the current Theta, by Lanczos;
it needs lr lambda_max(H) < 1, beyond which a path is not finite.

Under a schedule b depends on time, see `smesolve.problem.schedule`: b1 has the further term -1/2 d_t b.

Sources: Li, Tai, E (JMLR 20(40), 2019), theorem 9; Zhang, Li, Luo, Xu (ICLR 2024), eq. 8 and theorem 1; for the third
equation the Hessian-aware SME (arXiv 2405.18373).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.problem.problem import Problem
from smesolve.solver.lanczos import apply_function

__all__ = ["ModifiedEquation", "Order", "check_order"]


Order = int | Literal["quadratic"]
"""Weak order 1 or 2, or the equation that resums quadratic losses (weak order 2 in its mean, 1 in general)."""


def check_order(order: Order) -> None:
    """Refuse orders for which no Brownian SDE exists."""
    if order not in (1, 2, "quadratic"):
        raise SmesolveError(
            f"order must be 1 or 2, or 'quadratic', got {order!r}: from order 3 on the third cumulant of the mask "
            "noise enters, which no Brownian SDE has."
        )


class ModifiedEquation(nn.Module):
    """The SME of `problem` at learning rate `lr`; time t = k lr.

    Matrix-free: no D x M factor is formed, and `g` is deliberately absent (torchsde would materialise it for its
    contract check), so `torchsde.sdeint` needs a Brownian motion, `bm=`, to know M.

    Args:
        problem: what is trained; where it is not `exact`, only schemes that take gradients integrate the equation.
        lr: learning rate.
        order: weak order, 1 or 2, or "quadratic".

    Raises:
        SmesolveError: another order, or "quadratic" under a schedule.
    """

    noise_type = "general"
    sde_type = "ito"

    @checked
    def __init__(self, problem: Problem, lr: float, order: Order = 2) -> None:
        super().__init__()
        check_order(order)
        if order == "quadratic" and not problem.autonomous:
            raise SmesolveError(
                f"order='quadratic' resums the steps of one loss, but this {type(problem).__name__} changes with time; "
                "take order=2."
            )
        self.problem: Any = problem
        self.lr, self.order = lr, order

    @property
    def noise_dim(self) -> int:
        """M."""
        return self.problem.noise_dim

    @property
    def block_size(self) -> int:
        """Paths that are run together."""
        return self.problem.block_size

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Drift (B, D). Cost: one gradient at order 1, about 3 at order 2, 60 for "quadratic"."""
        leading = self.leading_drift(t, y)
        more = self.correction(t, y, leading)
        return leading if more is None else leading + more

    def g_prod(self, t: Any, y: Tensor, v: Tensor) -> Tensor:
        """sqrt(lr) C(y) v: (B, D) from (B, M). Cost: about one and a half gradients, 60 for "quadratic"."""
        return self._noise(t, y, self.problem.at(t).noise_product(y, v))

    def f_and_g_prod(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`f` and `g_prod` with one forward pass."""
        leading, noise, correction = self.parts(t, y, v)
        return leading if correction is None else leading + correction, noise

    def euler_increment(self, t: Any, y: Tensor, dt: float, v: Tensor) -> Tensor:
        """dt f(y) + sqrt(lr) C(y) v, at order 1 by one pullback for both. Cost at order 1: that of the noise alone."""
        if self.order == 1:
            root = self.lr**0.5
            return root * self.problem.at(t).drift_and_noise(y, v, -dt / root)
        drift, noise = self.f_and_g_prod(t, y, v)
        return dt * drift + noise

    def leading_drift(self, t: Any, y: Tensor) -> Tensor:
        """b(y) = -grad L_S(y): (B, D)."""
        return -self.problem.at(t).mean_gradient(y)

    def parts(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """b(y), sqrt(lr) C(y) v and what the drift has beyond b(y), None at order 1; with one forward pass."""
        problem = self.problem.at(t)
        if self.order == 2:
            mean, noise, bend = problem.mean_gradient_noise_product_and_bend(y, v)
            return -mean, self._noise(t, y, noise), self._half_bend(t, y, -bend)
        mean, noise = problem.mean_gradient_and_noise_product(y, v)
        return -mean, self._noise(t, y, noise), self.correction(t, y, -mean)

    def correction(self, t: Any, y: Tensor, leading: Tensor) -> Tensor | None:
        """What the drift has beyond b(y), given b(y): lr b1 from one Hessian product at order 2; None at order 1."""
        if self.order == 1:
            return None
        if self.order == "quadratic":
            return self._resummed(t, y, leading, lambda z: -torch.log1p(-z) / z) - leading
        return self._half_bend(t, y, self.problem.at(t).hessian_product(y, leading))

    def _half_bend(self, t: Any, y: Tensor, bend: Tensor) -> Tensor:
        """lr b1 from Hess L_S b."""
        if not self.problem.autonomous:
            bend = bend - self.problem.drift_slope(t, y)
        return self.lr / 2 * bend

    def _noise(self, t: Any, y: Tensor, product: Tensor) -> Tensor:
        if self.order == "quadratic":
            product = self._resummed(t, y, product, lambda z: (2 * torch.log1p(-z) / (z * (z - 2))).sqrt())
        return self.lr**0.5 * product

    def _resummed(self, t: Any, y: Tensor, vector: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """f(lr H(y)) vector for a function with f(0) = 1."""
        problem = self.problem.at(t)

        def at_zero_too(values: Tensor) -> Tensor:
            z = self.lr * values
            small = z.abs() < 1e-8
            return torch.where(small, 1 + z / 2, function(torch.where(small, 0.5, z)))

        return apply_function(lambda direction: problem.hessian_product(y, direction), vector, at_zero_too)
