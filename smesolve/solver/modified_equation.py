"""The stochastic modified equation (SME) of dropout as an SDE that torchsde takes as it is.

    (1)  dTheta = b dt + sqrt(lr) C dW,                b = -grad L_S
    (2)  dTheta = (b + lr b1) dt + sqrt(lr) C dW,      b1 = -1/2 (Db) b = -1/2 Hess L_S grad L_S

with C C^T = Cov(grad R_S(.; eta)) exactly; the drift of (2) is -grad(L_S + lr/4 |grad L_S|^2). On a fixed
horizon |E g(theta_k) - E g(Theta_{k lr})| = O(lr^order).

A third equation resums the powers of lr that a quadratic L_S with Hessian H produces, z = lr H:

    (3)  dTheta = phi(z) b dt + sqrt(lr) S(z) C dW,    phi = -log(1 - z)/z,   S^2 = 2 log(1 - z)/(z (z - 2)).

For quadratic L_S its mean equals the mean of the iteration at every step, exactly. If the noise does not depend on
theta, so does each variance along an eigenvector of H. Covariances between two eigenvectors would need
log(w)/(w - 1), with w = (1 - z_1)(1 - z_2), in place of S(z_1) S(z_2), which differs in second order of z_1 - z_2. As
the covariance matrix would then not be positive for every C, no SDE is exact in law in general. H is taken at the
current Theta, by Lanczos' method. The equation needs lr lambda_max(H) < 1; otherwise its paths are not finite.

Under a schedule b depends on time (`smesolve.problem.schedule`), and b1 has one more term:

    (4)  b1 = -1/2 ((Db) b + d_t b).

For another training step theta + lr F + lr^2 F2 + ... than gradient descent (`Problem.step`: momentum, Adam, ...), the
equations hold with b = E F, Sigma = Cov F, and

    (5)  b1 = E F2 - 1/2 ((Db) b + d_t b).

No diffusion has order 3. The equation of order 3, and the equation of training steps at random times ("poisson"), have
jumps at rate 1/lr (`smesolve.solver.jumps`): `smesolve.solve` integrates them, torchsde cannot.

Sources: Li, Tai, E (JMLR 20(40), 2019), theorem 9; Zhang, Li, Luo, Xu (ICLR 2024), eq. 8 and theorem 1; for the third
equation the Hessian-aware SME (arXiv 2405.18373).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.definition import check_derivatives
from smesolve.problem.differentiable_masks import with_differentiable_keep_prob
from smesolve.problem.differentiable_scalar import as_scalar, checked_scalar, value_of
from smesolve.problem.linearization import Linearization
from smesolve.problem.problem import Problem
from smesolve.solver.jumps import JumpDynamics, Poissonised, ThirdOrder
from smesolve.solver.lanczos import apply_function
from smesolve.solver.orders import WITH_JUMPS, Order
from smesolve.validation import check_flag, check_positive, check_problem, check_weak_order

__all__ = ["ModifiedEquation"]

MOST_DENSE = 2**16
"""Largest number of entries, D x M, of a dense noise matrix of one path."""

FORMULAS: dict[Order, str] = {
    1: r"-\nabla L_S(\Theta)\, dt + \sqrt{\varepsilon}\, C(\Theta)\, dW",
    2: (
        r"-\nabla \big( L_S + \tfrac{\varepsilon}{4} |\nabla L_S|^2 \big)(\Theta)\, dt "
        r"+ \sqrt{\varepsilon}\, C(\Theta)\, dW"
    ),
    "quadratic": (
        r"z^{-1} \log(1 - z)\, \nabla L_S(\Theta)\, dt + \sqrt{\varepsilon}\, "
        r"\sqrt{2 \log(1 - z) / (z (z - 2))}\, C(\Theta)\, dW,\quad z = \varepsilon\, \mathrm{Hess}\, L_S(\Theta)"
    ),
    3: (
        r"(b + \varepsilon b_1 + \varepsilon^2 b_2)(\Theta)\, dt - \varepsilon\, "
        r"(\xi + \varepsilon \xi_1)(\Theta; \eta)\, dN,\quad b = -\nabla L_S,\; N \text{ of rate } 1/\varepsilon"
    ),
    "poisson": r"-\varepsilon\, \nabla R_S(\Theta; \eta)\, dN,\quad N \text{ of rate } 1/\varepsilon",
}
"""(1), (2), (3) and the equations with jumps in LaTeX. epsilon is the learning rate."""


class ModifiedEquation(nn.Module):
    """The stochastic modified equation of `problem` at learning rate `lr`, in the time t = k lr.

    It is matrix-free: it forms no D x M factor, and by default it has no `g`, of which torchsde's contract check would
    make a dense array. `torchsde.sdeint` therefore needs a Brownian motion, `bm=`, to know M.

    Args:
        problem: the problem to be trained. Without a closed form, only gradient schemes ("svag", "sampled_euler")
            integrate the equation.
        lr: learning rate: a number, or a differentiable tensor of shape () (not at order 3 or "poisson").
        order: 1, 2 or "quadratic" for a diffusion; 3 for an equation with jumps, if the mean gradient has a closed
            form; or "poisson" for training steps at the times of a Poisson process.
        dense: whether the equation also has the method `g`, sqrt(lr) C as a matrix (B, D, M), which torchsde needs for
            `sdeint_adjoint`, for example. For order 1 or 2 of small problems with linear noise.
        keep_prob: keep_prob of the equation in place of the problem's, for a `DropoutProblem`: a number, or a
            differentiable tensor of shape (). Default: the problem's.

    Raises:
        SmesolveError: the order is unknown, or does not exist for a schedule, a problem without closed form or a step
            other than gradient descent; a dense noise is too large, or the noise not linear; keep_prob is given for
            another problem; or lr or keep_prob is a tensor for an equation with jumps.
    """

    noise_type = "general"
    sde_type = "ito"

    @entry_point
    def __init__(
        self,
        problem: Problem,
        lr: float | Tensor,
        order: Order = 2,
        dense: bool = False,
        keep_prob: float | Tensor | None = None,
    ) -> None:
        super().__init__()
        self._undifferentiated: Problem = check_problem("problem", problem)
        self.problem = problem
        self.lr = checked_scalar("lr", lr, check_positive)
        self.order = check_weak_order("order", order)
        self.keep_prob = keep_prob
        if keep_prob is not None:
            self.problem = with_differentiable_keep_prob(problem, keep_prob)
        for name, value in (("lr", lr), ("keep_prob", keep_prob)):
            if order in WITH_JUMPS and isinstance(value, Tensor):
                raise SmesolveError(
                    f"{name} is a tensor, but paths of order={order!r} jump at random times and have no derivative in "
                    f"it; give a number, or take order=2."
                )
        if order == "quadratic" and not problem.autonomous:
            raise SmesolveError(
                f"order='quadratic' resums the steps of one loss, but this {type(problem).__name__} changes with time; "
                "take order=2."
            )
        if order in ("quadratic", 3) and not (problem.conservative and problem.linear_step):
            raise SmesolveError(
                f"order={order!r} is made for the steps of gradient descent, but {problem!r} has others; take order=2."
            )
        if order in WITH_JUMPS and not problem.autonomous:
            raise SmesolveError(
                f"order={order!r} has jumps of one law, but this {type(problem).__name__} changes with time; take "
                "order=2."
            )
        if order == 3 and not problem.has_closed_form:
            raise SmesolveError(
                f"order=3 needs the mean gradient in closed form, which this {type(problem).__name__} does not have; "
                "take order='poisson', or order=2 with scheme='svag'."
            )
        if check_flag("dense", dense):
            self._check_dense()
            self.g = self._dense_noise

    def check_start(self, name: str, theta0: Tensor, jumps: bool) -> None:
        """Refuse a start (D,) at which the equation does not exist, or near which it has no derivatives.

        Args:
            name: name of the start in messages.
            theta0: (D,).
            jumps: whether the equation is solved from jump to jump.
        """
        if not jumps:
            self.problem.check_start(name, theta0)
        if self.order not in (1, "poisson"):  # whose drift and jumps take no derivative of a gradient
            check_derivatives(self.problem.at(0.0), theta0)

    def extra_repr(self) -> str:
        """Return the text in parentheses of torch's representation of a module."""
        return f"{self.problem!r}, lr={float(self.lr):g}, order={self.order!r}"

    def detached(self) -> ModifiedEquation:
        """Return the equation with numbers in place of differentiable tensors."""
        if type(self) is not ModifiedEquation or not any(isinstance(v, Tensor) for v in (self.lr, self.keep_prob)):
            return self
        keep_prob = None if self.keep_prob is None else value_of(self.keep_prob)
        return ModifiedEquation(self._undifferentiated, value_of(self.lr), self.order, hasattr(self, "g"), keep_prob)

    def _check_dense(self) -> None:
        problem = self.problem
        if self.order not in (1, 2) or not problem.has_closed_form or not problem.linear_noise:
            raise SmesolveError(
                f"dense=True is for order 1 or 2 of a problem whose noise is linear in its normals, got order "
                f"{self.order!r} of {problem!r}; leave it out."
            )
        if problem.dim * problem.noise_dim > MOST_DENSE:
            raise SmesolveError(
                f"dense=True would make {problem.dim} x {problem.noise_dim} numbers for each path, more than "
                f"{MOST_DENSE}; leave it out, as solve and torchsde.sdeint do without."
            )

    def _dense_noise(self, t: Any, y: Tensor) -> Tensor:
        """Return sqrt(lr) C(y), (B, D, M)."""
        noise: Tensor = as_scalar(self.lr**0.5) * self.problem.at(t).noise_factor(y)
        return noise

    @property
    def jumps(self) -> JumpDynamics | None:
        """The flow between jumps, and the jumps; None for a diffusion."""
        if self.order == 3:
            return ThirdOrder(self.problem, self.lr)
        return Poissonised(self.problem, self.lr) if self.order == "poisson" else None

    def _repr_latex_(self) -> str:
        values = rf"\quad \varepsilon = {value_of(self.lr):g},\; D = {self.problem.dim},\; M = {self.noise_dim}"
        return rf"$\displaystyle d\Theta = {FORMULAS[self.order]},{values}$"

    @property
    def noise_dim(self) -> int:
        """M."""
        return self.problem.noise_dim

    @property
    def block_size(self) -> int:
        """Number of paths in a block."""
        return self.problem.block_size

    # --- the SDE as torchsde takes it --------------------------------------------------------------------------------

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Return the drift (B, D). Cost: one gradient at order 1, three at order 2, 60 for "quadratic"."""
        self._check_diffusion()
        return self.drift(t, y)

    def g_prod(self, t: Any, y: Tensor, v: Tensor) -> Tensor:
        """Return sqrt(lr) C(y) v, (B, D) from (B, M). Cost: one and a half gradients, 60 for "quadratic"."""
        self._check_diffusion()
        at = self.problem.at(t).linearize(y)
        return self._noise(at, at.noise_product(v))

    def f_and_g_prod(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return `f` and `g_prod` with one forward pass."""
        self._check_diffusion()
        leading, noise, correction = self.parts(t, y, v)
        return leading if correction is None else leading + correction, noise

    def _check_diffusion(self) -> None:
        if self.order in WITH_JUMPS:
            raise SmesolveError(
                f"order={self.order!r} is an equation with jumps, which torchsde cannot integrate; call sme.solve."
            )

    # --- its parts, for schemes --------------------------------------------------------------------------------------

    def drift(self, t: Any, y: Tensor, left_limit: bool = False) -> Tensor:
        """Return the drift at t, or just before it: (B, D). With jumps, it is the drift between them."""
        if self.order == 3:
            return ThirdOrder(self.problem, self.lr).drift(y)
        if self.order == "poisson":
            return torch.zeros_like(y)
        at = self.problem.at(t, left_limit).linearize(y)
        leading = -at.mean_gradient()
        return leading if self.order == 1 else leading + self._correction(t, at, leading, left_limit)

    def leading_drift(self, t: Any, y: Tensor, left_limit: bool = False) -> Tensor:
        """Return b(y) = -grad L_S(y) at t, or just before it: (B, D)."""
        return -self.problem.at(t, left_limit).mean_gradient(y)

    def correction(self, t: Any, y: Tensor, left_limit: bool = False) -> Tensor:
        """Return the drift minus b(y) at t, or just before it, which is lr b1 at order 2: (B, D)."""
        if self.order == 1:
            return torch.zeros_like(y)
        at = self.problem.at(t, left_limit).linearize(y)
        return self._correction(t, at, -at.mean_gradient(), left_limit)

    def parts(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return b(y), sqrt(lr) C(y) v, and the drift minus b(y) or None at order 1, with one forward pass."""
        at = self.problem.at(t).linearize(y)
        if self.order == 2:
            mean, noise, curvature = at.evaluate(_mean_noise_and_curvature, v)
            return -mean, self._noise(at, noise), self._half(t, y, -curvature, False)
        mean, noise = at.evaluate(_mean_and_noise, v)
        return -mean, self._noise(at, noise), None if self.order == 1 else self._correction(t, at, -mean, False)

    def euler_advance(self, t: Any, y: Tensor, dt: float, v: Tensor) -> Tensor:
        """Return y + dt f(y) + sqrt(lr) C(y) v. At order 1 one pullback computes both, at the cost of the noise."""
        if self.order == 1 and not isinstance(self.lr, Tensor):
            root = float(self.lr**0.5)
            return self.problem.at(t).linearize(y).noisy_step(v, -dt / root, root)
        drift, noise = self.f_and_g_prod(t, y, v)
        return y + (dt * drift + noise)

    def small_noise_rk4(self, y: Tensor, dt: float, dW: Tensor, split: bool) -> tuple[Tensor, ...] | None:
        """Return a whole step of that scheme by one kernel, with `split` also its prediction and noise, or None."""
        if self.order == "quadratic" or not self.problem.autonomous or isinstance(self.lr, Tensor):
            return None
        return self.problem.small_noise_rk4(y, dW, self.order, self.lr, dt, split)

    @property
    def has_pullbacks(self) -> bool:
        """Whether compiled kernels compute the Hessian products in `leading_pullback` and `correction_pullback`."""
        return self.order in (1, 2) and self.problem.autonomous and self.problem.in_threads

    def leading_pullback(self, t: Any, y: Tensor, vectors: Tensor, left_limit: bool = False) -> Tensor:
        """Return vectors (..., D) times Db at y (..., D), at t or just before it. Cost: one Hessian product each."""
        return -self.problem.at(t, left_limit).adjoint_product(y, vectors)

    def correction_pullback(self, y: Tensor, vectors: Tensor) -> Tensor:
        """Return vectors (..., D) times D(lr b1) at y (..., D), with lr b1 = -lr/2 H g, H = Hess L_S and g = grad L_S.

        As H is symmetric, this is -lr/2 (D^3 L_S[g] + H H) vector. Cost: a third derivative and two Hessian products.
        """
        if self.order == 1:
            return torch.zeros_like(vectors)
        problem = self.problem
        g = problem.mean_gradient(y).expand_as(vectors)
        curved = problem.third_derivative(y.expand_as(vectors), g, vectors)
        pulled: Tensor = -self.lr / 2 * (curved + problem.hessian_product(y, problem.hessian_product(y, vectors)))
        return pulled

    def _correction(self, t: Any, at: Linearization, leading: Tensor, left_limit: bool) -> Tensor:
        if self.order == "quadratic":
            return self._resummed(at, leading, lambda z: -torch.log1p(-z) / z) - leading  # (3)
        return self._half(t, at.theta, at.hessian_product(leading), left_limit)

    def _half(self, t: Any, y: Tensor, curvature: Tensor, left_limit: bool) -> Tensor:
        """Return lr b1 from Hess L_S b, which is -(Db) b."""
        if not self.problem.autonomous:
            curvature = curvature - self.problem.drift_slope(t, y, left_limit)  # (4)
        correction: Tensor = self.lr / 2 * curvature  # (2)
        if self.problem.linear_step:
            return correction
        correction = correction + self.lr * self.problem.at(t, left_limit).mean_second_term(y)  # (5)
        return correction

    def _noise(self, at: Linearization, product: Tensor) -> Tensor:
        if self.order == "quadratic":
            product = self._resummed(at, product, lambda z: (2 * torch.log1p(-z) / (z * (z - 2))).sqrt())  # (3)
        noise: Tensor = as_scalar(self.lr**0.5) * product
        return noise

    def _resummed(self, at: Linearization, vector: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return f(lr H(y)) vector for a function with f(0) = 1."""

        def at_zero_too(values: Tensor) -> Tensor:
            z = self.lr * values
            small = z.abs() < 1e-8
            return torch.where(small, 1 + z / 2, function(torch.where(small, 0.5, z)))

        return apply_function(at.hessian_product, vector, at_zero_too)


def _mean_and_noise(at: Linearization, normals: Tensor) -> tuple[Tensor, Tensor]:
    return at.mean_gradient(), at.noise_product(normals)


def _mean_noise_and_curvature(at: Linearization, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return at.mean_noise_and_curvature(normals)
