"""The stochastic modified equation (SME) of dropout as an SDE that torchsde takes as it is.

    order 1:  dTheta = b dt + sqrt(lr) C dW,                b = -grad L_S
    order 2:  dTheta = (b + lr b1) dt + sqrt(lr) C dW,      b1 = -1/2 (Db) b, that is -grad(L_S + lr/4 |grad L_S|^2)

with C C^T = Cov(grad R_S(.; eta)) exactly. On a fixed horizon |E g(theta_k) - E g(Theta_{k lr})| = O(lr^order).

Sources: Li, Tai, E (JMLR 20(40), 2019), theorem 9; Zhang, Li, Luo, Xu (ICLR 2024), eq. 8 and theorem 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from smesolve.problem.iteration import check_lr
from smesolve.problem.problem import Problem

__all__ = ["ModifiedEquation", "check_order"]


def check_order(order: int) -> None:
    """Refuse orders for which no Brownian SDE exists."""
    if order not in (1, 2):
        raise ValueError(
            f"order must be 1 or 2, got {order!r}: from order 3 on the third cumulant of the mask noise enters, "
            "which no Brownian SDE has."
        )


class ModifiedEquation(nn.Module):
    """The SME of `problem` at learning rate `lr`; time t = k lr.

    Matrix-free: no D x M factor is formed, and `g` is deliberately absent (torchsde would materialise it for its
    contract check), so `torchsde.sdeint` needs a Brownian motion, `bm=`, to know M.

    Args:
        problem: what is trained; where it is not `exact`, only schemes that take gradients integrate the equation.
        lr: learning rate.
        order: weak order, 1 or 2.
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, problem: Problem, lr: float, order: int = 2) -> None:
        super().__init__()
        check_lr(lr)
        check_order(order)
        self.problem, self.lr, self.order = problem, lr, order

    @property
    def noise_dim(self) -> int:
        """M."""
        return self.problem.noise_dim

    @property
    def block_size(self) -> int:
        """Paths that are run together."""
        return self.problem.block_size

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Drift (B, D). Cost: one gradient at order 1, about 4.5 at order 2."""
        leading = self.leading_drift(t, y)
        return leading if self.order == 1 else leading + self.correction(t, y, leading)

    def g_prod(self, t: Any, y: Tensor, v: Tensor) -> Tensor:
        """sqrt(lr) C(y) v: (B, D) from (B, M). Cost: about one and a half gradients."""
        return self.lr**0.5 * self.problem.noise_product(y, v)

    def f_and_g_prod(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`f` and `g_prod` with one forward pass."""
        leading, noise = self.leading_drift_and_g_prod(t, y, v)
        return (leading if self.order == 1 else leading + self.correction(t, y, leading)), noise

    def leading_drift(self, t: Any, y: Tensor) -> Tensor:
        """b(y) = -grad L_S(y): (B, D)."""
        return -self.problem.mean_gradient(y)

    def leading_drift_and_g_prod(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """b(y) and sqrt(lr) C(y) v with one forward pass."""
        mean, noise = self.problem.mean_gradient_and_noise_product(y, v)
        return -mean, self.lr**0.5 * noise

    def correction(self, t: Any, y: Tensor, leading: Tensor) -> Tensor | None:
        """lr b1(y) = -lr/2 (Db) b, given b(y): one Hessian product. None at order 1."""
        if self.order == 1:
            return None
        return self.lr / 2 * self.problem.hessian_product(y, leading)
